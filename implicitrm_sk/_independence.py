"""Tests whether signals of a response fire independently, given its preference."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from ._score_test import Rows, score_tests

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
#: A score of dependence on all rows contradicts it beyond this number of standard errors.
Z = 4.5
#: Of more signals, only one cause behind all of them is tested on all rows, not every pair.
MOST_IN_PAIRS = 5
#: Log odds ratio by which two signals are made dependent in a score test; the probabilities that it
#: compares are linear in it.
SMALL = 0.05
#: The largest log odds ratio of two signals that is distinguished from "always together".
MAX_INTERACTION = 8.0
#: Step of the parameters in numerical derivatives.
STEP = 1e-4
#: Least p-value, and distance of the largest one from 1, that is combined with others.
NEAREST = 1e-15


@dataclass(frozen=True)
class IndependenceTest:
    """The result of `independence_test`.

    Attributes
    ----------
    statistic : float
        The likelihood-ratio statistic, twice the difference of the log-likelihoods.
    degrees_of_freedom : int
    p_value : float
        That of this statistic and of the `common_causes` together.
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
    for all pairs, or for the pairs of one signal. The p-values are combined, whatever their
    dependence, as that of the mean of tan(pi (1/2 - p)) [5]_. One half of the weight is that of the
    likelihood ratio, and the score tests share the other half.

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
    .. [5] Liu & Xie, "Cauchy combination test: a powerful test with analytic p-value calculation
       under arbitrary dependency structures", Journal of the American Statistical Association 115,
       2020.
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

    def log_outcomes(parameters):
        """Return the log-probabilities of all patterns, (n, patterns)."""
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
        logit = logit[:, None]
        return torch.logaddexp(logsigmoid(logit) + log_p, logsigmoid(-logit) + log_e)

    def negative(parameters):
        return -(w * torch.logsumexp(log_outcomes(parameters) + log_agrees, dim=1)).sum() / len(w)

    start = torch.tensor([0.0, 1.0] + [0.0] * K + [1.0] * K, dtype=f.dtype)
    independent, value0 = minimise(negative, start)
    independent = torch.cat([independent, torch.zeros(len(pairs), dtype=f.dtype)])
    dependent, value1 = minimise(negative, independent)
    statistic = max(2 * len(w) * (value0 - value1), 0.0)
    freedom = torch.tensor(len(pairs) / 2, dtype=torch.float64)
    p_value = float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2).double()))
    groups = [range(len(pairs)), *([i for i, p in enumerate(pairs) if k in p] for k in range(K))]
    causes = common_causes(log_outcomes, independent, len(pairs), groups, agrees, w)
    interactions = MAX_INTERACTION * torch.tanh(dependent[2 + 2 * K :] / MAX_INTERACTION)
    return IndependenceTest(
        statistic=statistic,
        degrees_of_freedom=len(pairs),
        p_value=combined(p_value, causes),
        log_odds_ratio={
            (signals[j], signals[k]): float(t)
            for t, (j, k) in zip(interactions, pairs, strict=True)
        },
        signals=signals,
        n_rows=len(rows),
    )


def combined(p_value, others):
    """Return the p-value of one test, which has half of the weight, and of several others."""
    p = np.clip([p_value, *others], NEAREST, 1 - NEAREST)
    weight = np.full(len(p), 0.5 / len(others))
    weight[0] = 0.5
    return float(0.5 - np.arctan(weight @ np.tan(np.pi * (0.5 - p))) / np.pi)


