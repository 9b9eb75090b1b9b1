"""Draws the figures of the pages: `python docs/figures.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from implicitrm_sk import ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback

IMAGES = Path(__file__).parent / "images"


def identification():
    """Draw the report on one signal above that on three."""
    X, digit = load_digits(return_X_y=True)
    actions = simulate_feedback((digit >= 5).astype(int), X=X, n_signals=3, random_state=0).actions[
        :1300
    ]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for row, y, name in (
        (axes[0], actions[:, 0], "one signal"),
        (axes[1], actions, "three signals"),
    ):
        report = identification_report(ImplicitRewardEstimator(random_state=0), X[:1300], y)
        left, right = report.plot(row)
        left.set_title(f"{name}: {left.get_title().lower()}")
        right.set_title(f"{name}: {right.get_title().lower()}")
    figure.savefig(IMAGES / "identification.png", dpi=90)


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
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for name, (R, A, colour, style) in pairs.items():
        likelihood = np.where(acted, np.log(R * A), np.log1p(-R * A)).mean()
        left.plot(x, R, style, color=colour, linewidth=2.5, label=name)
        right.plot(x, R * A, style, color=colour, linewidth=2.5, label=f"{likelihood:.4f}")
    shares = acted.reshape(40, -1).mean(axis=1)
    right.plot(x.reshape(40, -1).mean(axis=1), shares, "o", color="grey", zorder=0, label="the log")
    left.set(title="Four rewards ...", ylabel="reward", xlabel="response, by its feature x")
    right.set(title="... one likelihood", ylabel="share of actions", xlabel=left.get_xlabel())
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "frameon": False}
    left.legend(ncols=2, fontsize=9, **below)
    right.legend(ncols=3, fontsize=9, title="log-likelihood per response", **below)
    for axis in (left, right):
        axis.set_ylim(0, 1)
    figure.savefig(IMAGES / "equal_likelihood.png", dpi=110)


if __name__ == "__main__":
    equal_likelihood()
    identification()
