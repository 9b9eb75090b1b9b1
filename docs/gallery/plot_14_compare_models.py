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
# The raw rates favour A: it is copied and shared more often, and regenerated less often. The mean
# rewards favour B. Black marks are the true means, and both lie in the intervals.
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
# returns bounds. They hold for every propensity, if the signs of the actions are right.
pair = {"copied": "positive", "regenerated": "negative"}
two = ImplicitRewardEstimator(signals=pair, learning_rate_init=0.01, random_state=0)
bounded = compare_groups(two, X, log.actions[list(pair)], model, reference="A")
print(bounded)
left, right = bounded.plot()
_ = right.plot(truth, [0, 1], "k|", markersize=18)

# %%
# A ratio compares two propensities: of the negative action, and of the positive one. If it were
# known, the pair would be enough. The report fits the log once for each of several ratios. Hollow
# marks are ratios that rows outside the fit reject. The curve is the mean of B minus that of A.
#
# Here it is below 0 at every ratio, though the truth is above 0. The report takes one ratio for all
# rows, and here it is 0.4 / 0.65 for A and 0.8 / 0.35 for B. So log a second positive action.
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
