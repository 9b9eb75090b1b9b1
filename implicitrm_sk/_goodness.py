"""Tests whether a log looks as its fit says: activity of users, counts, known propensities."""

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import chi2, kstwo, poisson
from torch.nn.functional import logsigmoid

from ._independence import exposures_that_agree, minimise
from .measurement._action import Action

#: A difference contradicts a fit if chance alone has less than this probability of it ...
SIGNIFICANCE = 1e-3
#: ... and if two distributions differ by more than this share of the users or responses. No
#: distribution is exact, and in a large log even a harmless difference is significant.
LEAST_SHARE_OF_USERS = 0.1
LEAST_SHARE_OF_COUNTS = 0.03
#: Actions on responses of known propensity are compared in standard errors, and as a share of what
#: is expected.
Z, LEAST_SHARE_OF_ACTIONS = 4.5, 0.15
#: Users are counted who act on all rows with less than this probability, and matter if they have
#: this share of the rows.
UNLIKELY, LEAST_SHARE_OF_ROWS = 1e-3, 0.01
#: With fewer users, responses or expected actions nothing is tested.
MIN_USERS, MIN_RESPONSES, MIN_EXPECTED = 30, 50, 20
#: Numbers of actions that fewer responses have are not tested.
LEAST_IN_CELL = 5
#: Responses that were shown more often are not tested.
MAX_SHOWN = 100


def activity_against(log_weight, log_prior):
    """Describe how users contradict a normal distribution of activity, or return None.

    The posterior of the activity of a user, averaged over users, is the prior if the prior is
    right. This is a posterior predictive check (Gelman, Meng & Stern, Statistica Sinica 6, 1996).
    The two distributions are compared by a Kolmogorov-Smirnov test, whose p-value is too large,
    since the activity of a user is known only in part. Users who act on everything, as programs do,
    are far outside of the prior. The model can explain them only by rewards near 1.

    Parameters
    ----------
    log_weight : ndarray of shape (users, members, Q)
        Log-weights of each user over the nodes, given the user's rows.
    log_prior : ndarray of shape (Q,)
    """
    n = len(log_weight)
    if n < MIN_USERS:
        return None
    weight = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
    weight = (weight / weight.sum(axis=-1, keepdims=True)).mean(axis=(0, 1))
    prior = np.exp(log_prior)
    gap = np.cumsum(weight) - np.cumsum(prior / prior.sum())
    share = float(np.abs(gap).max())
    p_value = float(kstwo.sf(share, n))
    if p_value > SIGNIFICANCE or share < LEAST_SHARE_OF_USERS:
        return None
    return (
        "the activity of users does not follow the normal distribution that the model takes it to "
        f"follow. The cumulative distributions of {n} users differ by {share:.2f} "
        f"(p = {max(p_value, 1e-300):.1g})"
    )


def restless_against(measurement, reward_logit, propensity_logit, shift, log_prior, log, rates):
    """Describe users who act on every row, although the fit says that none would, or return None.

    Among users whose probability of this is small under the fit, the number who did is compared
    with its expectation, by a Poisson distribution. The activity of a user is integrated out.

    Parameters
    ----------
    measurement : Measurement
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, P)
    shift : Tensor of shape (Q, P)
        By how much the activity at each node shifts the logits.
    log_prior : Tensor of shape (Q,)
    log : FeedbackLog
        Its rows were shown once. Some rows of a user do as well as all of them.
    rates : Tensor of shape (K,) or None
    """
    if any(signal.silence is None for signal in measurement.signals):
        return None
    logged = log.logged()
    rows = np.flatnonzero(logged.any(axis=1) & (log.sample_weight > 0))
    user = np.unique(log.user[rows], return_inverse=True)[1]
    silence = np.array([signal.silence for signal in measurement.signals], dtype=float)
    silent = torch.as_tensor(np.where(logged[rows], silence, np.nan))
    f, u = reward_logit[rows], propensity_logit[rows]
    log_p = []
    for change in shift:
        rests = measurement.log_likelihood(f, u + change, silent, rates)
        acts = torch.log1p(-rests.exp().clamp_max(1 - 1e-12)).numpy()
        log_p.append(np.bincount(user, acts))
    prior = (log_prior - torch.logsumexp(log_prior, 0)).numpy()
    p = np.exp(logsumexp(np.stack(log_p) + prior[:, None], axis=0))
    rested = np.bincount(user, ~log.fired()[rows], minlength=len(p)) > 0
    unlikely = p < UNLIKELY
    found, expected = unlikely & ~rested, p[unlikely].sum()
    n, n_rows = int(found.sum()), int(found[user].sum())
    if n < 2 or n_rows < LEAST_SHARE_OF_ROWS * len(rows):
        return None
    if poisson.sf(n - 1, expected) > SIGNIFICANCE:
        return None
    return (
        f"{n} users act on all of their rows, {n_rows:,} in number, where the fit expects "
        f"{expected:.1g} such users"
    )


