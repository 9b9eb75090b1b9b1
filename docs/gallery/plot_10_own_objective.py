"""
Write your own objective
========================

A method for learning from feedback is one class with one method, `loss`. It gets the logits of
both heads and shares everything else: the heads, the members side by side, early stopping, grids,
pickles.
"""

# %%
# The idea to try: an audit has found that users copy a known share c of what they like, whatever
# it is. Then P(copied | x) = c R(x), and the reward follows without a second signal. The loss is
# the likelihood of that.
import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import MethodComparisonDisplay, TrainingCurveDisplay
from implicitrm_sk.objectives import Objective


class KnownRate(Objective):
    """Likelihood of actions that preferred responses draw at one known rate."""

    single_signal = True  # several signals come reduced to "any logged action"
    models_propensity = False  # no propensity head: it is known
    models_actions = False  # `score` without truth would take the propensity for 1

    def __init__(self, rate=0.5):
        self.rate = rate

    def loss(self, reward_logit, propensity_logit, batch):
        """Minus log likelihood of each member and row, shape (members, rows)."""
        p = self.rate * torch.sigmoid(reward_logit)
        return -torch.where(batch.acted > 0, torch.log(p), torch.log1p(-p))


# %%
# Two logs
# --------
# In one the assumption holds, in the other the share depends on the response, with the same mean.
X, digit = load_digits(return_X_y=True)
preference = (digit >= 5).astype(int)
settings = {"learning_rate_init": 0.003, "n_estimators": 2}
models = {
    "naive": ImplicitRewardEstimator("naive", **settings),
    "known rate": ImplicitRewardEstimator(KnownRate(0.4), **settings),
}
rows = []
for seed in range(3):
    train, test = train_test_split(np.arange(len(X)), random_state=seed)
    for mechanism, options in {
        "one rate": {"propensity": "constant", "rate": 0.4},
        "depends on the response": {"slope": 1.5, "intercept": -0.5},
    }.items():
        log = simulate_feedback(preference, X=X, random_state=seed, **options)
        for name, model in models.items():
            est = clone(model).set_params(random_state=seed).fit(X[train], log.actions[train])
            r2 = est.score(X[test], None, true_preference=preference[test])
            rows.append({"method": name, "log": mechanism, "seed": seed, "R2": r2})

# %%
# The new method repairs most of what the naive one gets wrong where its assumption holds, and less
# where it does not: a rate that is right on average is then wrong for each response.
import pandas as pd

frame = pd.DataFrame(rows)
display = MethodComparisonDisplay.from_frame(frame, score="R2", by="log")
print(frame.groupby(["log", "method"])["R2"].mean().round(2).unstack())

# %%
# Early stopping, members and the learning curve came for free:
_ = TrainingCurveDisplay.from_estimator(est)

# %%
# `objective__rate` is an ordinary parameter of a grid:
print(est.get_params()["objective__rate"], est.set_params(objective__rate=0.3).objective)
