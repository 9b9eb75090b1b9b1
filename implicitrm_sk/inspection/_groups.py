"""Comparison of groups of responses: mean rewards with intervals, from the log itself."""

import warnings
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone

from .._activity import HEADS
from .._identification import ADVICE, BOUNDED, IDENTIFIED, Identification
from .._log import number_responses
from .._prediction import FittedMixture
from .._typing import Rows
from .._warnings import warn
from ..exceptions import IdentificationWarning, ImplicitRMError
from ..measurement import _mixture
from ..measurement._one_step import Activity, bounds_of, reward_of
from ..training._users import quadrature
from ._arguments import of_fit
from ._comparison import GroupComparison
from ._grouped import GroupedLog, activity_given_others, at_nodes, one_step_values


def compare_groups(
    est: Any,
    X: Rows,
    y: ArrayLike,
    by: ArrayLike,
    *,
    reference: Any = None,
    user_id: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    same_prompts: bool = False,
    n_folds: int = 5,
    confidence: float = 0.9,
    **fit_params: Any,
) -> GroupComparison:
    """Compare the mean reward of groups of responses, with intervals.

    Shares of actions show how readily users act on the responses of a model, a prompt version or a
    locale. This function compares how often users prefer them, as far as the log identifies it.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        The settings and their assumptions. It need not be fitted and is not changed.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        The responses of the log.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    by : array-like of shape (n_samples,)
        The group of each row: model, prompt version, locale, day. At least two groups of 20 rows
        each.
    reference : object, default=None
        The group with which the others are compared; None means the largest one.
    user_id : array-like of shape (n_samples,), default=None
        The user who acted. Rows of a user may depend on each other; a row without an id is a user
        of its own. The fits test whether users differ in activity, and the estimates allow for it.
    groups : array-like of shape (n_samples,), default=None
        The prompt of each row. Rows of a prompt may depend on each other.
    labels : array-like of shape (n_samples,), default=None
        Labels of some rows, as in `fit`. Whether a row has a label may depend on its group, and on
        whether there was an action.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, also in the means.
    same_prompts : bool, default=False
        Compare on the same prompts: those of `groups` with rows in every group, each with the same
        weight. Otherwise each group is evaluated on its own responses.
    n_folds : int, default=5
        Number of parts of the log; each is scored by a fit on the others. With `est.verbose` each
        fit is announced.
    confidence : float, default=0.9
        Confidence of the intervals, each separately: they are not widened for the number of groups.
    **fit_params : dict
        Further arguments of `fit` are refused, with the reason and what to pass instead. They are
        response_id, exposures, propensity, age and delay.

    Returns
    -------
    comparison : GroupComparison
        The result, which prints as text; `to_frame` and `plot` are its other forms.

    Raises
    ------
    TypeError
        If `est` is not an `ImplicitRewardEstimator`, or an argument is not one of `fit`.
    ValueError
        If there is only one group, a group has fewer than 20 rows, or `by` has missing values. If
        the reference does not exist, the settings do not model every signal, or an argument of
        `fit` is refused.

    Warns
    -----
    UserWarning
        The warnings of the fits, one of each kind.

    Notes
    -----
    The estimate of the reward of a row with features x is R(x) plus the first entry of I(x)^-1 s.
    Here R is the fitted reward and A_k the propensities. The score s of (R, A_k) at the row is the
    derivative of log P(y | x), and I(x) = E[s s'] is its information. R and A_k come from a fit to
    the other folds, which also gets the group of each row as columns of X. The mean over a group is
    free of errors of the fit to first order [1]_. For two positive actions it is the estimator of
    [2]_. Logging and labelling are assumed to depend on the group and the other actions, but not on
    x. The mean over rows of P(r*=1 | x, y) is another estimator. Its own standard error is far too
    small.

    Standard errors sum over users, or prompts; with both, they are two-way clustered [3]_. The
    intervals are normal. They cover the sampling error, not a broken assumption: see
    `sensitivity_report`.

    I(x) is singular if the log does not identify the reward, for example with one positive and one
    negative action. The comparison then has bounds instead of an estimate. A mean reward is at
    least the share of responses with a positive action, and at most 1 minus that with a negative
    one. With false-action rates e_k, it is at least (share_k - e_k) / (1 - e_k). The known facts
    may be only that two signals of one sign are independent among rows that were looked at. Then
    the bounds are the one-step estimates of `IdentificationReport.bounds`. The ends include the
    sampling error, so that they contain the whole set of possible values.

    Users who differ in activity make the signals of a row depend on each other. If the fits find
    such users, s is the score of a row given the other rows of its user. I(x) is then a mean over
    users. The intervals do not include the error of the loadings, so they are too short with few
    users. If the level is *bounded*, only the bounds that do not need independence are then given.

    References
    ----------
    .. [1] Chernozhukov et al., "Double/debiased machine learning for treatment and structural
       parameters", The Econometrics Journal 21, 2018.
    .. [2] Das, Kennedy & Jewell, "Doubly robust capture-recapture methods for estimating population
       size", Journal of the American Statistical Association, 2023.
    .. [3] Cameron, Gelbach & Miller, "Robust inference with multiway clustering", Journal of
       Business & Economic Statistics 29, 2011.

    Examples
    --------
    Users like the responses of both models equally, but copy those of the second more readily:

    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import compare_groups
    >>> rng = np.random.default_rng(1)
    >>> X, model = rng.normal(size=(3000, 2)), rng.choice(["old", "new"], size=3000)
    >>> liked = rng.random(3000) < 1 / (1 + np.exp(-2 * X[:, 0]))
    >>> ready = np.where(model == "new", 0.7, 0.4)[:, None]
    >>> y = (liked[:, None] & (rng.random((3000, 2)) < ready)).astype(int)
    >>> est = ImplicitRewardEstimator(
    ...     shared_examination=False, learning_rate_init=0.01, n_estimators=2, random_state=0
    ... )
    >>> found = compare_groups(est, X, y, model, reference="old").to_frame()
    >>> found.loc["new", ["rate_0", "rate_1"]].gt(found.loc["old", ["rate_0", "rate_1"]]).all()
    np.True_
    >>> low, high = found.loc["new", ["difference_low", "difference_high"]]
    >>> bool(low < 0 < high)
    True
    """
    of_fit("compare_groups", fit_params)
    if by is None:
        raise ImplicitRMError(
            "by is None; expected the group of each row, such as its model. Pass it."
        )
    work = GroupedLog(
        "compare_groups",
        est,
        X,
        y,
        by,
        user_id=user_id,
        groups=groups,
        labels=labels,
        sample_weight=sample_weight,
        n_folds=n_folds,
    )
    position = work.check_reference(reference)
    if not 0 < confidence < 1:
        raise ImplicitRMError(f"confidence must lie in (0, 1), got {confidence!r}. Pass 0.9.")
    weight = work.weights(same_prompts)
    fits = cross_fit(work)
    ends, verdict = _ends(work, fits)
    return _comparison(work, ends, verdict, weight, position, confidence, same_prompts)


