"""Counter-IF: exposure imputed from the features, and responses stratified by its confidence."""

import numpy as np
import torch
from sklearn.svm import OneClassSVM
from torch.nn.functional import softplus

from ..measurement._signal import full_precision
from ._base import Objective, cross_entropy
from ._pairwise import both_orders

#: Strata: definitely positive, highly exposed, highly unexposed, unknown.
DP, HE, HU, UN = range(4)
#: Maximum number of acted rows for fitting the one-class machine, which takes quadratic time.
MAX_SVM_ROWS = 4096
#: Maximum number of rows for comparing representations, which takes quadratic time.
BALANCE_ROWS = 96


class CounterIF(Objective):
    """Counterfactual implicit feedback: pointwise, pairwise and balanced representations.

    A one-class support vector machine around the acted rows (DP) shows which other rows were seen.
    Inside it (HE), the missing action counts as dislike. The share `unexposed` farthest outside
    (HU) was not seen, and the rest is unknown (UN). With the reward R, its logit f and the
    cross-entropy l, the loss is the sum of

    - the means of l(R, 1) over DP and of l(R, 0) over HE;
    - pair_weight times softplus(f_j - f_i) over pairs DP > HE, UN > HE and HU > UN, preferably with
      partners of the same prompt;
    - balance_weight times the Wasserstein distances (entropic, 10 Sinkhorn steps) between the
      representations of HU and of DP with HE, and of DP and HE.

    The reward is that of "seen and acted on". If users overlook responses that they like, HE
    contains many preferred responses.

    Parameters
    ----------
    pair_weight, balance_weight : float, default=1.0 and 0.1
        Weights of the terms, not negative.
    outliers : float, default=0.1
        Share of the acted rows outside the machine, in (0, 1].
    unexposed : float, default=0.1
        Share of the other rows that count as unseen, in [0, 1].

    References
    ----------
    Zhou, Yao, Li & Gong, "Counterfactual Implicit Feedback Modeling", NeurIPS 2025.

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
    >>> est = ImplicitRewardEstimator("counterif", **settings)
    >>> est = est.fit(X, acted)
    >>> est.objective_.stratum_shares_.round(2)  # acted, seen, not seen, unknown
    array([0.23, 0.22, 0.08, 0.47])
    """

    single_signal = True
    models_propensity = False
    models_actions = False
    calibrated = False
    incremental = False
    pairs = "different"
    representation = True
    assumption = "users have seen what resembles the acted responses"
    identifies = "ranking only"

    def __init__(
        self,
        pair_weight: float = 1.0,
        balance_weight: float = 0.1,
        outliers: float = 0.1,
        unexposed: float = 0.1,
    ) -> None:
        self.pair_weight = pair_weight
        self.balance_weight = balance_weight
        self.outliers = outliers
        self.unexposed = unexposed

    def prepare(self, log):
        """Stratify the rows, by the training rows, and store their shares as `stratum_shares_`."""
        X = np.asarray(log.X, dtype=np.float64)
        acted = log.actions == 1
        positives = np.flatnonzero(acted & log.is_training)
        if len(positives) > MAX_SVM_ROWS:
            positives = log.random_state.choice(positives, MAX_SVM_ROWS, replace=False)
        machine = OneClassSVM(nu=self.outliers).fit(X[positives])
        inside = machine.decision_function(X)
        cut = np.quantile(inside[~acted & log.is_training], self.unexposed)
        stratum = np.select([acted, inside > 0, inside <= cut], [DP, HE, HU], UN)
        weight = np.where(log.is_training, log.sample_weight, 0.0)
        self.stratum_shares_ = np.bincount(stratum, weights=weight, minlength=4) / weight.sum()
        return {"stratum": stratum.astype(float)}

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the three terms of each member and pair."""
        loss = self.validation_loss(reward_logit, propensity_logit, batch)
        n = min(loss.shape[-1], BALANCE_ROWS)
        points = full_precision(batch.representation)[:, :n]
        dp, he, hu, _ = (mask[:n] for mask in self._strata(batch, points))
        balance = wasserstein(points, dp + he, hu) + wasserstein(points, dp, he)
        return loss + self.balance_weight * balance[:, None]

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the pointwise and pairwise terms; the distances do not measure the fit."""
        f = full_precision(reward_logit)
        share = np.maximum(self.stratum_shares_, 1e-3).tolist()
        is_in = self._strata(batch, f)
        seen = is_in[DP] / share[DP] + is_in[HE] / share[HE]
        pointwise = seen * cross_entropy(f, is_in[DP])
        pairwise = 0.0
        for difference, *at in both_orders(f, *is_in):
            better = (at[DP][0] + at[UN][0]) * at[HE][1] + at[HU][0] * at[UN][1]
            pairwise = pairwise + better * softplus(-difference)
        return 0.5 * sum(pointwise.chunk(2, -1)) + self.pair_weight * pairwise

    @staticmethod
    def _strata(batch, like):
        return [(batch.stratum == code).to(like) for code in range(4)]


def wasserstein(points, first, second, strength=10.0, steps=10):
    """Return the entropic optimal-transport cost between two subsets of points, per member.

    It uses Sinkhorn iterations on exp(-strength * cost / mean cost) with the plan held fixed, as in
    counterfactual regression (Shalit, Johansson & Sontag 2017; Cuturi 2013).

    Parameters
    ----------
    points : Tensor of shape (members, n, d)
    first, second : Tensor of shape (n,)
        1 for the points of each subset, 0 elsewhere. If a subset is empty, the cost is 0.

    Returns
    -------
    cost : Tensor of shape (members,)
    """
    a, b = (mask / mask.sum().clamp_min(1) for mask in (first, second))
    square = points.square().sum(-1)
    cost = square[:, :, None] + square[:, None, :] - 2 * points @ points.transpose(1, 2)
    cost = cost.clamp_min(1e-9)
    with torch.no_grad():
        mean = ((cost @ b) @ a).clamp_min(1e-9)
        kernel = torch.exp(-strength * cost / mean[:, None, None]).clamp_min(1e-30)
        v = torch.ones_like(square)
        for _ in range(steps):
            u = a / (kernel @ (v * (b > 0))[..., None])[..., 0].clamp_min(1e-35)
            v = b / (kernel.transpose(1, 2) @ u[..., None])[..., 0].clamp_min(1e-35)
        plan = u[:, :, None] * kernel * v[:, None, :]
    return (plan * cost).sum((1, 2))
