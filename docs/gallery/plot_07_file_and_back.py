"""
From the log to a file and back
===============================

A saved model is often loaded by people who did not train it. `save` writes settings as JSON and
arrays as safetensors, with hashes and a model card. It does not write code, so opening a file runs
nothing.
"""

# %%
# The log comes from a data warehouse. It is a parquet file with one row per response. A cell is
# empty if the signal was not logged: sharing came in the second half of the year.
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from implicitrm_sk import ImplicitRewardEstimator, ModelFileError
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import StratificationDisplay

folder = Path(tempfile.mkdtemp())
X, digit = load_digits(return_X_y=True)
simulated = simulate_feedback((digit >= 5).astype(int), X=X, n_signals=2, random_state=0)
frame = pd.DataFrame(X, columns=[f"pixel{i}" for i in range(64)])
frame[["copied", "shared"]] = simulated.actions.astype(float)
frame["month"] = np.repeat(np.arange(1, 13), 150)[: len(X)]
frame.loc[frame["month"] <= 6, "shared"] = np.nan
frame.to_parquet(folder / "log.parquet")

# %%
# Fit, save, load
# ---------------
log = pd.read_parquet(folder / "log.parquet")
pixels, actions = log.filter(like="pixel"), log[["copied", "shared"]]
train, test = train_test_split(np.arange(len(log)), random_state=0)
est = ImplicitRewardEstimator(learning_rate_init=0.003, random_state=0)
est.fit(pixels.iloc[train], actions.iloc[train])
auroc = roc_auc_score(simulated.true_preference[test], est.predict(pixels.iloc[test]))
est.save(folder / "reward", metrics={"AUROC, held-out quarter of the simulation": auroc})
same = ImplicitRewardEstimator.load(folder / "reward")
print("files:", *sorted(path.name for path in (folder / "reward").iterdir()))
print("the same rewards:", np.array_equal(est.predict(pixels), same.predict(pixels)))
print("the same signals:", list(same.signal_names_in_))

# %%
# The loaded model reads the log as the fitted one did. Once sharing was logged, the share of
# responses with a logged action rose, as if users had begun to like them more. The four groups do
# not move: "active" means that one of the signals would fire, logged or not.
half = np.where(log["month"] > 6, "second half", "first half")
for name, part in actions.groupby(half):
    print(f"{name}: {part.max(axis=1).mean():.0%} with a logged action")
_ = StratificationDisplay.from_estimator(same, pixels, actions, by=half)

# %%
# A damaged file is refused
# -------------------------
# The hash reveals a flipped byte, before anything is built from the file.
path = folder / "reward" / "arrays.safetensors"
content = bytearray(path.read_bytes())
content[-1] ^= 1
path.write_bytes(content)
try:
    ImplicitRewardEstimator.load(folder / "reward")
except ModelFileError as error:
    print(str(error).replace(str(folder), "..."))

# %%
# The hash does not reveal a forger who changes it too. A reward model from a stranger can still be
# a bad one.
