"""
Best of n, and its curse
========================

The simplest use of a reward model is to sample n answers and to return the one with the highest
reward. It also exposes the errors of the model: the highest of many rewards is often a wrong one.
How good is the chosen answer as n grows?
"""

# %%
# Three models learn a reward from the same users: a classifier of copies, the estimator of two
# signals, and a network that gets all labels. Candidates are held-out digits.
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
# `rank` takes a prompt and texts, or vectors. `pessimism` subtracts a part of the spread over the
# networks of the fit.
ranking = rank(models["two signals"], None, X[test[:8]], pessimism=1.0)
print("order of eight candidates:", *ranking.order)
print("their digits:", *digit[test[:8]][ranking.order])

# %%
# The share of users who like the chosen answer
# ---------------------------------------------
# The values are means over 2,000 prompts with n random candidates each.
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
# The grey line is the best possible value. The reward of the classifier is a reward for being
# copied. Its errors cost most if the best of many candidates is chosen.
