"""Which responses to ask labels of."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from .._estimator import ImplicitRewardEstimator
from .._features import HeadColumns, embed_text, read_features, set_embedder
from .._fit import reread_log, run_fit
from .._prediction import FittedMixture
from .._sklearn import validate_params
from .._sources import StreamedX
from .._typing import Rows
from .._validation import check_same_rows
from ..exceptions import ImplicitRMError
from ..objectives import OBJECTIVES
from ..training._split import row_codes
from ._arguments import of_fit, without_single_rows

#: Refits that start at rewards of these levels, between the lowest and the highest that the
#: actions allow.
STARTS = np.linspace(0.1, 0.9, 8)
#: A label whose outcome all refits agree on has at least this variance: none is for certain.
LEAST_VARIANCE = 1e-3


def label_queue(
    est: Any,
    X: Rows,
    y: ArrayLike,
    n: int,
    *,
    user_id: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    **fit_params: Any,
) -> NDArray[np.int64]:
    """Return which rows to ask labels of: those whose label would narrow the reward most.

    Ask for labels of all of these rows, whatever you expect them to be. Pass them to `fit` as
    `labels`, with ``label_mechanism="asked"``: users did not choose these rows.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        The settings to fit with; it need not be fitted and is not changed.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        The responses of the log.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    n : int
        Rows to return, at most one for each distinct response.
    user_id : array-like of shape (n_samples,), default=None
        The user who acted, as in `fit`. The refits test whether users differ in activity, and the
        preference of a row then depends on all that its user did.
    groups : array-like of shape (n_samples,), default=None
        As in `fit`.
    labels : array-like of shape (n_samples,), default=None
        Labels that are known already, NaN elsewhere, as in `fit`. These rows are not asked again.
    sample_weight : array-like of shape (n_samples,), default=None
        As in `fit`. Rows of zero weight are not asked.
    **fit_params : dict
        Further arguments of `fit`: response_id, exposures, propensity, age, delay. With
        `response_id`, the rows of an id are one response; it is not taken beside `user_id`.

    Returns
    -------
    rows : ndarray of int of shape (n,)
        Positions in X, the row whose label is worth most first.

    Raises
    ------
    TypeError
        If `est` is not an `ImplicitRewardEstimator`, or an argument is not one of `fit`.
    ValueError
        If `n` is below 1, or above the number of distinct responses left to ask. Also with X in
        files, or if the objective is not the likelihood of each row.

    Notes
    -----
    The settings are refitted from eight starts, between the lowest and the highest reward that the
    actions allow. If reward and propensity can be swapped, each refit has its mirror image beside
    it. These C rewards agree with the log about equally well, and the reward is open if they
    differ.

    The reward is taken to be their mean plus a normal combination of their deviations. A label of a
    row is an observation of P(r* = 1 | x, y), with the variance of a single label. With users who
    differ, it is P(r* = 1 | x, y and all rows of the user), a mean over the activity. Rows are
    taken one after the other, given the labels before them. The next label is the one that lowers
    the variance of the reward most, summed over all rows of the log. This is an A-optimal design
    ([1]_; in active learning [2]_). So no two rows of the queue ask the same.

    Rows whose columns of the reward are equal (equal text, equal vectors) have one reward. They
    would be one question to the person who labels. So the queue has at most one of them, the one
    whose label says most. If one of them is labelled already, it has none. Pass the answer as the
    label of the row that was asked. The others learn from it through their equal columns.

    A row whose actions prove its preference is never in it: its label is known.

    The rows are chosen by X and y alone. Given these, whether a row has a label does not depend on
    its preference. The likelihood of the labels is then that of labels asked at random, times a
    factor without parameters (missing at random, [3]_). `fit` therefore needs no weights. A mean
    of the labels by itself is not a preference rate, since the rows are not typical.

    References
    ----------
    .. [1] Chaloner & Verdinelli, "Bayesian experimental design: a review", Statistical Science 10,
       1995.
    .. [2] Cohn, Ghahramani & Jordan, "Active learning with statistical models", Journal of
       Artificial Intelligence Research 4, 1996.
    .. [3] Rubin, "Inference and missing data", Biometrika 63, 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import label_queue
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> rows = label_queue(est, X, y, 10)
    >>> len(set(rows.tolist())), int(y[rows].sum())
    (10, 0)
    """
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est must be an ImplicitRewardEstimator, got {type(est).__name__}. For a pipeline, "
            "pass its last step, and X as transformed by the others."
        )
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ImplicitRMError(f"n must be an integer of at least 1, got {n!r}.")
    side = _side(fit_params, user_id, labels, sample_weight)
    refit = clone(est).set_params(n_estimators=len(STARTS), warm_start=False)
    validate_params(refit)
    _check_objective(refit.objective)
    check_same_rows(X, y=y, groups=groups, user_id=user_id, **side)
    set_embedder(refit)
    X = embed_text(refit, X, reset=True)
    users = {} if user_id is None else {"user_id": user_id}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit of the settings gives them
        run_fit(refit, X, y, groups=groups, adjust=partial(replace, starts=STARTS), **users, **side)
    X = read_features(refit, X)
    if isinstance(X, StreamedX):
        raise X.refusal()
    log = reread_log(refit, len(X), y, side, purpose="batch")
    asked = _askable(log, refit.false_action_rate_)
    first = np.arange(len(X)) if log.first is None else log.first
    same = row_codes(HeadColumns.of(refit).reward_part(X)[first])
    if log.labels is not None:
        asked &= ~np.isin(same, same[~np.isnan(log.labels)])
    n_distinct = len(np.unique(same[asked]))
    if n > n_distinct:
        raise ImplicitRMError(
            f"n={n} is more than the {n_distinct} distinct responses left to ask, in {asked.sum()} "
            "rows. Rows with equal columns of the reward are one response, and responses whose "
            f"preference a label or an action shows are not asked. Pass n={n_distinct} or less."
            if n_distinct
            else f"n={n}, but no response is left to ask: labels or actions show the preference of "
            "all of them."
        )
    rewards, outcomes = _rewards(FittedMixture.of(refit), X, log, user_id)
    weight = log.sample_weight / log.sample_weight.sum()
    return first[most_telling(rewards, outcomes, asked, n, weight, same)]


def _side(fit_params, user_id, labels, sample_weight):
    """Return the arguments of `fit` beside user_id and groups."""
    side = without_single_rows(of_fit("label_queue", fit_params, {}))
    if user_id is not None and "response_id" in side:
        raise ImplicitRMError(
            "label_queue does not take response_id beside user_id: what a label of a response says "
            "would be a mean over the activity of all users who saw it. Leave one of the two out."
        )
    side |= {"labels": labels, "sample_weight": sample_weight}
    return {name: value for name, value in side.items() if value is not None}


def _check_objective(objective):
    objective = OBJECTIVES[objective]() if isinstance(objective, str) else objective
    if objective.pairs or objective.single_signal or not objective.models_propensity:
        raise ImplicitRMError(
            "label_queue needs an objective that is the likelihood of each row, got "
            f"{type(objective).__name__}. Use objective='stratified'."
        )


def _askable(log, rates):
    """Return which rows have a preference that is not known yet."""
    asked = (log.sample_weight > 0) & ~np.logical_or(*log.proved(rates))
    return asked if log.labels is None else asked & np.isnan(log.labels)


def _rewards(mixture, X, log, user_id):
    """Return R(x) and P(r*=1 | x, y) according to each component, each of shape (C, n).

    With users who differ, a component is a member, averaged over the activity of the user of a row
    given all rows of that user.
    """
    codes = mixture.codes(user_id, len(X)) if mixture.differs else None

    def of_rows(measurement, f, u, log_weight, **fields):
        outcome = torch.softmax(measurement.log_joint(f, u, **fields), 0)[1]
        if codes is not None:
            n_members = mixture.model.config["n_members"]
            share = torch.softmax(log_weight.unflatten(0, (-1, n_members)), 0)
            outcome = (outcome.unflatten(0, (-1, n_members)) * share).sum(0)
            f = f[:n_members]  # the same at all nodes
        return torch.stack([torch.sigmoid(f), outcome]).permute(2, 0, 1)

    return mixture.of_log(X, log, of_rows, codes).transpose(1, 2, 0)


def most_telling(rewards, outcomes, asked, n, weight, same):
    """Return n rows whose labels lower the variance of the reward most, one after the other.

    Parameters
    ----------
    rewards : ndarray of shape (C, rows)
        R(x) according to each of C models.
    outcomes : ndarray of shape (C, rows)
        P(r*=1 | x, y) according to each.
    asked : ndarray of bool of shape (rows,)
        Which may be chosen.
    n : int
    weight : ndarray of shape (rows,)
        Weights of the rows in the variance of the reward.
    same : ndarray of shape (rows,)
        At most one of the rows with equal values is chosen.
    """
    reward, deviation = (
        (values - values.mean(axis=0)) / np.sqrt(len(values)) for values in (rewards, outcomes)
    )
    of_label = np.maximum((outcomes * (1 - outcomes)).mean(axis=0), LEAST_VARIANCE)
    target, known = (reward * weight) @ reward.T, np.eye(len(rewards))
    left, chosen = asked.copy(), []
    for _ in range(n):
        through = known @ deviation
        total = of_label + (deviation * through).sum(axis=0)
        gain = np.where(left, (through * (target @ through)).sum(axis=0) / total, -np.inf)
        row = int(gain.argmax())
        chosen.append(row)
        left[same == same[row]] = False
        known -= np.outer(through[:, row], through[:, row]) / total[row]
    return np.array(chosen, dtype=np.int64)
