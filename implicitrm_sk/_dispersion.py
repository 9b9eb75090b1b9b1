"""Whether the counts of a response vary as independent exposures of one preference do."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from ._independence import minimise

#: The counts vary more than exposures of one preference can, if chance alone would bring it about
#: with less than this probability, ...
SIGNIFICANCE = 0.001
#: ... and if a model that allows for it is by more than this likelier, in nats per response: what
#: is fitted is never exact, which many responses make significant.
LEAST_GAIN = 0.05
#: Fewer responses that were shown repeatedly tell nothing.
MIN_RESPONSES = 20
#: More responses than this, evenly spaced, are not looked at.
MAX_RESPONSES = 20_000
#: Least and largest correlation of two exposures of one response.
RANGE = (1e-5, 0.9)


@dataclass(frozen=True)
class Dispersion:
    """Whether the counts of responses vary more than binomial ones.

    Attributes
    ----------
    correlation : float
        Of two exposures of one response given its preference.
    gain : float
        By how much the model with this correlation is likelier, in nats per response.
    p_value : float
    n_responses : int
        The responses tested.
    """

    correlation: float
    gain: float
    p_value: float
    n_responses: int

    @property
    def rejected(self):
        """Whether the counts vary more, neither by chance nor too little to matter."""
        return self.p_value < SIGNIFICANCE and self.gain > LEAST_GAIN

    def __str__(self):
        return (
            f"counts of one response vary more than exposures of one preference do: two of them "
            f"have a correlation of {self.correlation:.2g}, which is by {self.gain:.2g} nats per "
            f"response likelier, on {self.n_responses} responses"
        )


def dispersion_test(reward_logit, propensity_logit, counts, exposures, weight, rate, target):
    """Test counts against binomial ones given the preference, on responses not used in a fit.

    The fitted functions enter as offsets: logit R = a + b f, the logit of the propensity's free
    part = c_k + d u_k, and the false-action rates are refitted, with binomial counts and with
    beta-binomial ones [1]_ of the same means and one correlation for all. Twice the gain in
    log-likelihood is compared with chi-squared of one degree of freedom, halved as the correlation
    is not negative [2]_.

    Parameters
    ----------
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, K)
    counts, exposures : ndarray of shape (n, K)
        NaN where not logged.
    weight : ndarray of shape (n,)
    rate : ndarray of shape (K,)
        False-action rates; those of 0 stay 0.
    target : ndarray of int of shape (K,)
        The preference that each signal shows.

    Returns
    -------
    result : Dispersion or None
        None with fewer than 20 responses that were shown twice.

    References
    ----------
    .. [1] Williams, "The Analysis of Binary Responses from Toxicological Experiments Involving
       Reproduction and Teratogenicity", Biometrics 31, 1975.
    .. [2] Self & Liang, "Asymptotic Properties of Maximum Likelihood Estimators and Likelihood
       Ratio Tests under Nonstandard Conditions", Journal of the American Statistical Association
       82, 1987.
    """
    shown = np.where(np.isnan(counts), 0.0, exposures)
    rows = np.flatnonzero((weight > 0) & (shown.max(axis=1) >= 2))
    if len(rows) < MIN_RESPONSES:
        return None
    rows = rows[:: -(-len(rows) // MAX_RESPONSES)]
    f, u = reward_logit[rows].double(), propensity_logit[rows].double()
    y = torch.as_tensor(np.nan_to_num(counts[rows]))
    n = torch.as_tensor(shown[rows])
    w = weight[rows]
    w = torch.as_tensor(w * w.sum() / (w @ w))
    shows_liked = torch.as_tensor(np.asarray(target) == 1)
    K = len(target)
    known_zero = torch.as_tensor(rate == 0)
    start_rate = torch.logit(torch.as_tensor(np.clip(rate, 1e-4, 0.99)))

    def log_pmf(p, correlation):
        if correlation is None:
            return torch.xlogy(y, p) + torch.xlogy(n - y, 1 - p)
        total = (1 - correlation) / correlation
        a, b = p * total, (1 - p) * total
        top = torch.lgamma(y + a) + torch.lgamma(n - y + b) - torch.lgamma(n + total)
        return top + torch.lgamma(total) - torch.lgamma(a) - torch.lgamma(b)

    def negative(parameters, spread):
        logit = parameters[0] + parameters[1] * f
        e = torch.where(known_zero, 0.0, torch.sigmoid(parameters[3 + K : 3 + 2 * K]))
        active = e + (1 - e) * torch.sigmoid(parameters[3 : 3 + K] + parameters[2] * u)
        correlation = None
        if spread:
            correlation = RANGE[0] + (RANGE[1] - RANGE[0]) * torch.sigmoid(parameters[-1])
        hit = log_pmf(active.clamp(1e-7, 1 - 1e-7), correlation)
        # Without false actions one action rules the other preference out.
        miss = log_pmf(e.clamp(1e-7, 1 - 1e-7).expand_as(y), correlation)
        miss = torch.where(known_zero, torch.where(y > 0, -60.0, 0.0), miss)
        liked = torch.where(shows_liked, hit, miss).sum(-1)
        disliked = torch.where(shows_liked, miss, hit).sum(-1)
        each = torch.logaddexp(logsigmoid(logit) + liked, logsigmoid(-logit) + disliked)
        return -(w * each).sum() / len(w)

    start = torch.cat([f.new_tensor([0.0, 1.0, 1.0]), f.new_zeros(K), start_rate])
    binomial, value0 = minimise(lambda p: negative(p, False), start)
    value1, best = value0, None
    for correlation in (0.003, 0.05):
        logit = math.log(correlation / (RANGE[1] - correlation))
        spread, value = minimise(
            lambda p: negative(p, True), torch.cat([binomial, f.new_tensor([logit])])
        )
        if best is None or value < value1:
            value1, best = value, spread
    gain = max(value0 - value1, 0.0)
    statistic = 2 * len(w) * gain
    return Dispersion(
        correlation=float(RANGE[0] + (RANGE[1] - RANGE[0]) * torch.sigmoid(best[-1])),
        gain=gain,
        p_value=math.erfc(math.sqrt(statistic / 2)) / 2,
        n_responses=len(rows),
    )