class _Fits:
    """The results of the fits to all folds.

    Attributes
    ----------
    identifications : list of Identification
    active : bool
        Whether users differ in activity, in most of the fits.
    shown_twice : tuple of int
    measurement : Measurement
    rates : Tensor of shape (K,) or None
    """

    def __init__(self):
        self.identifications, self.parts, self.loadings, self.n_active = [], [], [], 0

    def add(self, fitted, X, rows, work):
        """Add the predictions of a fit for rows that it has not seen."""
        mixture = FittedMixture.of(fitted)
        f, u = mixture.members(X, *HEADS)
        f, u = _mixture.mean_logit(f), u.mean(0)
        found = [f, u]
        if work.user is not None:
            found += _activity(mixture, f, u, rows, work)
        self.parts.append((rows, *found))
        self.identifications.append(fitted.identification_)
        self.n_active += mixture.differs
        self.loadings.append(getattr(fitted, "user_loading_", None))
        self.shown_twice = fitted.evidence_.shown_twice
        self.measurement, self.rates = mixture.measurement, mixture.false_action_rate

    @property
    def active(self):
        return 2 * self.n_active > len(self.parts)

    @property
    def loading(self):
        """As `user_loading_`: the mean of the fits in which users differ, 0 if most have none."""
        if self.loadings[0] is None:
            return None
        found = [one for one in self.loadings if one.any()] if self.active else self.loadings
        return np.mean(found, axis=0) if self.active else np.zeros_like(found[0])

    def logits(self):
        """Return the logits of all rows, in their order."""
        return [torch.cat(self._of_parts(k))[self._order()] for k in (1, 2)]

    @property
    def activity(self):
        """The users of all rows; None if they do not differ."""
        if not self.active:
            return None
        shift, log_weight = (torch.cat(self._of_parts(k), 1)[:, self._order()] for k in (3, 4))
        return Activity(shift, log_weight, log_weight[:, :0].T)

    def _of_parts(self, k):
        return [part[k] for part in self.parts]

    def _order(self):
        return torch.as_tensor(np.argsort(np.concatenate(self._of_parts(0))))


