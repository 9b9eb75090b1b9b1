"""
Labels on a few responses
=========================

With only one kind of action, a log does not separate reward and propensity. A few explicit labels
do: for example, ask about a random part of the responses. How few labels are enough?
"""

# %%
# The log has copies, and labels of a random part of the responses: 1 preferred, 0 not, NaN unknown.
# `fit` takes them as `labels`. For comparison, the same network is trained on the labels alone.
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import MethodComparisonDisplay

warnings.filterwarnings("ignore", category=IdentificationWarning)
X, digit = load_digits(return_X_y=True)
settings = {"learning_rate_init": 0.003, "n_estimators": 2}
scores = {}
for seed in range(3):
    log = simulate_feedback((digit >= 5).astype(int), X=X, random_state=seed)
    train, test = train_test_split(np.arange(len(X)), random_state=seed)
    order = np.random.default_rng(seed).random(len(train))
    for share in (0, 0.01, 0.05, 0.2):
        label = np.where(order < share, log.true_preference[train], np.nan)
        est = ImplicitRewardEstimator(random_state=seed, **settings)
        est.fit(X[train], log.actions[train], labels=label)
        runs = scores.setdefault(f"copies, {share:.0%} labels", [])
        runs.append(r2_score(log.true_preference[test], est.predict(X[test])))
        if share >= 0.05:
            known = train[~np.isnan(label)]
            # Few labels are too few to hold some out.
            stop = {} if share > 0.05 else {"early_stopping": False, "max_epochs": 50}
            est = ImplicitRewardEstimator("naive", random_state=seed, **settings, **stop)
            est.fit(X[known], log.true_preference[known])
            runs = scores.setdefault(f"{share:.0%} labels alone", [])
            runs.append(r2_score(log.true_preference[test], est.predict(X[test])))

# %%
display = MethodComparisonDisplay.from_scores(scores, score_name="R2 against true preference")
for name, mean in zip(display.methods, display.mean_[:, 0], strict=True):
    print(f"{name:22} {mean:5.2f}")

# %%
# On average labels and actions together do better than either alone. But 1 % of a small log is a
# dozen labels, and those change little: their number counts, not their share. Ask about a *random*
# part of the responses. A thumbs-up button that only satisfied users press is a second signal (a
# column of `y`), not a label.
