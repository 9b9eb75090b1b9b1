"""Counts that vary more than binomial ones: exposures of one response that are correlated.

The probability of an action varies between responses of equal columns and preference, with the mean
p and a beta distribution. A sequence of n exposures with y actions then has the probability
(Skellam 1948, with the parameters of Williams 1975)

``prod_{i<y} (p + i t) prod_{i<n-y} (1 - p + i t) / prod_{i<n} (1 + i t)``,  t = rho / (1 - rho)

The correlation of two exposures is rho. At rho = 0 it is the binomial p^y (1 - p)^(n-y), and
for n = 1 it does not depend on rho. Below, `spread` is log t, the logit of rho.
"""

import numpy as np
import torch

from ._signal import times

#: From here on, the series of Stirling is exact in double precision. Differences of log-gamma
#: functions are exact below it; above, rounding would spoil them.
LARGE = 50.0
#: The logarithm of a number that is infinite for all purposes, and finite in single precision.
LOG_INFINITE = 69.0
#: The correlation of two exposures at which training starts.
FIRST_CORRELATION = 0.1


def log_product(log_p, spread, count):
    """Return log prod_{i<count} (p + i t), 0 for a count of 0.

    Parameters
    ----------
    log_p, spread : Tensor
        log p and log t.
    count : Tensor
        Integers of at least 0. All shapes broadcast.
    """
    a = (log_p - spread).clamp_max(LOG_INFINITE).exp()  # p / t
    big, small, some = a.clamp_min(LARGE), a.clamp_max(LARGE), count.clamp_min(1)
    near = log_p + torch.lgamma(small + some) - torch.lgamma(small + 1) + (some - 1) * spread
    far = (
        some * log_p
        + (big + some - 0.5) * torch.log1p(some / big)
        - some
        + _stirling(big + some)
        - _stirling(big)
    )
    return torch.where(count > 0, torch.where(a < LARGE, near, far), 0.0)


def effective(log_p, spread, count):
    """Return the derivative of `log_product` in log p: sum_{i<count} p / (p + i t).

    It is the number of actions that carry as much information as `count` correlated ones, between
    1 and `count`.
    """
    a = (log_p - spread).clamp_max(LOG_INFINITE).exp()
    big, small, some = a.clamp_min(LARGE), a.clamp_max(LARGE), count.clamp_min(1)
    near = 1 + small * (torch.digamma(small + some) - torch.digamma(small + 1))
    far = (
        big * torch.log1p(some / big)
        + some / (2 * (big + some))
        + big * (_stirling_slope(big + some) - _stirling_slope(big))
    )
    return torch.where(count > 0, torch.where(a < LARGE, near, far), 0.0)


def log_counts(log_p, log_not_p, spread, count, rest):
    """Return the log-probability of sequences with `count` actions, and `rest` times none.

    Parameters
    ----------
    log_p, log_not_p : Tensor of shape (..., n, C)
        Logarithms of the mean, and of 1 minus the mean.
    spread : Tensor of shape (..., n, C), or None
        Logits of the correlation; None means 0.
    count, rest : Tensor of shape (n, C)
    """
    if spread is None:
        return times(count, log_p) + times(rest, log_not_p)
    certain = torch.zeros_like(spread)
    return (
        log_product(log_p, spread, count)
        + log_product(log_not_p, spread, rest)
        - log_product(certain, spread, count + rest)
    )


def effective_counts(log_p, log_not_p, spread, count, rest):
    """Return the derivatives of `log_counts` in log p and in log(1 - p), taken as two variables."""
    if spread is None:
        return count, rest
    return effective(log_p, spread, count), effective(log_not_p, spread, rest)


def slope_of_spread(spread, acted, rested, n_exposures):
    """Return the derivative of `log_counts` in the spread, from the `effective_counts`."""
    return effective(torch.zeros_like(spread), spread, n_exposures) - acted - rested


def sample_means(p, spread, rng):
    """Sample the probability of an action on each response, of a beta distribution with mean p.

    Parameters
    ----------
    p, spread : ndarray
        The mean, and log t. They broadcast.
    rng : numpy.random.Generator

    Returns
    -------
    drawn : ndarray
        p itself where it is 0 or 1.
    """
    certain, total = (p == 0) | (p == 1), np.exp(-spread)
    a, b = (np.where(certain, 1.0, part * total) for part in (p, 1 - p))
    return np.where(certain, p, rng.beta(a, b))


def _stirling(x):
    """Return log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2."""
    return 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)


def _stirling_slope(x):
    return -1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)