def common_causes(log_outcomes, start, n_interactions, groups, agrees, weight):
    """Return the p-value of the score test of each group of interactions that share one value.

    Its variance is the expected information. The observed one need not be positive if few rows have
    several actions.

    Parameters
    ----------
    log_outcomes : callable
        Log-probabilities of all outcomes, (n, outcomes), from parameters whose last ones are the
        interactions.
    start : Tensor
        The most likely parameters without interactions.
    n_interactions : int
    groups : list of sequence of int
    agrees : Tensor of bool of shape (n, outcomes)
        The outcomes that agree with what was logged: one in a row where all signals are.
    weight : Tensor of shape (n,)

    References
    ----------
    .. [1] Rao, "Large sample tests of statistical hypotheses concerning several parameters with
       applications to problems of estimation", Mathematical Proceedings of the Cambridge
       Philosophical Society 44, 1948.
    """
    steps = STEP * torch.eye(len(start), dtype=start.dtype)
    slope = torch.stack([log_outcomes(start + d) - log_outcomes(start - d) for d in steps], -1)
    slope = slope / (2 * STEP)
    p = log_outcomes(start).exp()
    score, information = 0.0, 0.0
    for logged, rows in _by_logged(agrees):
        # What is logged sums over the outcomes that differ in what is not.
        p_seen = p[rows] @ logged.T
        s = torch.einsum("nc,ncp,oc->nop", p[rows], slope[rows], logged) / p_seen[..., None]
        happened = (agrees[rows].to(p) @ logged.T > 0).to(p)
        score = score + torch.einsum("n,no,nop->p", weight[rows], happened, s)
        information = information + torch.einsum("n,no,nop,noq->pq", weight[rows], p_seen, s, s)
    first = len(start) - n_interactions
    a, b = information[:first, :first], information[:first, first:]
    # Only what the other parameters do not explain tells of the interactions.
    left = information[first:, first:] - b.T @ torch.linalg.pinv(a, hermitian=True) @ b
    found = []
    for group in groups:
        group = list(group)
        variance = left[group][:, group].sum()
        z = score[first:][group].sum() / variance.clamp_min(1e-12).sqrt()
        found.append(float(torch.special.erfc(z.abs() / 2**0.5)))
    return found


def _by_logged(agrees):
    """Yield the outcomes of what was logged, and the rows where it was, of each pattern.

    The outcomes are a 0-1 matrix of shape (outcomes of what was logged, complete outcomes).
    """
    n_signals = int(math.log2(agrees.shape[1]))
    patterns = np.array(list(itertools.product([0, 1], repeat=n_signals)), dtype=bool)
    agrees = agrees.numpy()
    # A signal was logged if the outcomes that agree have one value of it.
    share = agrees.astype(float) @ patterns / agrees.sum(axis=1, keepdims=True)
    is_logged, code = np.unique((share == 0) | (share == 1), axis=0, return_inverse=True)
    for k, logged in enumerate(is_logged):
        _, number = np.unique(patterns[:, logged], axis=0, return_inverse=True)
        outcomes = np.eye(number.max() + 1)[:, number.ravel()]
        yield torch.as_tensor(outcomes), torch.as_tensor(np.flatnonzero(code.ravel() == k))


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


def dependence_against(rows: Rows, log):
    """Describe how signals of one sign depend on each other given preference, or return None.

    The signals of a pair, or all of them, are made dependent by a small log odds ratio t, as in
    `independence_test`. Three signals of a row show that, whatever its logits are. So all rows can
    be tested, those that the fit has seen too, with the errors of the fit projected out
    (`score_tests`). This finds a weaker dependence than `independence_test` does on the rows held
    out.

    Parameters
    ----------
    rows : Rows
    log : FeedbackLog
        As for `score_tests`.
    """
    signals, u = rows.measurement.signals, rows.propensity_logit
    plain = all("rate" in signal.takes for signal in signals) and u.shape[1] == len(signals)
    if not plain or rows.activity is not None:
        return None
    pairs = [
        (j, k)
        for j, k in itertools.combinations(range(len(signals)), 2)
        if signals[j].shows == signals[k].shows
    ]
    tested = [[pair] for pair in pairs] if len(signals) <= MOST_IN_PAIRS else []
    if len(pairs) > 1:
        tested.append(pairs)
    rates = torch.zeros(len(signals), dtype=u.dtype) if rows.rates is None else rows.rates

    def dependent(pairs):
        def distribution(rows, y):
            away = y - (rates + (1 - rates) * torch.sigmoid(rows.propensity_logit))
            change = torch.zeros(len(y), dtype=y.dtype)
            for (shown,) in {signals[j].shows for j, _ in pairs}:
                products = [
                    away[:, j] * away[:, k] for j, k in pairs if signals[j].shows == (shown,)
                ]
                change = change + rows.probability(y, preferred=shown) * sum(products)
            return rows.probability(y) + SMALL * change

        return distribution

    for which, test in zip(
        tested, score_tests(rows, log, [dependent(p) for p in tested]), strict=True
    ):
        if test is None or abs(test.z) < Z or abs(SMALL * test.share) < LARGE_LOG_ODDS_RATIO:
            continue
        names = sorted({str(log.signal_names[k]) for pair in which for k in pair})
        return (
            f"the signals {', '.join(map(repr, names))} do not fire independently given "
            f"preference, by {abs(test.z):.1f} standard errors"
        )
    return None


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
