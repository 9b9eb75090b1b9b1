"""
Write your own objective
========================

A method that learns from feedback is one class with one method, `loss`. It gets the logits of the
two networks, one for the reward and one for the propensity. Everything else is shared: training,
early stopping, grid search, saving.
"""

# %%
# Assume that an audit has found a share c: users copy this share of the responses that they like,
# whatever the response. Then P(copied | x) = c R(x), and the reward R follows without a second
# signal. The loss is the negative log-likelihood of this model.
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
    """Likelihood of actions if users act on a known share of the preferred responses."""

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
# In the first log the assumption holds. In the second one the share depends on the response, with
# the same mean.
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
# If its assumption holds, the new method corrects most errors of the naive one. If not, it corrects
# less: a rate that is right on average is then wrong for each response.
import pandas as pd

frame = pd.DataFrame(rows)
display = MethodComparisonDisplay.from_frame(frame, score="R2", by="log")
print(frame.groupby(["log", "method"])["R2"].mean().round(2).unstack())

# %%
# Early stopping, several networks (members) and their learning curves come with the base class:
_ = TrainingCurveDisplay.from_estimator(est)

# %%
# `objective__rate` is an ordinary parameter of a grid:
print(est.get_params()["objective__rate"], est.set_params(objective__rate=0.3).objective)
