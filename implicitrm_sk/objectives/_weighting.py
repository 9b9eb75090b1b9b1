"""Inverse propensity weighting and its doubly robust relatives."""

import numpy as np
import torch

from ..measurement._signal import full_precision
from ._base import Objective, cross_entropy


def relative_popularity(action_rate, largest, power):
    """Return the propensity (g / largest g) ** power for action probabilities g.

    This is the estimate of Saito et al. (WSDM 2020), there for an item from its clicks, here for a
    response from P(y=1 | x). It is a convention: a log of one signal does not contain the
    propensity.
    """
    return (action_rate / largest) ** power


def fitted_popularity(log, power):
    """Return P(y=1 | x) of a preceding naive fit, and its relative popularity, by member and row.

    Parameters
    ----------
    log : TrainingLog
    power : float
    """
    rate = log.action_probability()
    largest = rate[:, log.is_training].max(axis=1, keepdims=True)
    return rate, relative_popularity(rate, largest, power)


class PropensityWeighted(Objective):
    """Base class of objectives that divide actions by the propensity of `fit`, or an estimate.

    If no propensity p is given, P(y=1 | x) is fitted first with the naive objective, and p is its
    relative popularity, see `relative_popularity`.

    Parameters
    ----------
    clip : float, default=0.1
        Smaller propensities count as this value, in [0, 1]. It bounds the variance at the cost of
        bias.
    power : float, default=0.5
        Exponent of the relative popularity.
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    incremental = False
    uses = frozenset({"propensity"})
    assumption = "the propensities given"
    identifies = "identified"

    def __init__(self, clip: float = 0.1, power: float = 0.5) -> None:
        self.clip = clip
        self.power = power

    def prepare(self, log):
        """Estimate the propensities that are not known."""
        part = log.is_training | ~np.isnan(log.actions)
        if log.propensity is not None and not np.isnan(log.propensity[part]).any():
            return {}
        return {"propensity_estimate": fitted_popularity(log, self.power)[1]}

    def inverse_weight(self, batch):
        """Return y / p of each row, (members, n) or (1, n): an estimate of r* given x."""
        return batch.acted / self.propensity(batch).clamp_min(self.clip)

    def propensity(self, batch):
        """Return the propensity of each row, known or estimated, (members, n) or (1, n)."""
        return _known_or(batch, batch.propensity_estimate)


def _known_or(batch, estimate):
    if batch.propensity is None:
        return estimate
    known = batch.propensity[:, 0]
    if estimate is None:
        return known[None]
    return torch.where(torch.isnan(known), estimate, known)


class IPS(PropensityWeighted):
    """Inverse propensity scoring: cross-entropy of R against y / p.

    l = (y / p) l(R, 1) + (1 - y / p) l(R, 0), with the reward R, the action y and the propensity p.
    If p is the true P(y=1 | r*=1, x), its mean over the actions is the loss against r*, since E[y |
    r*] = p r*.

    References
    ----------
    Schnabel et al., "Recommendations as Treatments: Debiasing Learning and Evaluation", ICML 2016,
    for ratings, where the log shows which ones were observed. Bekker, Robberechts & Davis, "Beyond
    the Selected Completely At Random Assumption for Learning from Positive and Unlabeled Data",
    ECML PKDD 2019, for actions, where it does not.

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
    >>> est = ImplicitRewardEstimator("ips", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.89
    """

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the weighted cross-entropy of each member and row."""
        return cross_entropy(reward_logit, self.inverse_weight(batch))


class DR(PropensityWeighted):
    """Doubly robust: imputed errors, corrected on the acted rows by 1 / p.

    The loss is l(R, b) + (y / p) (l(R, 1) - l(R, b)), with the reward R, the action y and the
    propensity p. The imputed preference b is P(y=1 | x) of a preceding naive fit. If the imputation
    is wrong, the result depends on p. It depends the less on p the closer b is to 0 where r* = 0:
    E[l] is then the loss against r*. (The original imputes from the observed entries. All entries
    known from actions are preferred, so that imputation would be 1 everywhere.)

    References
    ----------
    Wang, Zhang, Sun & Qi, "Doubly Robust Joint Learning for Recommendation on Data Missing Not at
    Random", ICML 2019.

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
    >>> est = ImplicitRewardEstimator("dr", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.93
    """

    calibrated = False  # the imputation causes a bias

    def prepare(self, log):
        """Fit the imputation, and use it for the propensities that are not known."""
        rate, propensity = fitted_popularity(log, self.power)
        return {"action_rate": rate, "propensity_estimate": propensity}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the doubly robust cross-entropy of each member and row."""
        b = batch.action_rate
        # Linear in the target, so that the three terms can be one.
        return cross_entropy(reward_logit, b + self.inverse_weight(batch) * (1 - b))


class MTIPS(PropensityWeighted):
    """Multi-IPW: an action head on the trunk of the reward head, trained together with it.

    The loss is l(g, y) + IPS. If `fit` gets no propensity, p comes from the predicted action
    probability g, held fixed: its popularity relative to the batch. (The original is for
    conversions after a click. It uses the predicted click rate as p and learns from the clicked
    rows only. For an action, all those rows are preferred.)

    References
    ----------
    Zhang et al., "Large-scale Causal Approaches to Debiasing Post-click Conversion Rate Estimation
    with Multi-task Learning", WWW 2020.

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
    >>> est = ImplicitRewardEstimator("mtips", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.90
    """

    models_propensity = True
    incremental = True
    propensity_form = "trunk"

    def prepare(self, log):
        """Do nothing, because the propensity is learned jointly."""
        return {}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the sum of both tasks, per member and row."""
        u = full_precision(propensity_logit)[..., 0]
        p = _known_or(batch, self._popularity(u.detach())).clamp_min(self.clip)
        return cross_entropy(u, batch.acted) + cross_entropy(reward_logit, batch.acted / p)

    def _popularity(self, logit):
        rate = torch.sigmoid(logit)
        return relative_popularity(rate, rate.amax(-1, keepdim=True), self.power)

    def initial_rates(self, action_rate, any_rate):
        """Return the even split for the reward, and the action rate for its own head."""
        return any_rate**0.5, action_rate


class MTDR(MTIPS):
    """Multi-DR: an action head and an imputation head on the trunk of the reward head.

    l = l(g, y) + l(b, y) + l(R, b) + (y / p) (l(R, 1) - l(R, b)), with g and p as in `MTIPS`. The
    imputation b is held fixed in the last two terms.

    References
    ----------
    As for `MTIPS`.

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
    >>> est = ImplicitRewardEstimator("mtdr", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.94
    """

    calibrated = False  # as for `DR`
    auxiliary_head = True

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the sum of the three tasks, per member and row."""
        u, v = full_precision(propensity_logit)[..., 0], full_precision(batch.auxiliary_logit)
        p = _known_or(batch, self._popularity(u.detach())).clamp_min(self.clip)
        b = torch.sigmoid(v.detach())
        target = b + batch.acted / p * (1 - b)
        tasks = cross_entropy(u, batch.acted) + cross_entropy(v, batch.acted)
        return tasks + cross_entropy(reward_logit, target)


class SDR(MTIPS):
    """StableDR: propensities that balance the imputed errors.

    There are two heads: the action probability g, whose relative popularity is p, and the reward R.
    They are trained by l(g, y) + IPS + balance * C^2, each head by its own terms. C is the mean
    over the batch of (y / p - R) (d - mean d), where d = l(R, g) is the imputed error. If p is
    right, y / p estimates r*, and C is 0.

    The constraint of the original, for ratings, has 1[observed] / p instead of y / p - R. Its
    self-normalisation is automatic here, because y / p and 1 - y / p sum to 1. Its imputation is a
    head of its own, trained on the observed ratings. For actions, that head would be trained like
    g, by l(b, y) on the same rows. So g is used here, like P(y=1 | x) in `DR`.

    Parameters
    ----------
    balance : float, default=1.0
        Weight of the constraint, not negative.

    References
    ----------
    Li, Zheng & Wu, "StableDR: Stabilized Doubly Robust Learning for Recommendation on Data Missing
    Not at Random", ICLR 2023.

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
    >>> est = ImplicitRewardEstimator("sdr", **settings)
    >>> est = est.fit(X, acted, propensity=np.full(2000, 0.5))
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.89
    """

    propensity_form = "head"

    def __init__(self, clip: float = 0.1, power: float = 0.5, balance: float = 1.0) -> None:
        super().__init__(clip, power)
        self.balance = balance

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the sum of the terms, per member and row."""
        f, u = full_precision(reward_logit), full_precision(propensity_logit)[..., 0]
        p = _known_or(batch, self._popularity(u)).clamp_min(self.clip)
        ipw = batch.acted / p
        with torch.no_grad():
            error = cross_entropy(f, torch.sigmoid(u))
            reward = torch.sigmoid(f)
        weight = 1.0 if batch.sample_weight is None else batch.sample_weight
        centred = error - (weight * error).mean(-1, keepdim=True)
        constraint = (weight * (ipw - reward) * centred).mean(-1, keepdim=True)
        tasks = cross_entropy(u, batch.acted) + cross_entropy(f, ipw.detach())
        return tasks + self.balance * constraint.square()
