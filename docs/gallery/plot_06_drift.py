"""
Has the policy left the log?
============================

A reward model gives every response a value, even one that is unlike its log. A policy (a language
model that is trained on the reward) moves away from the responses of the log. `shift_report`
compares new responses with the log.
"""

# %%
# The log holds digits as they were scanned. The new responses drift away from it: their images get
# paler, month by month.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from implicitrm_sk import ImplicitRewardEstimator, ShiftWarning
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import shift_report

X, digit = load_digits(return_X_y=True)
preference = (digit >= 5).astype(int)
log = simulate_feedback(preference, X=X, n_signals=2, random_state=0)
rows, new = train_test_split(np.arange(len(X)), test_size=0.33, random_state=0)
est = ImplicitRewardEstimator(learning_rate_init=0.003, random_state=0).fit(
    X[rows], log.actions[rows]
)

warnings.filterwarnings("ignore", category=ShiftWarning)  # printed below
months = (0.0, 0.1, 0.2, 0.4, 0.6)
reports, auroc = [], []
for month in months:
    drifted = (1 - month) * X[new]
    reports.append(shift_report(est, drifted, X[rows]))
    auroc.append(roc_auc_score(preference[new], est.predict(drifted)))
print(reports[0], reports[1], sep="\n\n")

# %%
# What it sees, and what it does not
# ----------------------------------
# The share of responses outside the log rises at once, long before the ranking suffers. It is a
# smoke detector and does not measure the damage. The spread over the networks of the fit, which
# `pessimism` subtracts, hardly grows: they agree on responses that none of them has seen. Only
# *responses* are compared. If the taste of users changes, nothing here moves.
figure, ax = plt.subplots(layout="constrained")
ax.plot(
    months,
    [report.share_outside for report in reports],
    "o-",
    color="#D55E00",
    label="outside the log",
)
ax.plot(
    months, [report.auc for report in reports], "^-.", color="#009E73", label="AUC, new from logged"
)
ax.plot(months, auroc, "s--", color="#0072B2", label="AUROC of the reward")
ax.plot(
    months,
    [report.reward[1] for report in reports],
    "D:",
    color="black",
    label="spread of the reward",
)
ax.set(
    xlabel="how much paler the images are",
    ylabel="share, AUC or spread of the reward",
    ylim=(0, 1.02),
)
_ = ax.legend()

# %%
# Here the images are the same, and users prefer the other digits. The report finds nothing,
# although the reward is as wrong as it can be:
report = shift_report(est, X[new], X[rows])
print("extrapolates:", report.extrapolates)
print(f"AUROC against the new taste: {roc_auc_score(1 - preference[new], est.predict(X[new])):.2f}")
