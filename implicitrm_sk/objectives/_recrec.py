"""ReCRec: objectives that infer the causes of a missing action."""

import torch

from ..measurement._signal import full_precision
from ._base import Objective, cross_entropy, product_model
from ._weighting import fitted_popularity


class ReCRecI(Objective):
    """ReCRec-I: one propensity for all responses.

    P(y=1 | x) = A R, with the reward R and the propensity A. Q = P(r*=1 | y, x) and P = P(a=1 | y,
    x) are those of the model, held fixed. The loss is l(R, Q) + l(A R, y), with A held fixed, for
    the reward, and l(A, P) for the propensity. (The original has one A per item. For a response
    seen once, this leaves only one A for the whole log.)

    References
    ----------
    Lin et al., "ReCRec: Reasoning the Causes of Implicit Feedback for Debiased Recommendation", ACM
    Transactions on Information Systems, 2024.

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
    >>> est = ImplicitRewardEstimator("recrec-i", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.96
    """

    single_signal = True
    propensity_form = "constant"

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the sum of the losses of both heads, per member and row."""
        u = propensity_logit[..., 0]
        q, p, action = product_model(reward_logit, u.detach(), batch.acted)
        return cross_entropy(reward_logit, q.detach()) + action + cross_entropy(u, p.detach())

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of the action, per member and row."""
        return product_model(reward_logit, propensity_logit[..., 0], batch.acted)[2]

    def initial_rates(self, action_rate, any_rate):
        """Return the symmetric split of the action rate."""
        reward = any_rate**0.5
        return reward, action_rate / reward


class ReCRecF(ReCRecI):
    """ReCRec-F: a propensity head on the features, held near the popularity of the response.

    It adds popularity_weight * (A - popularity)^2 to the losses of `ReCRecI`. The popularity comes
    from P(y=1 | x) of a preceding naive fit, see
    `implicitrm_sk.objectives._weighting.relative_popularity`.

    Parameters
    ----------
    popularity_weight : float, default=0.1
        Not negative. With 0, only the start breaks the tie between R and A.
    power : float, default=0.5
        Exponent of the relative popularity.

    References
    ----------
    As for `ReCRecI`.

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
    >>> est = ImplicitRewardEstimator("recrec-f", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.50
    """

    propensity_form = "head"
    incremental = False

    def __init__(self, popularity_weight: float = 0.1, power: float = 0.5) -> None:
        self.popularity_weight = popularity_weight
        self.power = power

    def prepare(self, log):
        """Estimate the popularity of each response."""
        return {"propensity_estimate": fitted_popularity(log, self.power)[1]}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the sum of the losses of both heads and the anchor, per member and row."""
        A = torch.sigmoid(full_precision(propensity_logit)[..., 0])
        anchor = (A - batch.propensity_estimate).square()
        loss = super().loss(reward_logit, propensity_logit, batch)
        return loss + self.popularity_weight * anchor
