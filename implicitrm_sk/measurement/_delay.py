"""Actions that come late: the delayed feedback model."""

import numpy as np
import torch
from scipy.optimize import brentq
from torch.nn.functional import logsigmoid

from ._signal import full_precision, initial_logit, log1mexp

#: Beyond this, exp(-z) is 0 in float32, and the product is NaN if z is infinite.
MAX_Z = 80.0
#: A finite age that is large in every unit.
OLDEST = 1e30


def split(u):
    """Return the logits of the propensity and the logarithms of the rate of the delay.

    Parameters
    ----------
    u : Tensor of shape (..., n, 2 K)
        Column by column.
    """
    u = full_precision(u).unflatten(-1, (-1, 2))
    return u[..., 0], u[..., 1]


def late_terms(u, y, age, delay, grad):
    """Return log P(y | x) given the preference that an action shows, and its derivative.

    A share F(t) = 1 - exp(-lambda t) of the users who will act has acted by age t [1]_. With the
    propensity A and z = lambda t, a row of a column that shows r* has one of three states. Each has
    a log-probability, and derivatives in logit A and log lambda:

    - silent at age t: log(1 - A F), with -A (1 - A) F / (1 - A F) and -A z exp(-z) / (1 - A F);
    - acted by age t: log A + log F, with 1 - A and z exp(-z) / F;
    - acted after the time d: log A + log lambda - lambda d, with 1 - A and 1 - lambda d.

    Parameters
    ----------
    u : Tensor of shape (..., n, 2 K)
        Logits of A, and log lambda.
    y : Tensor of shape (n, K)
    age, delay : Tensor of shape (n, K), or None
        Time since the row was shown, and time until the action, NaN if not known. Without ages, all
        rows are old.
    grad : bool

    Returns
    -------
    log_prob : Tensor of shape (..., n)
    derivative : Tensor of the shape of u, or None

    References
    ----------
    .. [1] Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014, Eq. 4 to 9.
    """
    logit, log_rate = split(u)
    acted, unlogged = y > 0, torch.isnan(y)
    log_a, log_not_a = logsigmoid(logit), logsigmoid(-logit)
    z = _z(log_rate, age, y)
    log_f = log1mexp(-z)
    log_silent = torch.logaddexp(log_not_a, log_a - z)
    when, timed = log_f, None
    if delay is not None:
        timed = ~torch.isnan(delay)
        passed = log_rate.exp() * torch.nan_to_num(delay)
        when = torch.where(timed, log_rate - passed, log_f)
    rows = torch.where(acted, log_a + when, log_silent).masked_fill(unlogged, 0.0).sum(-1)
    if not grad:
        return rows, None
    a, not_a = log_a.exp(), log_not_a.exp()
    in_logit = torch.where(acted, not_a, -(log_a + log_not_a + log_f - log_silent).exp())
    slope = z * (-z).exp()
    in_rate = slope / log_f.exp()
    if timed is not None:
        in_rate = torch.where(timed, 1 - passed, in_rate)
    in_rate = torch.where(acted, in_rate, -a * slope / log_silent.exp())
    derivative = torch.stack([in_logit, in_rate], -1).masked_fill(unlogged[..., None], 0.0)
    return rows, derivative.flatten(-2)


def _z(log_rate, age, y):
    if age is None:
        return torch.full_like(log_rate, MAX_Z)
    # Where nothing is logged any age will do, but an infinite one does not have a derivative.
    age = torch.where(torch.isnan(y), 1.0, age).clamp(max=OLDEST)
    return (log_rate.exp() * age).clamp(max=MAX_Z)


def late_log_passive(u, y, age):
    """Return log P(never acts | r*, y) for the preference that an action shows, and for the other.

    Silence at a young age leaves open whether the action will still come:
    P(never | silent by t) = (1 - A) / (1 - A F).
    """
    logit, log_rate = split(u)
    log_a, log_not_a = logsigmoid(logit), logsigmoid(-logit)
    silent = torch.logaddexp(log_not_a, log_a - _z(log_rate, age, y))
    seen = torch.where(torch.isnan(y), log_not_a, log_not_a - silent).clamp(max=0.0).sum(-1)
    return seen.masked_fill((y > 0).any(-1), -torch.inf), log_not_a.sum(-1)


def truncated_rate(delay, age, weight, default):
    """Return the rate of exponential delays that are observed only below an age.

    It is the root of sum_i w_i (1 / lambda - d_i - t_i / (exp(lambda t_i) - 1)), which is the
    derivative of the log-likelihood of d given d < t.

    Parameters
    ----------
    delay, age, weight : ndarray of shape (n,)
    default : float
        The result if there is no such rate: without delays, or if they are as long as ages allow.
    """

    def slope(log_rate):
        rate = np.exp(log_rate)
        with np.errstate(over="ignore", invalid="ignore"):
            cut = np.where(np.isfinite(age), age / np.expm1(rate * age), 0.0)
        return weight @ (1 / rate - delay - cut)

    if not len(delay) or not (mean := np.average(delay, weights=weight)) > 0:
        return default
    low, high = np.log([1e-3 / mean, 1e3 / mean])
    if not slope(low) > 0 > slope(high):
        return 1 / mean
    return float(np.exp(brentq(slope, low, high)))


def late_initial_logits(y, weight, prior, acted, age, delay):
    """Return the logits at which propensity and delay of one column start, (members, 2).

    The rate maximises the likelihood of known delays, given that each is shorter than the age of
    its row. Without known delays, half of the actions come within half the median age.

    Parameters
    ----------
    y, weight, age, delay : ndarray of shape (n,); `age` and `delay` may be None
    prior : ndarray of shape (members,) or (members, 1)
        Probability of the preference that the action shows.
    acted : float
        Share of rows with the action so far.
    """
    counted = ~np.isnan(y) & (weight > 0)
    rate = 1.0
    if age is not None and counted.any():
        median = np.median(age[counted])
        rate = 2 * np.log(2.0) / median if np.isfinite(median) else 1.0
        if delay is not None:
            known = counted & ~np.isnan(delay)
            rate = truncated_rate(delay[known], age[known], weight[known], rate)
        come = -np.expm1(-rate * age[counted])
        acted = acted / max(np.average(come, weights=weight[counted]), acted, 1e-3)
    logit = initial_logit(acted / prior)
    return np.concatenate([logit, np.full_like(logit, np.log(rate))], axis=-1)
