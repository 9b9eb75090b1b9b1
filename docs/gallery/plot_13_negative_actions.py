"""
What a negative action adds
===========================

A copy shows that a response is liked, a regeneration that it is not. With one of each, the reward
of a response with features x lies between P(copied | x) and 1 - P(regenerated | x). What does the
negative action add to one positive action, and to two?
"""

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import IdentificationDisplay

warnings.filterwarnings("ignore", category=IdentificationWarning)
X, digit = load_digits(return_X_y=True)
kinds = {"copied": "positive", "regenerated": "negative", "shared": "positive"}
log = simulate_feedback((digit >= 5).astype(int), X=X, signals=kinds, random_state=0)
train, test = np.arange(1300), np.arange(1300, 1797)
truth = log.true_preference[test]

# %%
# The grey area is the range that the actions leave open. With one of each it does not need an
# assumption. With two positive actions it assumes that they fire independently on responses that
# were looked at. It does not assume that all responses were.
figure, axes = plt.subplots(1, 3, figsize=(13, 4.5), layout="constrained", sharey=True)
for columns, ax in zip(
    (["copied"], ["copied", "regenerated"], ["copied", "regenerated", "shared"]), axes, strict=True
):
    est = ImplicitRewardEstimator(
        signals={name: kinds[name] for name in columns}, learning_rate_init=0.003, random_state=0
    )
    actions = log.actions[columns]
    report = identification_report(est, X[train], actions.iloc[train], n_starts=4)
    IdentificationDisplay.from_report(report, ax=ax)
    ax.set_title(f"{', '.join(columns)}:\n{report.level}")
    est.fit(X[train], actions.iloc[train])
    lower, upper = report.bounds(X[test]).T
    print(
        f"{', '.join(columns)}: R2 {est.score(X[test], None, true_preference=truth):.2f}, "
        f"bounds {lower.mean():.2f} to {upper.mean():.2f} on average"
    )

# %%
# A negative action with the wrong sign is worse than none: the model then believes that the
# regenerated responses are liked. `fit` counts how often two signals occur together. It warns if
# the count contradicts their signs.
wrong = ImplicitRewardEstimator(learning_rate_init=0.003, random_state=0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", UserWarning)
    wrong.fit(X[train], log.actions.iloc[train])
print(caught[0].message)
print(f"R2 {wrong.score(X[test], None, true_preference=truth):.2f}: {wrong.identification_}")
print(wrong.identification_.reason)
