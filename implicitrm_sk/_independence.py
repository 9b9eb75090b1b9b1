"""A likelihood-ratio test whether signals of a preferred response fire independently."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

#: 2**K patterns per row are enumerated. Of more signals, the most often logged ones are used ...
MAX_SIGNALS = 5
#: ... and of more rows than this divided by 2**K, a random sample of that size.
MAX_PATTERNS = 2**20
#: Two signals look like one if they agree on at least this share of the acted rows.
SAME_SIGNAL = 0.95
#: With fewer acted rows, or rows with three signals, dependence is not tested.
MIN_ROWS = 20
#: Dependence contradicts the assumption of independent signals if chance alone has less than this
#: probability of it ...
SIGNIFICANCE = 0.001
#: ... and if it is stronger than this for some pair. The fitted heads are never exact, and with
#: many rows even small errors are significant.
LARGE_LOG_ODDS_RATIO = 0.5
#: The largest log odds ratio of two signals that is distinguished from "always together".
MAX_INTERACTION = 8.0
#: Largest p-value below 1.
NEAREST = 1 - 1e-15
#: Step of the parameters in numerical second derivatives.
STEP = 1e-4


@dataclass(frozen=True)
class IndependenceTest:
    """The result of `independence_test`.

    Attributes
    ----------
    statistic : float
        The likelihood-ratio statistic, twice the difference of the log-likelihoods.
    degrees_of_freedom : int
    p_value : float
        Probability that the least p-value of this statistic and of the `common_causes` is as small
        as it is, if the signals are independent.
    log_odds_ratio : dict of (int, int) to float
        The association of each pair of signals given preference; 0 means independence.
    signals : tuple of int
        The signals tested.
    n_rows : int
        The rows tested.
    """

    statistic: float
    degrees_of_freedom: int
    p_value: float
    log_odds_ratio: dict
    signals: tuple
    n_rows: int

    @property
    def rejected(self):
        """Whether the dependence is beyond chance and strong enough to matter."""
        strongest = max(map(abs, self.log_odds_ratio.values()))
        return self.p_value < SIGNIFICANCE and strongest > LARGE_LOG_ODDS_RATIO


def independence_test(reward_logit, propensity_logit, actions, weight, false_action_rate=None):
    """Test conditional independence of K >= 3 signals given preference on rows not used in fit.

    The fitted functions enter as offsets. The logit of the reward R is a + b f, and the logit of
    the propensity is c_k + d_k u_k for signal k. Both are refitted, once under independence and
    once with pairwise interactions of the actions y, with A the propensity and r* the preference,

    P(y | r*=1) proportional to prod_k Bern(y_k; A_k) exp(sum_jk t_jk (y_j - A_j)(y_k - A_k)),

    the log-linear model of capture-recapture with dependent sources [1]_ [2]_. Twice the gain in
    log-likelihood is compared with chi-squared of K (K - 1) / 2 degrees of freedom [3]_.

    Most often, dependence has one cause: users looked at some responses only, or one signal is a
    step before the others. Against this, score tests with one parameter have more power: t_jk = t
    for all pairs, or for the pairs of one signal. The least p-value is corrected for the number of
    tests [5]_.

    Parameters
    ----------
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, K)
        Logits of the free part (A - e) / (1 - e) of the propensity A, e being the false-action
        rate.
    actions : ndarray of shape (n, K)
        0, 1 or NaN.
    weight : ndarray of shape (n,)
        Weights. Their sum is scaled to the effective number of rows (sum w)^2 / sum w^2 [4]_.
    false_action_rate : Tensor of shape (K,) or None

    Returns
    -------
    result : IndependenceTest or None
        None with fewer than 20 rows in which three of the signals are logged.

    References
    ----------
    .. [1] Fienberg, "The multiple recapture census for closed populations and incomplete 2^k
       contingency tables", Biometrika 59, 1972.
    .. [2] International Working Group for Disease Monitoring and Forecasting, "Capture-recapture
       and multiple-record systems estimation I", American Journal of Epidemiology 142, 1995.
    .. [3] Wilks, "The large-sample distribution of the likelihood ratio for testing composite
       hypotheses", Annals of Mathematical Statistics 9, 1938.
    .. [4] Kish, "Survey Sampling", Wiley, 1965.
    .. [5] Sidak, "Rectangular confidence regions for the means of multivariate normal
       distributions", Journal of the American Statistical Association 62, 1967.
    """
    n_signals = actions.shape[1]
    logged = (~np.isnan(actions)).sum(axis=0)
    signals = tuple(sorted(np.argsort(-logged, kind="stable")[:MAX_SIGNALS].tolist()))
    seen = ~np.isnan(actions[:, signals])
    rows = np.flatnonzero((weight > 0) & seen.any(axis=1))
    if np.count_nonzero(seen[rows].sum(axis=1) >= 3) < MIN_ROWS:
        return None
    most = MAX_PATTERNS // 2 ** len(signals)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    f = reward_logit[rows]
    u = propensity_logit[rows][:, signals]
    y = torch.as_tensor(actions[np.ix_(rows, signals)])
    w = weight[rows]
    w = torch.as_tensor(w * w.sum() / (w @ w))
    e = torch.zeros(n_signals, dtype=f.dtype) if false_action_rate is None else false_action_rate
    e = e[list(signals)]
    K = len(signals)
    pairs = list(itertools.combinations(range(K), 2))
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=K)), dtype=f.dtype)
    # (n, patterns): the complete patterns that agree with what was logged.
    agrees = ((patterns[None] == y[:, None]) | torch.isnan(y)[:, None]).all(-1)
    log_agrees = torch.where(agrees, 0.0, -torch.inf)
    log_e = torch.where(patterns == 1, torch.log(e), torch.log1p(-e)).sum(-1)

    def unpack(parameters):
        reward, free = parameters[:2], parameters[2 : 2 + 2 * K].view(2, K)
        return reward[0] + reward[1] * f, free[0] + free[1] * u

    def negative(parameters):
        logit, free = unpack(parameters)
        a = e + (1 - e) * torch.sigmoid(free)
        log_a = torch.log(a.clamp_min(1e-12))
        log_not_a = torch.log1p(-e) + logsigmoid(-free)
        log_p = (patterns[None] * log_a[:, None] + (1 - patterns[None]) * log_not_a[:, None]).sum(
            -1
        )
        interactions = MAX_INTERACTION * torch.tanh(parameters[2 + 2 * K :] / MAX_INTERACTION)
        if len(interactions):
            centred = patterns[None] - a[:, None]
            for t, (j, k) in zip(interactions, pairs, strict=True):
                log_p = log_p + t * centred[..., j] * centred[..., k]
            log_p = log_p - torch.logsumexp(log_p, dim=1, keepdim=True)
        preferred = logsigmoid(logit) + torch.logsumexp(log_p + log_agrees, dim=1)
        not_preferred = logsigmoid(-logit) + torch.logsumexp(log_e + log_agrees, dim=1)
        return -(w * torch.logaddexp(preferred, not_preferred)).sum() / len(w)

    start = torch.tensor([0.0, 1.0] + [0.0] * K + [1.0] * K, dtype=f.dtype)
    independent, value0 = minimise(negative, start)
    independent = torch.cat([independent, torch.zeros(len(pairs), dtype=f.dtype)])
    dependent, value1 = minimise(negative, independent)
    statistic = max(2 * len(w) * (value0 - value1), 0.0)
    freedom = torch.tensor(len(pairs) / 2, dtype=torch.float64)
    p_values = [float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2).double()))]
    groups = [range(len(pairs)), *([i for i, p in enumerate(pairs) if k in p] for k in range(K))]
    p_values += common_causes(negative, independent, len(pairs), groups, len(w))
    interactions = MAX_INTERACTION * torch.tanh(dependent[2 + 2 * K :] / MAX_INTERACTION)
    return IndependenceTest(
        statistic=statistic,
        degrees_of_freedom=len(pairs),
        p_value=-math.expm1(len(p_values) * math.log1p(-min(*p_values, NEAREST))),
        log_odds_ratio={
            (signals[j], signals[k]): float(t)
            for t, (j, k) in zip(interactions, pairs, strict=True)
        },
        signals=signals,
        n_rows=len(rows),
    )


def common_causes(function, start, n_interactions, groups, n):
    """Return the p-value of the score test of each group of interactions that share one value.

    Parameters
    ----------
    function : callable
        Minus the mean log-likelihood of parameters. The last ones are the interactions.
    start : Tensor
        Its minimum without interactions.
    n_interactions : int
    groups : list of sequence of int
    n : int
        Number of rows.

    References
    ----------
    .. [1] Rao, "Large sample tests of statistical hypotheses concerning several parameters with
       applications to problems of estimation", Mathematical Proceedings of the Cambridge
       Philosophical Society 44, 1948.
    """

    def gradient(parameters):
        parameters = parameters.detach().requires_grad_()
        return torch.autograd.grad(function(parameters), parameters)[0]

    steps = STEP * torch.eye(len(start), dtype=start.dtype)
    curvature = torch.stack([gradient(start + d) - gradient(start - d) for d in steps])
    information = n * (curvature + curvature.T) / (4 * STEP)
    first = len(start) - n_interactions
    score = -n * gradient(start)[first:]
    a, b = information[:first, :first], information[:first, first:]
    # Only what the other parameters do not explain tells of the interactions.
    left = information[first:, first:] - b.T @ torch.linalg.pinv(a, hermitian=True) @ b
    found = []
    for group in groups:
        group = list(group)
        variance = left[group][:, group].sum()
        z = score[group].sum() / variance.clamp_min(1e-12).sqrt()
        found.append(float(torch.special.erfc(z.abs() / 2**0.5)))
    return found


def minimise(function, start):
    """Return the parameters that minimise a function of a tensor, and its value there."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=300,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = function(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return parameters.detach(), float(function(parameters))