def copies_against(log):
    """Describe which exposures of one response may be one exposure logged twice, or return None.

    Parameters
    ----------
    log : FeedbackLog
        The rows of a response are adjacent.
    """
    weight = log.per_row(log.sample_weight)
    for k, share in exposures_that_agree(log.acts.counts, log.exposures, log.response, weight):
        return (
            f"the exposures of one response agree in {share:.1%} of the cases in which one has "
            f"signal {str(log.act_names()[k])!r}, as if each was logged twice"
        )
    return None


def counts_against(log, reward_logit, propensity_logit, rates):
    """Describe how the numbers of actions of responses contradict a fit, or return None.

    Given its preference, the number of actions of a response is a sum of independent exposures. The
    numbers of responses with 0, 1, ... actions are compared with those that the fit expects, by a
    chi-squared test. They differ if exposures were counted twice, or if one action of a response
    prevents the next. The logits of the fit are first moved, linearly, to where they explain the
    counts best. So a fit that stopped early is not taken for a wrong model.

    Parameters
    ----------
    log : FeedbackLog
        Exposures as counts, or as rows of a response.
    reward_logit : ndarray of shape (m,)
    propensity_logit : ndarray of shape (n, K)
    rates : ndarray of shape (K,)
    """
    for k, signal in enumerate(log.signals):
        if not isinstance(signal, Action) or signal.is_dispersed or signal.delay is not None:
            continue
        found = _against_counts_of(log, reward_logit, propensity_logit[:, k], rates[k], k)
        if found is not None:
            return found
    return None


def _against_counts_of(log, f, u, rate, k):
    signal, logged = log.signals[k], log.logged()[:, k]
    acted = np.where(logged, log.actions[:, k], 0.0)
    shown = logged * (1.0 if log.exposures is None else log.exposures[:, k])
    whole = shown == np.rint(shown)
    response = np.arange(len(u)) if log.response is None else log.response
    n = np.bincount(response, shown, minlength=log.n_responses)
    usable = np.bincount(response, ~whole, minlength=log.n_responses) == 0
    usable &= (n >= 2) & (n <= MAX_SHOWN) & (log.sample_weight > 0)
    if usable.sum() < MIN_RESPONSES:
        return None
    number = np.cumsum(usable) - 1
    rows = np.flatnonzero(usable[response])
    of, m, repeats = number[response[rows]], int(usable.sum()), shown[rows].astype(int)
    sign = 1 if signal.target == 1 else -1
    share, p, rate = _moved(
        sign * f[usable], u[rows], rate, acted[rows], repeats, of, log.sample_weight[usable]
    )
    p = np.repeat(p, repeats)
    of = np.repeat(of, repeats)
    shows = _distribution(of, p, m), _distribution(of, np.full(len(p), rate), m)
    mass = share[:, None] * shows[0] + (1 - share[:, None]) * shows[1]
    seen = np.bincount(response, acted, minlength=log.n_responses)[usable].astype(int)
    found = np.zeros_like(mass)
    found[np.arange(m), seen] = 1.0
    weight, n = log.sample_weight[usable], n[usable].astype(int)
    statistic, freedom, apart = 0.0, 0, 0.0
    for shown_n in np.unique(n):
        mine = n == shown_n
        if mine.sum() < MIN_RESPONSES:
            continue
        w, p = weight[mine, None], mass[mine, : shown_n + 1]
        gap = (w * (found[mine, : shown_n + 1] - p)).sum(axis=0)
        spread = np.diag((w**2 * p).sum(axis=0)) - (w * p).T @ (w * p)
        # Cells of few responses are not near normal, and one cell is the rest of the others.
        cells = np.flatnonzero((w * p).sum(axis=0) >= LEAST_IN_CELL * w.mean())[1:]
        if not len(cells):
            continue
        inner = spread[np.ix_(cells, cells)]
        statistic += gap[cells] @ np.linalg.lstsq(inner, gap[cells], rcond=None)[0]
        freedom += len(cells)
        apart += np.abs(gap).sum() / 2
    apart /= weight.sum()
    p_value = float(chi2.sf(statistic, freedom)) if freedom else 1.0
    if p_value > SIGNIFICANCE or apart < LEAST_SHARE_OF_COUNTS:
        return None
    gap = (weight[:, None] * (found - mass)).sum(axis=0)
    worst = int(np.argmax(np.abs(gap)))
    return (
        f"counts of signal {log.signal_names[k]!r} are not those of independent exposures: "
        f"{found[:, worst].sum():,.0f} of {m:,} responses have {worst} "
        f"action{'s' * (worst != 1)}, where the fit expects {mass[:, worst].sum():,.0f} "
        f"(p = {max(p_value, 1e-300):.1g})"
    )


