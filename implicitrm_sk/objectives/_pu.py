"""Learning from positive and unlabelled data: an action is a positive, the rest is unlabelled.

All objectives except SAR-EM assume that the positives are selected completely at random (SCAR), so
one propensity holds for all responses.
"""

import numpy as np
import torch

from ..measurement._signal import full_precision
from ._base import Objective, cross_entropy, product_model


class UPU(Objective):
    """Unbiased PU learning with the logistic loss, which is convex in the logit.

    Let pi be the class prior `preference_rate`, P the acted rows, U all rows and f the logit of the
    reward. The risk is R(pi) = pi E_P[l(f, 1) - l(f, 0)] + E_U[l(f, 0)], where l(f, 1) - l(f, 0) =
    -f. On a finite sample it has no lower bound.

    References
    ----------
    du Plessis, Niu & Sugiyama, "Convex Formulation for Learning from Positive and Unlabeled Data",
    ICML 2015.

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
    >>> est = ImplicitRewardEstimator("upu", preference_rate=0.5, **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.98
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    needs_preference_rate = True
    incremental = False
    uses = frozenset({"preference_rate"})
    assumption = "one propensity for all responses and the preference rate given"
    identifies = "identified"

    def prepare(self, log):
        """Compute the shares of preferred and of acted rows."""
        self.preference_rate_ = log.preference_rate
        self.action_rate_ = log.action_rate
        return {}

    def _positives(self, batch):
        """Return the factor of l(f, .) that turns a mean over all rows into pi times one over P."""
        return self.preference_rate_ / self.action_rate_ * batch.acted

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the terms of each row, whose mean is the risk."""
        f = full_precision(reward_logit)
        return cross_entropy(f, torch.zeros_like(f)) - self._positives(batch) * f


class NNPU(UPU):
    """Non-negative PU learning.

    The risk of each batch is R(pi) = pi E_P[l(f, 1)] + max(0, E_U[l(f, 0)] - pi E_P[l(f, 0)]), in
    the notation of `UPU`. If the second part is below -beta, a step of -gamma times its gradient is
    taken instead (Algorithm 1). The loss here is the logistic one. The sigmoid loss of the
    original's experiments decides a class, and its output is not a probability.

    Parameters
    ----------
    beta : float, default=0.0
        How far below 0 the negative part may be, not negative.
    gamma : float, default=1.0
        Size of the step back if it is lower, in [0, 1].

    References
    ----------
    Kiryo, Niu, du Plessis & Sugiyama, "Positive-Unlabeled Learning with Non-Negative Risk
    Estimator", NeurIPS 2017.

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
    >>> est = ImplicitRewardEstimator("nnpu", preference_rate=0.5, **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.87
    """

    def __init__(self, beta: float = 0.0, gamma: float = 1.0) -> None:
        self.beta = beta
        self.gamma = gamma

    def _parts(self, reward_logit, batch):
        f, positives = full_precision(reward_logit), self._positives(batch)
        positive = positives * cross_entropy(f, torch.ones_like(f))
        negative = (1 - positives) * cross_entropy(f, torch.zeros_like(f))
        weight = 1.0 if batch.sample_weight is None else batch.sample_weight
        return positive, negative, (weight * negative).mean(-1, keepdim=True)

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the terms of each row, whose mean has the gradient of the step to take."""
        positive, negative, mean = self._parts(reward_logit, batch)
        return torch.where(mean < -self.beta, -self.gamma * negative, positive + negative)

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the terms of each row, whose mean is the non-negative risk."""
        positive, negative, mean = self._parts(reward_logit, batch)
        return positive + torch.where(mean < 0, torch.zeros_like(mean), negative)


class ElkanNoto(Objective):
    """Weighted unlabelled rows: each counts as preferred with its estimated probability.

    First, g = P(y=1 | x) is fitted. The propensity c is its mean over the acted rows held out, or
    over those of training without early stopping. Then a row without an action counts as preferred
    with weight w, and as not preferred with weight 1 - w. The weight is w = (1 - c) / c * g / (1 -
    g), at most 1. The estimate of c assumes that the acted rows are certain to be preferred given
    x.

    References
    ----------
    Elkan & Noto, "Learning Classifiers from Only Positive and Unlabeled Data", KDD 2008, sections
    2 (e1) and 3.

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
    >>> est = ImplicitRewardEstimator("elkan-noto", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.96
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    incremental = False
    assumption = (
        "one propensity for all responses and features that leave no doubt about the acted ones"
    )
    identifies = "identified"

    def prepare(self, log):
        """Estimate the propensity, stored as `propensity_`, and the weights."""
        g = log.action_probability()
        acted = (log.actions == 1) & (log.sample_weight > 0)
        held_out = acted & ~log.is_training
        part = held_out if held_out.any() else acted
        c = np.average(g[:, part], axis=1, weights=log.sample_weight[part])[:, None]
        self.propensity_ = c[:, 0]
        weight = np.minimum((1 - c) / c * g / np.maximum(1 - g, 1e-12), 1)
        return {"target": np.where(log.actions == 1, 1.0, weight)}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the cross-entropy against the weights, per member and row."""
        return cross_entropy(reward_logit, batch.target)


class SAREM(Objective):
    """SAR-EM: expectation maximisation of R and A, the propensity of the preferred rows.

    The loss is l(R, q) + q l(A, y), with q = P(r*=1 | y, x) of the model at each step, held fixed.
    Its gradient is that of the likelihood of one signal, like that of the stratified objective.
    This is generalised EM; the original iterates each maximisation to its end. It starts with half
    of the rows without an action preferred. The fitted mixture has no mirror images, so it keeps
    the side of the swap near its start.

    References
    ----------
    Bekker, Robberechts & Davis, "Beyond the Selected Completely At Random Assumption for Learning
    from Positive and Unlabeled Data", ECML PKDD 2019.

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
    >>> est = ImplicitRewardEstimator("sar-em", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.97
    """

    single_signal = True

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the expected complete-data loss of each member and row."""
        u = propensity_logit[..., 0]
        with torch.no_grad():
            q, *_ = product_model(reward_logit, u, batch.acted)
        return cross_entropy(reward_logit, q) + q * cross_entropy(u, batch.acted)

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of the action, per member and row."""
        return product_model(reward_logit, propensity_logit[..., 0], batch.acted)[2]

    def initial_rates(self, action_rate, any_rate):
        """Return rates at which half of the rows without an action are preferred."""
        reward = (1 + any_rate) / 2
        return reward, action_rate / reward
