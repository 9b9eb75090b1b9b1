"""Draws the figures of the pages: `python docs/figures.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from implicitrm_sk import ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import IdentificationDisplay

IMAGES = Path(__file__).parent / "images"
# One panel below the other, in letters that stay legible on a telephone.
READABLE = {"font.size": 12, "axes.titlesize": 13, "legend.fontsize": 11}


def identification():
    """Draw the range of the reward on one signal above that on three."""
    X, digit = load_digits(return_X_y=True)
    actions = simulate_feedback((digit >= 5).astype(int), X=X, n_signals=3, random_state=0).actions[
        :1300
    ]
    with plt.rc_context(READABLE):
        figure, axes = plt.subplots(2, figsize=(6.4, 9), layout="constrained")
        for axis, y, name in zip(
            axes, (actions[:, 0], actions), ("one signal", "three signals"), strict=True
        ):
            report = identification_report(ImplicitRewardEstimator(random_state=0), X[:1300], y)
            IdentificationDisplay.from_report(report, ax=axis)
            axis.set_title(f"{name}: {axis.get_title().lower()}")
        figure.savefig(IMAGES / "identification.png", dpi=110)


def equal_likelihood():
    """Draw rewards that differ, and the share of actions that each predicts, which does not."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-3, 3, size=20_000))
    reward, propensity = 1 / (1 + np.exp(-1.5 * x)), 1 / (1 + np.exp(1.2 * x - 1.5))
    acted = rng.random(len(x)) < reward * propensity
    product = reward * propensity
    # Every pair of reward and propensity with this product predicts the same.
    pairs = {
        "the truth": (reward, propensity, "black", "-"),
        "reward and propensity exchanged": (propensity, reward, "#d55e00", "--"),
        "even split: both the square root": (product**0.5, product**0.5, "#0072b2", "-."),
        "no action is a dislike": (product, np.ones_like(x), "#009e73", ":"),
    }
    with plt.rc_context(READABLE):
        figure, (above, below) = plt.subplots(2, figsize=(6.4, 9.6), layout="constrained")
        for name, (R, A, colour, style) in pairs.items():
            likelihood = np.where(acted, np.log(R * A), np.log1p(-R * A)).mean()
            above.plot(x, R, style, color=colour, linewidth=2.5, label=name)
            below.plot(x, R * A, style, color=colour, linewidth=2.5, label=f"{likelihood:.4f}")
        shares = acted.reshape(40, -1).mean(axis=1)
        middles = x.reshape(40, -1).mean(axis=1)
        below.plot(middles, shares, "o", color="grey", zorder=0, label="the log")
        above.set(title="Four rewards ...", ylabel="reward", xlabel="response, by its feature x")
        below.set(title="... one likelihood", ylabel="share of actions", xlabel=above.get_xlabel())
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "frameon": False}
        above.legend(ncols=2, columnspacing=1, **place)
        below.legend(ncols=3, title="log-likelihood per response", **place)
        for axis in (above, below):
            axis.set_ylim(0, 1)
        figure.savefig(IMAGES / "equal_likelihood.png", dpi=110)


if __name__ == "__main__":
    equal_likelihood()
    identification()
