"""Draws the figures of the user guide: `python docs/figures.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
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


if __name__ == "__main__":
    identification()