def _activity(mixture, f, u, rows, work):
    """Return how activity shifts the logits of rows at each node, and log-weights of the nodes.

    The weights are those of the user of a row given the other rows of that user, seen by the fit or
    not. Rows of a fit without activity are not shifted.
    """
    _, log_prior = quadrature()
    prior, loading = log_prior.repeat(len(rows), 1), torch.zeros_like(u[:1])
    if mixture.differs:
        loading = mixture.model.loading().detach().to("cpu", torch.float64).mean(0)
        known = mixture.codes(work.part(rows)[1]["user_id"], len(rows))
        seen = np.flatnonzero(known >= 0)
        weight = torch.as_tensor(mixture.activity.log_weight[known[seen]]).double()
        prior[seen] = torch.logsumexp(weight, 1) - np.log(weight.shape[1])
    shift, rates = at_nodes(u, loading), mixture.false_action_rate
    messages = work.messages(
        rows,
        lambda actions, labels: mixture.measurement.log_likelihood(
            f.expand(len(shift), -1), u + shift, actions, rates, labels=labels
        ),
    )
    code = torch.as_tensor(np.unique(work.user[rows], return_inverse=True)[1])
    found = activity_given_others(shift, prior, messages, code)
    return [found.shift, found.log_weight]


def cross_fit(work):
    """Return the predictions, for each fold, of a fit to the other folds."""
    fold, split = work.folds()
    settings, X = work.settings()
    found, caught = _Fits(), {}
    for k in range(work.n_folds):
        train, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        y, side = work.part(train)
        if settings.verbose:
            print(f"[{work.caller}] fit {k + 1} of {work.n_folds}")  # noqa: T201
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            fitted = clone(settings).fit(X[train], y, groups=split[train], **side)
        for one in noted:
            if not issubclass(one.category, IdentificationWarning):
                caught.setdefault(one.category, str(one.message))
        found.add(fitted, X[held], held, work)
    for category, text in caught.items():
        warn(f"{text} (One of {work.n_folds} fits.)", category)
    return found


@dataclass(frozen=True, eq=False)
class _Verdict:
    """The verdict on what the log identifies of the groups."""

    identification: Identification
    estimated: bool
    reason: str


# ---------------------------------------------------------------------- values of rows


def _ends(work, fits):
    """Return the values whose means are the lower and upper ends, and the verdict.

    They are (n, 2) one-step values of the rows, or None: shares of actions then bound the means.
    """
    found = work.agreed(fits.identifications, fits.loading)
    reason = found.reason
    if found.level == IDENTIFIED:
        values, singular = one_step_values(
            work,
            fits.measurement,
            reward_of,
            fits.logits(),
            fits.rates,
            activity=fits.activity,
        )
        if not singular.any():
            return values, _Verdict(found, True, reason)
        reason = (
            f"the signals of a row do not by themselves identify its reward, in {singular.sum():,} "
            f"of {len(singular):,} rows; compare_groups uses nothing else."
        )
    elif (
        found.level == BOUNDED
        and len(fits.shown_twice) == 1
        and fits.rates is None
        and not fits.measurement.examined
        and not fits.active  # users who differ make signals depend on each other
    ):
        values, singular = one_step_values(
            work, fits.measurement, bounds_of(fits.shown_twice), fits.logits()
        )
        if not singular.any():
            return values, _Verdict(found, False, reason)
    return None, _Verdict(found, False, reason)


def _share_ends(log, rates, rows, weight):
    """Return values (n, 2) whose means bound the mean reward of some rows, NaN left out.

    They need only the assumption A_k <= 1. Among single signals with false
    actions, the most informative one is used.
    """
    acts, values = log.acts, np.zeros((len(log.actions), 2))
    values[:, 1] = 1.0
    for c, end, sign in ((1, 0, 1.0), (0, 1, -1.0)):
        mine = np.flatnonzero((acts.target == c) & acts.bounds)
        if not len(mine):
            continue
        counts = acts.counts[:, mine]
        if rates is None:
            known = ~np.isnan(counts).all(axis=1)
            shown = np.where(known, (counts > 0).any(axis=1), np.nan)
        else:
            e = rates.numpy()[acts.column[mine]]
            each = (counts - e) / (1 - e)
            means = [_mean(column[rows], weight[rows]) for column in each.T]
            shown = each[:, int(np.nanargmax(means))]
            if max(means) <= 0:
                continue
        values[:, end] = shown if sign > 0 else 1 - shown
    return values


def _mean(values, weight):
    known = ~np.isnan(values) & (weight > 0)
    return np.average(values[known], weights=weight[known]) if known.any() else np.nan


# ---------------------------------------------------------------------- means and errors


