"""Write the models that later versions must be able to read: once per format version.

    python tests/formats/make.py

Beside each model lies a JSON file with what it predicted when it was written.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.persistence._model import FORMAT_VERSION


def write(name, est, X):
    folder = Path(__file__).parent / f"v{FORMAT_VERSION}_{name}"
    if folder.exists():
        raise SystemExit(f"{folder} is there, and is to stay as it is.")
    est.save(folder)
    expected = {
        "X": X.tolist(),
        "reward": est.predict(X).tolist(),
        "action": est.predict_action(X).tolist(),
        "level": est.identification_.level,
        "n_iter": est.n_iter_,
    }
    folder.with_suffix(".json").write_text(json.dumps(expected) + "\n")


def main():
    """Write one model of `fit` and one of `partial_fit`."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)).round(3)
    preferred = X[:, 0] + 0.5 * rng.normal(size=300) > 0
    y = (preferred[:, None] & (rng.uniform(size=(300, 2)) < 0.6)).astype(float)
    settings = {"n_estimators": 2, "hidden_layer_sizes": (3,), "random_state": 0}
    names = pd.DataFrame(X, columns=list("abcd")), pd.DataFrame(y, columns=["copied", "shared"])
    est = ImplicitRewardEstimator(
        max_epochs=5,
        reward_features=["a", "b"],
        propensity_features=slice("b", "d"),
        false_action_rate=[0.0, 0.02],
        signals={"copied": "positive", "shared": "positive"},
        **settings,
    )
    write("fit", est.fit(*names), X[:5])
    est = ImplicitRewardEstimator(**settings)
    write("partial_fit", est.partial_fit(X[:150], y[:150]).partial_fit(X[150:], y[150:]), X[:5])


if __name__ == "__main__":
    main()
