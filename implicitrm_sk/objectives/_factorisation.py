"""The squared losses of relevance matrix factorisation, on the heads of this package."""

import torch

from ..measurement._signal import full_precision
from ._weighting import PropensityWeighted


class RMF(PropensityWeighted):
    """Rel-MF: the unbiased squared loss, (y / p) (1 - R)^2 + (1 - y / p) R^2.

    R is the reward, y the action and p the propensity.

    References
    ----------
    Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback",
    WSDM 2020.

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
    >>> est = ImplicitRewardEstimator("rmf", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.96
    """

    def __init__(self, clip: float = 0.0, power: float = 0.5) -> None:
        super().__init__(clip, power)

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the weighted squared loss of each member and row."""
        R, t = torch.sigmoid(full_precision(reward_logit)), self.inverse_weight(batch)
        return t * (1 - R).square() + (1 - t) * R.square()


class NCRMF(RMF):
    """Rel-MF with clipped propensities, and without negative losses.

    The loss of a row is max(0, `RMF`), with p clipped from below as proposed for Rel-MF. The tables
    of ImplicitRM list an "NCRMF" without a definition. "Non-negative and clipped" is our
    interpretation.

    References
    ----------
    As for `RMF`.

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
    >>> est = ImplicitRewardEstimator("ncrmf", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.58
    """

    calibrated = False  # cutting losses off causes a bias

    def __init__(self, clip: float = 0.1, power: float = 0.5) -> None:
        super().__init__(clip, power)

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the weighted squared loss of each member and row, or 0."""
        return super().loss(reward_logit, propensity_logit, batch).clamp_min(0)
