"""
What one signal cannot show
===========================

The reward is how likely users prefer a response, the propensity how readily they then act. One
kind of action determines only the product of the two. Fits that explain the log equally well
disagree about the reward, and more rows do not help. `identification_report` refits the same
settings from different starts and shows the range of the rewards.
"""

# %%
import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import IdentificationDisplay

warnings.filterwarnings("ignore", category=IdentificationWarning)
X, digit = load_digits(return_X_y=True)
log = simulate_feedback((digit >= 5).astype(int), X=X, n_signals=3, random_state=0)
# shared_examination=False states that users looked at every digit.
est = ImplicitRewardEstimator(shared_examination=False, learning_rate_init=0.003, random_state=0)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
reports = {}
for n_signals, ax in zip((1, 3), axes, strict=True):
    y = log.actions[:, 0] if n_signals == 1 else log.actions
    reports[n_signals] = identification_report(est, X, y, n_starts=6)
    IdentificationDisplay.from_report(reports[n_signals], ax=ax)
    ax.set_title(f"{n_signals} signal{'s' * (n_signals > 1)}: {reports[n_signals].level}")

# %%
# The grey area is what the actions alone leave open, and the blue band is the range of the equally
# likely fits. With one signal the band is wide, with three it is narrow. The numbers of the figure:
for n_signals, report in reports.items():
    means = report.refits["mean_reward"][report.refits["as_likely"]]
    print(
        f"{n_signals} signal(s): spread {report.reward_spread:.3f}, mean reward of equally likely "
        f"fits {means.min():.2f} to {means.max():.2f} (truth {log.true_preference.mean():.2f})"
    )

# %%
# The report also says what to do next:
for advice in reports[1].advice:
    print("-", advice)

# %%
# A narrow band is not a proof. It shows how far equally likely fits differ, not how far all of them
# are off. The truth, 0.50, lies outside of both ranges above. The band also rests on assumptions:
# here, that the three signals are independent given the preference. With three signals this can be
# tested, with two it cannot.
print(reports[3].verdict)
print(f"independence: p = {reports[3].independence.p_value:.2f}")