def _moved(f, u, rate, acted, shown, of, weight):
    """Return P(preference) of responses and P(action) of rows at the likeliest logits a + b f.

    Those of the propensity are c + d u. A false-action rate above 0 is moved too.
    """
    f, u, acted, shown, weight = map(torch.as_tensor, (f, u, acted, shown, weight))
    of = torch.as_tensor(of)
    fixed = torch.tensor(rate == 0)
    start = float(np.log(max(rate, 1e-4) / (1 - max(rate, 1e-4))))

    def parts(values):
        e = torch.where(fixed, 0.0, torch.sigmoid(values[4]))
        p = (e + (1 - e) * torch.sigmoid(values[2] + values[3] * u)).clamp(1e-9, 1 - 1e-9)
        return values[0] + values[1] * f, p, e

    def loss(values):
        logit, p, e = parts(values)
        shows = torch.xlogy(acted, p) + (shown - acted) * torch.log1p(-p)
        e = e.clamp_min(1e-30)
        hides = acted * e.log() + (shown - acted) * torch.log1p(-e)
        liked, other = (torch.zeros_like(logit).index_add(0, of, one) for one in (shows, hides))
        each = torch.logaddexp(logsigmoid(logit) + liked, logsigmoid(-logit) + other)
        return -(weight * each).sum() / weight.sum()

    values, _ = minimise(loss, torch.tensor([0.0, 1.0, 0.0, 1.0, start], dtype=torch.float64))
    logit, p, e = parts(values)
    return torch.sigmoid(logit).numpy(), p.numpy(), float(e)


def _distribution(of, p, m):
    """Return the probabilities of 0, 1, ... actions of m responses, `of` being sorted."""
    n = np.bincount(of, minlength=m)
    first = np.cumsum(n) - n
    mass = np.zeros((m, int(n.max()) + 1))
    mass[:, 0] = 1.0
    for j in range(int(n.max())):
        mine = n > j
        q = p[first[mine] + j, None]
        here = mass[mine] * (1 - q)
        here[:, 1:] += mass[mine][:, :-1] * q
        mass[mine] = here
    return mass


def propensity_against(log, reward_logit, rates):
    """Describe how actions contradict known propensities, or return None.

    Parameters
    ----------
    log : FeedbackLog
        Its rows were shown once.
    reward_logit : ndarray of shape (n,)
    rates : ndarray of shape (K,)
    """
    R = 1 / (1 + np.exp(-reward_logit))
    for k, signal in enumerate(log.signals):
        if not isinstance(signal, Action) or signal.delay is not None:
            continue
        known = log.logged()[:, k] & ~np.isnan(log.propensity[:, k]) & (log.sample_weight > 0)
        a, share = log.propensity[known, k], (R if signal.target == 1 else 1 - R)[known]
        p = share * a + (1 - share) * rates[k]
        seen, expected = log.actions[known, k].sum(), p.sum()
        gap = abs(seen - expected)
        if expected < MIN_EXPECTED or gap < Z * np.sqrt(p @ (1 - p)):
            continue
        if gap > LEAST_SHARE_OF_ACTIONS * expected:
            return (
                f"the known propensities contradict the actions: {seen:,.0f} of {known.sum():,} "
                f"responses with one have signal {log.signal_names[k]!r}, where the fit expects "
                f"{expected:,.0f}"
            )
    return None
