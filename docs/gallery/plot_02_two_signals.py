"""
Two signals replace labels
==========================

Different actions of one user on one response share one preference. Two of them can determine the
reward without a label, as two catches of animals determine how many animals there are. They have
to be independent given the preference, and users have to look at every response. How many labels
are two signals worth, and when do they fail?
"""

# %%
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import MethodComparisonDisplay

X, digit = load_digits(return_X_y=True)
preference = (digit >= 5).astype(int)
settings = {"shared_examination": False, "learning_rate_init": 0.003, "n_estimators": 2}


def r2(y, objective="stratified", rows=None, seed=0):
    """R2 against true preference of a reward learned from y (on some rows)."""
    train, test = train_test_split(np.arange(len(X)), random_state=seed)
    train = train if rows is None else train[:rows]
    est = ImplicitRewardEstimator(objective, random_state=seed, **settings).fit(X[train], y[train])
    return r2_score(preference[test], est.predict(X[test]))


# %%
# Signals against labels
# ----------------------
# The rows "labels" train the same network on the true preference of that many responses. The other
# rows see only what users did. "Any of two" is a classifier of "was it copied or shared?".
scores = {}
for seed in range(3):
    actions = simulate_feedback(preference, X=X, n_signals=2, random_state=seed).actions
    runs = {
        "copied, classifier": r2(actions[:, 0], "naive", seed=seed),
        "any of two, classifier": r2(actions.max(axis=1), "naive", seed=seed),
        "two signals": r2(actions, seed=seed),
        "100 labels": r2(preference, "naive", rows=100, seed=seed),
        "all 1,347 labels": r2(preference, "naive", seed=seed),
    }
    for name, value in runs.items():
        scores.setdefault(name, []).append(value)
display = MethodComparisonDisplay.from_scores(scores, score_name="R2 against true preference")
for name, mean in zip(display.methods, display.mean_[:, 0], strict=True):
    print(f"{name:24} {mean:6.2f}")

# %%
# When it fails
# -------------
# A user who is active in everything breaks the independence. The second action then shows nothing
# that the first one did not. Here a growing share of the users decide all their actions at once.
for share in (0.0, 0.3, 0.6, 0.9):
    log = simulate_feedback(preference, X=X, n_signals=2, shared_activity=share, random_state=0)
    print(f"{share:.0%} of the users act in everything or in nothing: R2 {r2(log.actions):.2f}")

# %%
# There are two remedies. Give the propensity columns that show who is active, such as the user or
# the session (`propensity_features`). Or log a third signal: `identification_report` then tests the
# independence.
