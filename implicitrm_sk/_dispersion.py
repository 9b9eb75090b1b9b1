"""Tests of counts over exposures: whether they vary as their model says, and show a preference."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2
from torch.nn.functional import logsigmoid

from ._independence import minimise
from .measurement._dispersed import log_counts

#: The counts vary too much for exposures of one preference if chance alone has less than this
#: probability of it ...
SIGNIFICANCE = 0.001
#: ... and if a model that allows more variation gains more than this, in nats per response, or
#: multiplies the variance of the counts by more than this. A fit is never exact, and with many
#: responses even small errors are significant.
LEAST_GAIN = 0.05
LEAST_INFLATION = 1.2
#: With fewer responses that were shown repeatedly, the test is not done.
MIN_RESPONSES = 20
#: Of more responses than this, an evenly spaced sample is tested.
MAX_RESPONSES = 20_000
#: Two preferences are shown only if mean rewards that differ by this much are refuted at this
#: significance. Otherwise the fit may be one of a single kind of response.
LEVEL = 0.15
LEVEL_SIGNIFICANCE = 0.05
#: The smallest and largest correlation of two exposures of one response.
RANGE = (1e-5, 0.9)


@dataclass(frozen=True)
class Dispersion:
    """The result of `dispersion_test`: whether counts of responses vary more than binomial counts.

    Attributes
    ----------
    correlation : float
        The correlation of two exposures of one response given its preference.
    gain : float
        The gain in log-likelihood of the model with this correlation, in nats per response.
    inflation : float
        The variance of the counts of a response with the mean number of exposures, in units of the
        binomial variance.
    p_value : float
    n_responses : int
        The responses tested.
    """

    correlation: float
    gain: float
    inflation: float
    p_value: float
    n_responses: int

    @property
    def rejected(self):
        """Whether the counts vary more, by more than chance and enough to matter."""
        matters = self.gain > LEAST_GAIN or self.inflation > LEAST_INFLATION
        return self.p_value < SIGNIFICANCE and matters

    def __str__(self):
        return (
            "counts of one response vary more than exposures of one preference do. Their variance "
            f"is {self.inflation:.1f} times as large on {self.n_responses} responses that "
            f"were tested. A correlation of {self.correlation:.2g} between exposures raises the "
            f"log-likelihood by {self.gain:.2g} nats per response"
        )


def dispersion_test(reward_logit, propensity_logit, counts, exposures, weight, rate, target):
    """Test counts against binomial counts given the preference, on responses not used in a fit.

    The fitted functions enter as offsets. The logit of the reward R is a + b f. The logit of the
    free part of the propensity is c_k + d u_k for signal k. The false-action rates are refitted
    too. One fit uses binomial counts, the other beta-binomial counts [1]_ with the same means and
    one correlation for all. Twice the gain in log-likelihood is compared with chi-squared with one
    degree of freedom, and the p-value is halved because the correlation is not negative [2]_.

    Parameters
    ----------
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, K)
    counts, exposures : ndarray of shape (n, K)
        NaN where not logged.
    weight : ndarray of shape (n,)
    rate : ndarray of shape (K,)
        False-action rates; a rate of 0 stays 0.
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
        # Without false actions, one action excludes the other preference.
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
    correlation = float(RANGE[0] + (RANGE[1] - RANGE[0]) * torch.sigmoid(best[-1]))
    return Dispersion(
        correlation=correlation,
        gain=gain,
        inflation=1 + (float(n[n > 0].mean()) - 1) * correlation,
        p_value=math.erfc(math.sqrt(statistic / 2)) / 2,
        n_responses=len(rows),
    )


@dataclass(frozen=True)
class Split:
    """The result of `split_test`: whether correlated exposures show two preferences.

    Attributes
    ----------
    gain : float
        The gain in log-likelihood of two preferences over one, in nats per response.
    p_value : float
        The probability of this gain by chance.
    level_p_value : float
        The p-value of the mean reward being lower or higher by 0.15, the larger of the two.
    n_responses : int
        The responses tested.
    """

    gain: float
    p_value: float
    level_p_value: float
    n_responses: int

    @property
    def shown(self):
        """Whether two preferences explain the counts better than chance, at one level only."""
        return self.p_value < SIGNIFICANCE and self.level_p_value < LEVEL_SIGNIFICANCE

    def __str__(self):
        if self.p_value < SIGNIFICANCE:
            return (
                f"a mean reward that differs by {LEVEL} explains the counts nearly as well, if "
                f"exposures are correlated, on {self.n_responses} responses (p = "
                f"{self.level_p_value:.2g})"
            )
        return (
            "correlated exposures explain the counts nearly as well without any preference. "
            f"Preferences raise the log-likelihood by {self.gain:.2g} nats per response, on "
            f"{self.n_responses} responses (p = {self.p_value:.2g})"
        )


