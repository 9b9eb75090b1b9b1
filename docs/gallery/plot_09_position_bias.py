"""
Position bias
=============

Users act more often on answers at the top of the screen, whatever their quality. If the log has the
position, only the propensity should depend on it. `propensity_features` does this.
"""

# %%
# Tumours play the role of answers, and benign ones are good answers. An existing ranker has put
# most good answers near the top, so that position and preference are correlated. A classifier is
# then wrong, with or without the position as a feature.
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.inspection import PropensityDisplay, ReliabilityDisplay
from implicitrm_sk.metrics import reward_metrics

rng = np.random.default_rng(0)
X, benign = load_breast_cancer(return_X_y=True, as_frame=True)
X = pd.concat([X] * 4, ignore_index=True)  # each answer was shown to four users
preferred = np.tile(benign, 4)
position = np.clip(rng.poisson(np.where(preferred, 1.5, 3.5)), 0, 7)
seen = 0.95 * 0.7**position  # the share of users who look that far down
copied = (preferred == 1) & (rng.random(len(X)) < seen)
frame = X.assign(position=position.astype(float))
n_answers = len(benign)
train, test = train_test_split(np.arange(n_answers), random_state=0)
train = np.concatenate([train + n_answers * i for i in range(4)])
groups = train % n_answers  # copies of one answer stay on one side of the inner split

# %%
# Three ways to treat the position
# --------------------------------
# A new answer has no position. "All put on top" gives position 0 to all answers of the test.
est = ImplicitRewardEstimator(
    propensity_features=["position"], learning_rate_init=0.003, random_state=0
)
est.fit(frame.iloc[train], copied[train].astype(int), groups=groups)
classifier = make_pipeline(StandardScaler(), LogisticRegression())
ignored = classifier.fit(X.iloc[train], copied[train]).predict_proba(X.iloc[test])[:, 1]
on_top = frame.iloc[test].assign(position=0.0)
as_feature = classifier.fit(frame.iloc[train], copied[train]).predict_proba(on_top)[:, 1]
rewards = {
    "classifier, position ignored": ignored,
    "classifier, all put on top": as_feature,
    "position drives acting only": est.predict(X.iloc[test]),
}
print(f"{'':30} {'R2':>6} {'AUROC':>6} {'mean reward':>12}")
for name, reward in rewards.items():
    m = reward_metrics(preferred[test], reward)
    print(f"{name:30} {m['r2']:6.2f} {m['auroc']:6.2f} {reward.mean():12.2f}")
print(f"{'truth':30} {'':13} {preferred[test].mean():12.2f}")
print(est.identification_)

# %%
# New answers do not have a position yet, and `predict` does not need one. The learned propensity
# falls with the position as the simulated one does. Here its size is right too: nearly all users
# see the answers at the top. But `fit` cannot know this, so its verdict is "ranking only".
shown = frame.iloc[test[:1]].loc[lambda x: x.index.repeat(8)].assign(position=np.arange(8.0))
print("learned: ", *np.round(est.propensity(shown), 2))
print("simulated:", *np.round(0.95 * 0.7 ** np.arange(8), 2))

# %%
display = None
for name, reward in rewards.items():
    display = ReliabilityDisplay.from_predictions(
        preferred[test], reward, n_bins=5, name=name, ax=display and display.ax_
    )

# %%
# The next figure has one point for each row of the log. The points form bands, one for each
# position.
_ = PropensityDisplay.from_estimator(est, frame.iloc[train])

# %%
# The level
# ---------
# Columns that only drive acting determine the *ranking* of the rewards. The level needs one thing
# more: labels, a `preference_rate`, or positions at which users almost certainly act on what they
# like. Here the top position is such a position. The reward must not depend on the position. If
# users truly prefer answers because they are at the top, this is the wrong model.