def signals_that_agree(actions, weight):
    """Return (j, k, share) of pairs that agree on nearly every row on which either acted.

    Parameters
    ----------
    actions : ndarray of shape (n, K)
        Actions, or their number.
    weight : ndarray of shape (n,)
    """
    found = []
    for j, k in itertools.combinations(range(actions.shape[1]), 2):
        share = _agreement(actions[:, j], actions[:, k], weight)
        if share >= SAME_SIGNAL:
            found.append((j, k, share))
    return found


def exposures_that_agree(actions, exposures, response, weight):
    """Return (k, share) of signals whose exposures of one response agree whenever one acted.

    Each exposure is compared with the next one of the same response. Counted exposures are also
    compared within the row: all or none of them acted.

    Parameters
    ----------
    actions : ndarray of shape (n, K)
        Actions, or their number if there are exposures. The rows of a response are adjacent.
    exposures : ndarray of shape (n, K) or None
    response : ndarray of int of shape (n,) or None
    weight : ndarray of shape (n,)
    """
    found = []
    for k in range(actions.shape[1]):
        column = actions[:, k]
        first, second, w = [], [], []
        if response is not None:
            again = np.flatnonzero(response[1:] == response[:-1])
            first.append(column[again])
            second.append(column[again + 1])
            w.append(weight[again])
        if exposures is not None:
            counted = exposures[:, k] > 1
            first.append(column[counted])
            second.append(exposures[counted, k])
            w.append(weight[counted] * (column[counted] > 0))
        share = _agreement(*map(np.concatenate, (first, second, w)))
        if share >= SAME_SIGNAL:
            found.append((k, share))
    return found


def _agreement(a, b, weight):
    """Return the share of agreement among rows on which either acted, 0 if there are few."""
    either = ((a > 0) | (b > 0)) & ~np.isnan(a) & ~np.isnan(b) & (weight > 0)
    if np.count_nonzero(either) < MIN_ROWS:
        return 0.0
    return float(np.average((a == b)[either], weights=weight[either]))
