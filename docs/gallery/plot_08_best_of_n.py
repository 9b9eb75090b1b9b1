"""
Best of n, and its curse
========================

Sample n answers, return the one with the highest reward: the simplest use of a reward model, and
the one that finds its errors soonest, since the highest of many rewards is often one that is
wrong. How good is the chosen answer, truly, as n grows?
"""

# %%
# Three rewards are learned from the same users: the classifier of copies, the estimator of two
# signals, and a network given all labels. Candidates are drawn from held-out digits.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.integrations import rank

X, digit = load_digits(return_X_y=True)
# Nearly all users like the upper digits, and few the lower ones.
log = simulate_feedback(np.where(digit >= 7, 0.9, 0.1), X=X, n_signals=2, slope=3, random_state=0)
train, test = train_test_split(np.arange(len(X)), test_size=0.5, random_state=0)
settings = {"learning_rate_init": 0.003, "random_state": 0}
models = {
    "classifier of copies": ImplicitRewardEstimator("naive", **settings).fit(
        X[train], log.actions[train, 0]
    ),
    "two signals": ImplicitRewardEstimator(**settings).fit(X[train], log.actions[train]),
    "all labels": ImplicitRewardEstimator("naive", **settings).fit(
        X[train], log.true_preference[train]
    ),
}

# %%
# `rank` takes prompt and texts, or vectors, and with `pessimism` takes off some of the spread over
# the members.
ranking = rank(models["two signals"], None, X[test[:8]], pessimism=1.0)
print("order of eight candidates:", *ranking.order)
print("their digits:", *digit[test[:8]][ranking.order])

# %%
# The share of users who like the chosen answer
# ---------------------------------------------
# Mean over 2,000 prompts with n random candidates each.
sizes = (1, 2, 4, 8, 16, 32)
rng = np.random.default_rng(0)
draws = rng.integers(len(test), size=(2000, max(sizes)))
figure, ax = plt.subplots(layout="constrained")
looks = zip(("s--", "o-", "^:"), ("#D55E00", "#0072B2", "black"), strict=True)
for (name, model), (look, colour) in zip(models.items(), looks, strict=True):
    mean, spread = model.predict(X[test], return_std=True)
    liked = []
    for n in sizes:
        chosen = draws[np.arange(len(draws)), mean[draws[:, :n]].argmax(axis=1)]
        liked.append(log.reward[test][chosen].mean())
    ax.plot(sizes, liked, look, color=colour, label=name)
    print(f"{name:22}", *(f"{value:.3f}" for value in liked))
ax.axhline(0.9, color="0.6", linewidth=0.8)
ax.set_xscale("log", base=2)
ax.set(xlabel="n, candidates per prompt", ylabel="users who like the chosen answer", xticks=sizes)
ax.set_xticklabels(sizes)
_ = ax.legend()

# %%
# The grey line is the best that can be had. A reward that is wrong about which answers are liked,
# because it is a reward for being copied, is wrong most where one selects hardest.
