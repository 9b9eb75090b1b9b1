"""
Which model do users prefer?
============================

A log has the responses of two models. Users like those of B better, but they copy and share those
of A more readily. Do the raw rates show which model is better? What would reverse the answer?
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import compare_groups, sensitivity_report

rng = np.random.default_rng(0)
X = rng.normal(size=(4000, 4))
model = pd.Series(np.where(rng.random(4000) < 0.5, "A", "B"), name="model")
is_b = (model == "B").to_numpy()
reward = 1 / (1 + np.exp(-1.5 * X[:, 0] - 0.8 * is_b))
signals = {"copied": "positive", "shared": "positive", "regenerated": "negative"}
ready = np.where(is_b[:, None], [0.35, 0.3, 0.8], [0.65, 0.6, 0.4])
log = simulate_feedback(reward, signals=signals, propensity=ready, random_state=0)

# %%
# All three rates favour A. The mean rewards favour B, and their intervals hold the truth (black).
est = ImplicitRewardEstimator(
    signals=signals, shared_examination=False, learning_rate_init=0.01, random_state=0
)
comparison = compare_groups(est, X, log.actions, model, reference="A")
print(comparison)
left, right = comparison.plot()
truth = [reward[~is_b].mean(), reward[is_b].mean()]
_ = right.plot(truth, [0, 1], "k|", markersize=18)

# %%
# With one positive and one negative action the log leaves the answer open. The comparison then
# returns bounds, which do not need an assumption.
pair = {"copied": "positive", "regenerated": "negative"}
two = ImplicitRewardEstimator(signals=pair, learning_rate_init=0.01, random_state=0)
bounded = compare_groups(two, X, log.actions[list(pair)], model, reference="A")
print(bounded)
left, right = bounded.plot()
_ = right.plot(truth, [0, 1], "k|", markersize=18)

# %%
# How readily do users take a negative action, compared with a positive one? If this ratio were
# known, the pair would be enough. Each amount is a ratio, and so another model of the same log.
# Hollow marks are models that rows outside the fit reject. The true ratio is 0.4 / 0.65 for A and
# 0.8 / 0.35 for B. No single ratio is right, and the curve stays below 0 throughout.
report = sensitivity_report(
    two,
    X,
    log.actions[list(pair)],
    model,
    reference="A",
    violations={"ratio": [1 / 4, 1 / 2, 2, 4]},
)
print(report)
report.plot()
plt.show()
