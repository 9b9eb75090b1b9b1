"""
The naive reward is wrong, and by how much
==========================================

A classifier of "was it copied?" is the reward model that most teams start with. It treats every
response without an action as disliked. This example measures the cost of that mistake. It also
shows how far a model of the same actions corrects it.
"""

# %%
# The log
# -------
# Digits play the role of responses, and users prefer those of 5 or more. A preferred response is
# copied with a probability that depends on the response, the *propensity*. In real logs, for
# example, code is copied and chat is not, although users like both.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import ReliabilityDisplay
from implicitrm_sk.metrics import reward_metrics

X, digit = load_digits(return_X_y=True)
log = simulate_feedback((digit >= 5).astype(int), X=X, random_state=0)
train, test = train_test_split(np.arange(len(X)), random_state=0)
truth = log.true_preference[test]
copied, preferred = log.actions.mean(), log.true_preference.mean()
silent = 1 - log.actions[log.true_preference == 1].mean()
print(f"{copied:.0%} of the responses are copied, {preferred:.0%} are preferred:")
print(f"{silent:.0%} of the preferred ones count as dislikes.")

# %%
# Three rewards
# -------------
# The same network is trained three times. The first fit is a classifier of actions (``"naive"``).
# The second one estimates reward and propensity from the same actions. The third one is a
# classifier that gets the true preferences.
warnings.filterwarnings("ignore", category=IdentificationWarning)  # see below
rewards = {}
for name, objective, y in (
    ("classifier of actions", "naive", log.actions),
    ("estimator, one signal", "stratified", log.actions),
    ("classifier of the truth", "naive", log.true_preference),
):
    est = ImplicitRewardEstimator(objective, learning_rate_init=0.003, random_state=0)
    rewards[name] = est.fit(X[train], y[train]).predict(X[test])
print(f"{'':24} {'R2':>6} {'AUROC':>6} {'calibration error':>18}")
for name, reward in rewards.items():
    m = reward_metrics(truth, reward)
    print(f"{name:24} {m['r2']:6.2f} {m['auroc']:6.2f} {m['calibration_error']:18.2f}")

# %%
# Where the error is
# ------------------
# The reward of preferred responses should not depend on how readily they are copied. The reward of
# the classifier does: it is a reward for responses that invite copying. The left panel compares the
# rewards with the share of preferred responses. A calibrated reward lies on the diagonal.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
liked = truth == 1
edges = np.quantile(log.propensity[test][liked], [0.25, 0.5, 0.75])
quarter = np.digitize(log.propensity[test], edges)
for (name, reward), look in zip(rewards.items(), ("o-", "s--", "^:"), strict=True):
    ReliabilityDisplay.from_predictions(truth, reward, name=name, ax=left)
    right.plot([reward[liked & (quarter == q)].mean() for q in range(4)], look, label=name)
for line, curve in zip(right.lines, left.containers, strict=True):
    line.set_color(curve.lines[0].get_color())
right.set(
    xlabel="quarter of the propensity", ylabel="mean reward of preferred responses", ylim=(0, 1)
)
right.set_xticks(range(4), ["lowest", "second", "third", "highest"])
_ = right.legend()

# %%
# What the estimator did, and did not
# -----------------------------------
# One *signal* (kind of action) determines only the product of reward and propensity. The estimator
# makes the two about equal. The classifier gives the whole product to the reward. The first choice
# is closer to the truth here, but the data support neither. The ranking (AUROC) is about that of
# the classifier, and the reward still rises with the propensity. An `IdentificationWarning` says
# that the reward is not identified. We silenced it above. A second signal or some labels identify
# the reward. Columns that only drive acting identify its ranking. Later examples show how.
