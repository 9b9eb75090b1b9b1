"""Pairwise ranking: comparisons of two responses to one prompt, from `fit(groups=)`.

A reward that is learned from differences does not have a level; it only ranks. Each row is compared
with one partner per epoch, in both orders.
"""

import torch
from torch.nn.functional import softplus

from ..measurement._signal import full_precision
from ._base import Objective, cross_entropy
from ._weighting import PropensityWeighted


def both_orders(reward_logit, *rows):
    """Yield f_i - f_j and the values (at i, at j) of each of `rows`, in both orders."""
    f_i, f_j = full_precision(reward_logit).chunk(2, -1)
    halves = [row.chunk(2, -1) for row in rows]
    yield f_i - f_j, *halves
    yield f_j - f_i, *((j, i) for i, j in halves)


class BPR(Objective):
    """Bayesian personalised ranking: -log sigmoid(f_i - f_j), i acted on and j not.

    f is the logit of the reward. Partners are drawn from the same prompt, or from all if it has no
    row of the other kind.

    Parameters
    ----------
    across_prompts : bool, default=True
        If a prompt has no pair, take the partner from other prompts. This is needed if prompts have
        few responses. But users of some prompts may act more, and only pairs of one prompt cancel
        this.

    References
    ----------
    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.

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
    >>> est = ImplicitRewardEstimator("bpr", **settings)
    >>> est = est.fit(X, acted)
    >>> reward = est.predict(X)  # only its order is meaningful
    >>> bool(reward[preferred].mean() > reward[~preferred].mean())
    True
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    calibrated = False
    pairs = "different"
    assumption = "one propensity for all responses that are compared"
    identifies = "ranking only"

    def __init__(self, across_prompts: bool = True) -> None:
        self.across_prompts = across_prompts

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the loss of each member and pair, 0 if both rows or none was acted on."""
        return sum(
            y_i * (1 - y_j) * softplus(-difference)
            for difference, (y_i, y_j) in both_orders(reward_logit, batch.acted)
        )


class UBPR(PropensityWeighted):
    """Unbiased BPR: (y_i / p_i) (1 - y_j / p_j) (-log sigmoid(f_i - f_j)), at least -beta.

    y is the action, p the propensity and f the logit of the reward. Partners are any other rows of
    the prompt, or of all prompts if the prompt has one row.

    Parameters
    ----------
    clip : float, default=0.0
        Smaller propensities count as this value.
    power : float, default=0.5
        Exponent of the relative popularity, which replaces propensities that are not given.
    beta : float, default=0.0
        The variance control of the original: the loss of a pair is cut off at -beta. Not negative.
    across_prompts : bool, default=True
        As for `BPR`.

    References
    ----------
    Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020.

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
    >>> est = ImplicitRewardEstimator("ubpr", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> reward = est.predict(X)  # only its order is meaningful
    >>> bool(reward[preferred].mean() > reward[~preferred].mean())
    True
    """

    calibrated = False
    pairs = "any"
    identifies = "ranking only"

    def __init__(
        self, clip: float = 0.0, power: float = 0.5, beta: float = 0.0, across_prompts: bool = True
    ) -> None:
        super().__init__(clip, power)
        self.beta = beta
        self.across_prompts = across_prompts

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the loss of each member and pair: the mean of both orders."""
        return 0.5 * sum(
            (t_i * (1 - t_j) * softplus(-difference)).clamp_min(-self.beta)
            for difference, (t_i, t_j) in both_orders(reward_logit, self.inverse_weight(batch))
        )


class CUBPR(UBPR):
    """`UBPR` with propensities clipped from below.

    References
    ----------
    As for `UBPR`.

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
    >>> est = ImplicitRewardEstimator("cubpr", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> reward = est.predict(X)  # only its order is meaningful
    >>> bool(reward[preferred].mean() > reward[~preferred].mean())
    True
    """

    def __init__(
        self, clip: float = 0.3, power: float = 0.5, beta: float = 0.0, across_prompts: bool = True
    ) -> None:
        super().__init__(clip, power, beta, across_prompts)


class UPRL(PropensityWeighted):
    """Unbiased pairwise learning without negative weights.

    A second head q estimates the preference with the unbiased pointwise loss l(q, y / p), where p
    is the propensity. A pair with i acted on and j not has the weight (1 / p_i) P(r*_j=0 | y_j=0),
    at most `max_weight`. Here P(r*=0 | y=0) = (1 - q) / (1 - q p), with q held fixed.

    Parameters
    ----------
    clip : float, default=0.1
        Smaller propensities count as this value.
    power : float, default=0.5
        Exponent of the relative popularity, which replaces propensities that are not given.
    max_weight : float, default=100.0
        Maximum weight of a pair, positive.
    across_prompts : bool, default=True
        As for `BPR`.

    References
    ----------
    Ren, Tang, Rong & Zhu, "Unbiased Pairwise Learning from Implicit Feedback for Recommender
    Systems without Biased Variance Control", SIGIR 2023.

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
    >>> est = ImplicitRewardEstimator("uprl", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> reward = est.predict(X)  # only its order is meaningful
    >>> bool(reward[preferred].mean() > reward[~preferred].mean())
    True
    """

    calibrated = False
    pairs = "any"
    auxiliary_head = True
    identifies = "ranking only"

    def __init__(
        self,
        clip: float = 0.1,
        power: float = 0.5,
        max_weight: float = 100.0,
        across_prompts: bool = True,
    ) -> None:
        super().__init__(clip, power)
        self.max_weight = max_weight
        self.across_prompts = across_prompts

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the loss of each member and pair: the mean of both orders and both rows."""
        v = full_precision(batch.auxiliary_logit)
        p = self.propensity(batch).clamp_min(self.clip).expand_as(v)
        q = torch.sigmoid(v.detach())
        disliked = (1 - q) / (1 - q * p).clamp_min(1e-6)
        pointwise = cross_entropy(v, batch.acted / p)
        pairwise = sum(
            (y_i / p_i * (1 - y_j) * n_j).clamp_max(self.max_weight) * softplus(-difference)
            for difference, (y_i, y_j), (p_i, _), (_, n_j) in both_orders(
                reward_logit, batch.acted, p, disliked
            )
        )
        return 0.5 * (pairwise + sum(pointwise.chunk(2, -1)))