def _comparison(work, ends, verdict, weight, reference, confidence, same_prompts):
    """Return the result: means of groups, their differences, and intervals of both."""
    n_groups = len(work.labels)
    contradicted = ADVICE["signs"] in verdict.identification.advice
    rates = work.est.false_action_rate_
    rates = torch.as_tensor(rates) if rates.any() else None

    def values_of(rows):
        if contradicted:
            return np.tile([0.0, 1.0], (len(weight), 1))
        return _share_ends(work.log, rates, rows, weight) if ends is None else ends

    means, influence = means_of_groups(work, values_of, weight)
    covariance, n_clusters = clustered(influence.reshape(2 * n_groups, -1), work)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    error = np.sqrt(np.diag(covariance)).reshape(n_groups, 2)
    interval = means + z * error * [-1, 1]
    # The lowest difference is the lower end minus the upper end of the reference.
    gap = np.zeros((n_groups, 2))
    for g in set(range(n_groups)) - {reference}:
        for end, sign in ((0, -1), (1, 1)):
            contrast = np.zeros((n_groups, 2))
            contrast[g, end], contrast[reference, 1 - end] = 1, -1
            spread = np.sqrt(max(contrast.ravel() @ covariance @ contrast.ravel(), 0.0))
            gap[g, end] = contrast.ravel() @ means.ravel() + sign * z * spread
    nothing = np.full(n_groups, np.nan)
    difference = means[:, 0] - means[reference, 0] if verdict.estimated else nothing.copy()
    difference[reference] = 0.0
    return GroupComparison(
        groups=work.labels,
        by=work.by_name,
        reference=work.labels[reference],
        n_rows=np.bincount(work.code[weight > 0], minlength=n_groups),
        n_clusters=n_clusters,
        rates=_raw_rates(work, weight),
        shows=dict(zip(work.names, work.log.acts.target.tolist(), strict=True)),
        widgets=work.widgets,
        reward=means[:, 0] if verdict.estimated else nothing,
        reward_interval=interval,
        difference=difference,
        difference_interval=gap,
        confidence=confidence,
        identification=verdict.identification,
        estimated=verdict.estimated,
        reason=verdict.reason,
        same_prompts=same_prompts,
        n_effective=_n_effective(influence[:, 0]),
        knows_users=work.user is not None,
    )


def means_of_groups(work, values_of, weight):
    """Return the mean of two values in each group, (groups, 2), and the influence of each row.

    Parameters
    ----------
    work : GroupedLog
    values_of : callable(rows) -> ndarray of shape (n, 2)
        The values of all rows, given the rows of a group that will be used; NaN is left out.
    weight : ndarray of shape (n,)

    Returns
    -------
    means : ndarray of shape (groups, 2)
    influence : ndarray of shape (groups, 2, n)
    """
    n_groups, n = len(work.labels), len(weight)
    means, influence = np.empty((n_groups, 2)), np.zeros((n_groups, 2, n))
    for g in range(n_groups):
        rows = np.flatnonzero((work.code == g) & (weight > 0))
        values = values_of(rows)
        for end in (0, 1):
            column = values[rows, end]
            known = ~np.isnan(column)
            w = np.where(known, weight[rows], 0.0)
            if not known.any():
                means[g, end] = float(end)
                continue
            w = w / w.sum()
            means[g, end] = w @ np.nan_to_num(column)
            influence[g, end, rows] = w * np.nan_to_num(column - means[g, end])
    return means, influence


def _raw_rates(work, weight):
    """Return {name: share of the logged rows of each group with the act}."""
    return {
        name: np.array(
            [_mean(counts[work.code == g], weight[work.code == g]) for g in range(len(work.labels))]
        )
        for name, counts in zip(work.names, work.log.acts.counts.T, strict=True)
    }


def _n_effective(influence):
    """Return the number of rows of equal weight with an equally uneven squared error."""
    squares = influence**2
    spread = (squares**2).sum(axis=1)
    return np.where(spread > 0, squares.sum(axis=1) ** 2 / np.maximum(spread, 1e-300), np.inf)


def clustered(influence, work):
    """Return the covariance of means, and the number of clusters.

    Parameters
    ----------
    influence : ndarray of shape (means, n)
        Influence of each row on each mean.
    work : GroupedLog
    """
    ways = [codes for codes in (work.user, work.prompt) if codes is not None]
    found = [_one_way(influence, codes) for codes in ways or [np.arange(influence.shape[1])]]
    if len(ways) == 2:
        both = number_responses(ways[0] * (ways[1].max() + 1) + ways[1])[0]
        twice = found[0][0] + found[1][0] - _one_way(influence, both)[0]
        # The sum may be negative; then the larger of the two one-way results is used.
        larger = max(found, key=lambda one: np.trace(one[0]))[0]
        least = np.linalg.eigvalsh(twice)[0]
        return (twice if least >= 0 else larger), min(found[0][1], found[1][1])
    return found[0]


def _one_way(influence, codes):
    used = (influence != 0).any(axis=0)
    if not used.any():
        return np.zeros((len(influence), len(influence))), 0
    codes = np.unique(codes[used], return_inverse=True)[1]
    sums = np.stack([np.bincount(codes, weights=row[used]) for row in influence])
    n_clusters = sums.shape[1]
    return sums @ sums.T * n_clusters / max(n_clusters - 1, 1), n_clusters
