"""Objectives that fit the action itself: naive, class-balanced, and square root."""

import torch

from ..measurement._model import Measurement
from ..measurement._signal import per_response
from ._base import Objective, cross_entropy


class Naive(Objective):
    """Binary cross-entropy of R against the action: R estimates P(y=1 | x), not the reward.

    This is the baseline for all corrections. Several signals are reduced to "any logged action".

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> preferred = X[:, 0] > 0
    >>> acted = preferred & (rng.random(2000) < 0.5)  # on half of the preferred rows
    >>> settings = {"max_epochs": 20, "early_stopping": False, "learning_rate_init": 0.01}
    >>> settings |= {"n_estimators": 1, "random_state": 0}
    >>> est = ImplicitRewardEstimator("naive", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.44
    """

    single_signal = True
    models_propensity = False
    calibrated = False

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the cross-entropy of each member and row."""
        return cross_entropy(reward_logit, batch.acted)

    def initial_rates(self, action_rate, any_rate):
        """Return the share of acted rows."""
        return any_rate, action_rate


class Balanced(Objective):
    """Naive with both classes of equal total weight ("PU-naive").

    The loss is the mean over acted rows of l(R, 1) plus the mean over the others of l(R, 0), where
    l is the cross-entropy. The class shares are those of the training rows, not of each batch. With
    g = P(y=1 | x) and the share s of acted rows, R estimates g (1 - s) / (g (1 - s) + (1 - g) s).
    This has the order of naive at another level.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> preferred = X[:, 0] > 0
    >>> acted = preferred & (rng.random(2000) < 0.5)  # on half of the preferred rows
    >>> settings = {"max_epochs": 20, "early_stopping": False, "learning_rate_init": 0.01}
    >>> settings |= {"n_estimators": 1, "random_state": 0}
    >>> est = ImplicitRewardEstimator("balanced", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.72
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    calibrated = False
    incremental = False

    def prepare(self, log):
        """Compute the share of acted rows."""
        self.action_rate_ = log.action_rate
        return {}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the weighted cross-entropy of each member and row."""
        s, loss = self.action_rate_, cross_entropy(reward_logit, batch.acted)
        return torch.where(batch.acted > 0, loss * (0.5 / s), loss * (0.5 / (1 - s)))


class RootNaive(Objective):
    """P(y=1 | x) = R(x)^2: the even split of the action probability, in closed form.

    With one signal, any split R * A = P(y=1 | x) between reward R and propensity A fits equally
    well. This objective takes R = A. A one-signal method that does not beat it has learned nothing
    about the split.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> preferred = X[:, 0] > 0
    >>> acted = preferred & (rng.random(2000) < 0.5)  # on half of the preferred rows
    >>> settings = {"max_epochs": 20, "early_stopping": False, "learning_rate_init": 0.01}
    >>> settings |= {"n_estimators": 1, "random_state": 0}
    >>> est = ImplicitRewardEstimator("root-naive", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.66
    """

    single_signal = True
    calibrated = False
    propensity_form = "reward"

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of the action, per member and row."""
        return -Measurement.of_actions(1).log_likelihood(
            reward_logit, propensity_logit, batch.actions
        )

    def initial_rates(self, action_rate, any_rate):
        """Return the square root of the share of acted rows."""
        root = any_rate**0.5
        return root, action_rate / root


class UpDown(Objective):
    """A classifier of positive against negative actions, on rows that have either.

    This is common practice with thumbs. Rows without a reaction are left out, and rows with both
    count half for each. The readiness of users to react is not modelled. A(x) is the
    readiness to show that a response is preferred, and D(x) the readiness to show that it is not.
    With the reward R, the classifier learns R A / (R A + (1 - R) D), which has the order of R if D
    / A is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> preferred = X[:, 0] > 0
    >>> reacts = rng.random(2000) < 0.3
    >>> y = np.column_stack([preferred & reacts, ~preferred & reacts])
    >>> est = ImplicitRewardEstimator(
    ...     "up-down", signals=["positive", "negative"], learning_rate_init=0.01, random_state=0
    ... ).fit(X, y)
    >>> est.predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
    array([1., 0.], dtype=float32)
    """

    models_propensity = False
    models_actions = False
    calibrated = False
    needs_both_polarities = True
    identifies = "ranking only"
    assumption = "readiness to show either preference in a constant ratio"
    uses = frozenset({"response_id", "exposures"})

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the cross-entropy of R against the reactions, per member and response."""
        counts = []
        for preference in (1, 0):
            rows = batch.signals.shown(batch.actions, preference).sum(-1)
            counts.append(per_response(rows, batch.response, reward_logit.shape[-1]))
        total = sum(counts)
        reacted = total > 0
        target = counts[0] / torch.where(reacted, total, torch.ones_like(total))
        loss = cross_entropy(reward_logit, target)
        return torch.where(reacted, loss, torch.zeros_like(loss))
