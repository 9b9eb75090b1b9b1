"""
Calibration, and what the spread is not
=======================================

A reward of 0.8 should mean that four of five users prefer the response. If some preferences are
known, the reliability curve shows whether it does. `return_std=True` adds a spread, which is often
read as a confidence interval. This example shows that it is not one.
"""

# %%
# Users disagree here. The higher the digit, the more of them like it, from one in ten to nine in
# ten. So the probability itself is known, and the error of the reward of each row too.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import ReliabilityDisplay

warnings.filterwarnings("ignore", category=IdentificationWarning)
X, digit = load_digits(return_X_y=True)
log = simulate_feedback(0.1 + 0.8 * digit / 9, X=X, n_signals=3, random_state=0)
train, test = train_test_split(np.arange(len(X)), random_state=0)
fits = {
    "one signal": log.actions[train, 0],
    "three signals": log.actions[train],
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for (name, y), marker in zip(fits.items(), "os", strict=True):
    est = ImplicitRewardEstimator(learning_rate_init=0.003, n_estimators=8, random_state=0)
    reward, spread = est.fit(X[train], y).predict(X[test], return_std=True)
    curve = ReliabilityDisplay.from_predictions(
        log.true_preference[test], reward, name=name, n_bins=5, ax=left
    )
    error = np.abs(reward - log.reward[test])
    right.plot(spread, error, marker, color=curve.line_.get_color(), alpha=0.5, ms=4, label=name)
    covered = np.mean(error <= 2 * spread)
    print(
        f"{name}: mean spread {spread.mean():.3f}, mean error {error.mean():.3f}; "
        f"the truth lies within two spreads in {covered:.0%} of the rows"
    )
right.axline((0, 0), slope=2, color="0.4", linestyle="--", label="error = 2 spreads")
right.set(
    xlabel="spread over the members", ylabel="|reward - P(preferred)|", xlim=(0, None), ylim=(0, 1)
)
_ = right.legend()

# %%
# An interval of two standard errors would hold the truth in 95 % of the rows. The spread shows only
# how far the members (the networks of a fit) disagree. They can agree on what is wrong: the
# convention that one signal needs, the assumptions of the model, what too few rows do not show. So
# the spread can rank responses by doubt (see the example on best-of-n), but it is not an interval.
# `identification_report(...).bounds(X)` is the interval that the actions alone leave open.