def split_test(reward_logit, propensity_logit, counts, exposures, weight, rate, target):
    """Test whether beta-binomial counts are those of two preferences, or of one kind of response.

    The fitted functions enter as offsets, as in `dispersion_test`. Under two preferences, the logit
    of the reward is a + b f. The logit of the free part of the propensity is c_k + d u_k for signal
    k. With one kind of response, the mean may depend on x in any direction. Its logit is linear in
    the logit of the fitted mean, in u_k and in f. Each signal has a correlation
    of its own. False-action rates are refitted, also those that are known.

    Twice the gain is compared with chi-squared with 2 + K degrees of freedom. The distribution of
    the likelihood ratio of two classes against one is not chi-squared. In simulations this
    number of degrees of freedom is on the safe side [1]_.

    Parameters
    ----------
    reward_logit, propensity_logit, counts, exposures, weight, rate, target
        As in `dispersion_test`.

    Returns
    -------
    result : Split or None
        None with fewer than 20 responses that were shown four times.

    References
    ----------
    .. [1] McLachlan & Peel, "Finite Mixture Models", Wiley 2000, section 6.4.
    """
    shown = np.where(np.isnan(counts), 0.0, exposures)
    rows = np.flatnonzero((weight > 0) & (shown.max(axis=1) >= 4))
    if len(rows) < MIN_RESPONSES:
        return None
    rows = rows[:: -(-len(rows) // MAX_RESPONSES)]
    f, u = reward_logit[rows].double(), propensity_logit[rows].double()
    y, n = torch.as_tensor(np.nan_to_num(counts[rows])), torch.as_tensor(shown[rows])
    w = weight[rows]
    w = torch.as_tensor(w * w.sum() / (w @ w))
    shows_liked = torch.as_tensor(np.asarray(target) == 1)
    K = len(target)
    e = torch.as_tensor(np.clip(rate, 1e-4, 0.99))

    def log_pmf(p, spread):
        p = p.clamp(1e-7, 1 - 1e-7)
        return log_counts(p.log(), torch.log1p(-p), spread.expand(y.shape), y, n - y)

    def two(parameters):
        (a, b, d), c, spread, rates = parameters.split([3, K, K, K])
        e = torch.sigmoid(rates)
        active = e + (1 - e) * torch.sigmoid(c + d * u)
        hit, miss = log_pmf(active, spread), log_pmf(e.expand_as(active), spread)
        liked = torch.where(shows_liked, hit, miss).sum(-1)
        disliked = torch.where(shows_liked, miss, hit).sum(-1)
        logit = a + b * f
        return -(w * torch.logaddexp(logsigmoid(logit) + liked, logsigmoid(-logit) + disliked))

    R, active = torch.sigmoid(f)[:, None], e + (1 - e) * torch.sigmoid(u)
    share = torch.where(shows_liked, R, 1 - R)
    m = torch.logit((share * active + (1 - share) * e).clamp(1e-6, 1 - 1e-6))

    def one(parameters):
        c, of_mean, of_u, of_f, spread = parameters.split(K)
        logit = c + of_mean * m + of_u * u + of_f * f[:, None]
        return -(w * log_pmf(torch.sigmoid(logit), spread).sum(-1))

    zeros = m.new_zeros(K)
    of_one = torch.cat([zeros, zeros + 1, zeros, zeros, zeros - 3])
    _, least = minimise(lambda p: one(p).sum() / len(w), of_one)
    of_two = torch.cat([m.new_tensor([0.0, 1.0, 1.0]), zeros, zeros - 3, torch.logit(e)])
    best, value = minimise(lambda p: two(p).sum() / len(w), of_two)
    gain = max(least - value, 0.0)
    p_value = float(chi2.sf(2 * len(w) * gain, 2 + K))
    a, rest = best[:1], best[1:]
    mean = float(torch.sigmoid(a + best[1] * f).mean())
    losses = []
    for other in (mean - LEVEL, mean + LEVEL):
        if 0 < other < 1:
            shifted = a + math.log(other / (1 - other)) - math.log(mean / (1 - mean))
            _, far = minimise(lambda p, a=shifted: two(torch.cat([a, p])).sum() / len(w), rest)
            losses.append(far - value)
    level_p = float(chi2.sf(2 * len(w) * max(min(losses), 0.0), 1)) if losses else 1.0
    return Split(gain, p_value, level_p, len(rows))
