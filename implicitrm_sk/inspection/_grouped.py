"""A checked log whose rows belong to several groups."""

import copy
import warnings
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from sklearn.base import clone

from .._estimator import ImplicitRewardEstimator
from .._features import HeadColumns, embed_text, select_features, set_embedder
from .._fit import identify, known_users, own_random_state
from .._identification import ADVICE, BOUNDED, IDENTIFIED, LEVEL_ONLY, NOT_IDENTIFIED, RANKING_ONLY
from .._log import number_responses, number_users
from .._sklearn import safe_indexing, validate_params
from .._tables import as_values, opened
from .._validation import check_groups, check_same_rows, is_missing
from ..exceptions import ImplicitRMError
from ..measurement._one_step import MAX_OUTCOMES, Activity, Patterns, one_step
from ..training._split import cross_fitting_folds, row_codes
from ..training._users import quadrature

#: Levels from the least to the most informative.
LEVELS = (NOT_IDENTIFIED, BOUNDED, LEVEL_ONLY, RANKING_ONLY, IDENTIFIED)
#: Groups with fewer rows do not get an interval; nor do groups that share fewer prompts.
MIN_ROWS = 20


class GroupedLog:
    """A checked log with its groups, and the way in which parts of it are fitted.

    Parameters
    ----------
    caller : str
        Name of the function, for the messages.
    est, X, y, by, user_id, groups, labels, sample_weight, n_folds
        Its arguments; without `by`, all rows are one group.

    Attributes
    ----------
    est : ImplicitRewardEstimator
        A clone that has read X and y.
    X : ndarray of shape (n, d)
        The columns that the heads read.
    log : FeedbackLog
    labels : ndarray of shape (n_groups,)
    code : ndarray of int of shape (n,)
        Position of the group of each row.
    usable : ndarray of bool of shape (n,)
    user, prompt : ndarray of int of shape (n,) or None
    n_rows_of_user : ndarray of int of shape (n_users,) or None
        Rows of each user that has an id.
    """

    def __init__(
        self,
        caller,
        est,
        X,
        y,
        by,
        *,
        user_id=None,
        groups=None,
        labels=None,
        sample_weight=None,
        n_folds=5,
    ):
        self.caller = caller
        if not isinstance(est, ImplicitRewardEstimator):
            raise TypeError(
                f"est must be an ImplicitRewardEstimator, got {type(est).__name__}. For a "
                "pipeline, pass its last step, and X as transformed by the others."
            )
        self.est = clone(est)
        validate_params(self.est)
        if isinstance(est.false_action_rate, str):
            raise ImplicitRMError(
                f"{caller} needs false-action rates as numbers, got {est.false_action_rate!r}: its "
                "intervals do not include the error of estimated rates. Pass those of a fit, "
                "false_action_rate_."
            )
        check_same_rows(
            X,
            y=y,
            by=by,
            user_id=user_id,
            groups=groups,
            labels=labels,
            sample_weight=sample_weight,
        )
        set_embedder(self.est)
        X = embed_text(self.est, X, reset=True)
        self.X = select_features(self.est, X, reset=True)
        if not isinstance(self.X, np.ndarray):
            raise ImplicitRMError(
                f"{caller} fits parts of X, so X cannot be read from files. Load it, or a random "
                "part of it, into memory."
            )
        if isinstance(sample_weight, Real):
            sample_weight = None  # equal weights are no weights
        side = {"labels": labels, "sample_weight": sample_weight}
        side = {name: value for name, value in side.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fits give the warnings
            self.log, _ = identify(self.est, len(self.X), y, side)
        self._check_model()
        self.by_name = getattr(by, "name", None)
        self.labels, self.code = np.array(["all"]), np.zeros(len(self.X), dtype=int)
        if by is not None:
            self.labels, self.code = _check_by(by, len(self.X), self.by_shown)
            self._check_not_done_by_users()
        self.usable = np.zeros(len(self.X), dtype=bool)
        self.usable[self.log.usable()] = True
        self._check_sizes()
        n = len(self.X)
        self.user = self.n_rows_of_user = None
        if user_id is not None:
            self.user, known = number_users(user_id, n)
            self.n_rows_of_user = np.bincount(self.user)[: len(known)]
        self.y = y
        self.side = side if user_id is None else side | {"user_id": user_id}
        self.prompt = None
        if groups is not None:
            self.prompt = number_responses(check_groups(groups, n))[0]
        if not isinstance(n_folds, int | np.integer) or n_folds < 2:
            raise ImplicitRMError(
                f"n_folds must be an integer of at least 2, got {n_folds!r}. Pass 5."
            )
        self.n_folds = int(n_folds)

    @property
    def by_shown(self):
        """The argument `by` in messages, with the name of its column."""
        return "by" if self.by_name is None else f"by ({self.by_name!r})"

    def _check_not_done_by_users(self):
        """Raise if the groups are those of a column of actions."""
        for name, values in zip(self.log.signal_names, self.log.actions.T, strict=True):
            if np.isnan(values).any():
                continue
            found, code = np.unique(values, return_inverse=True)
            pairs = np.unique(np.stack([code, self.code]), axis=1).shape[1]
            if len(found) == len(self.labels) == pairs:
                raise ImplicitRMError(
                    f"{self.by_shown} has the groups of column {name!r} of y in every row; "
                    "expected groups of responses, such as the model that wrote them. Pass "
                    "another column."
                )

    def _check_model(self):
        objective = self.est.objective_
        if not objective.models_propensity or objective.single_signal:
            raise ImplicitRMError(
                f"{self.caller} needs the likelihood of every signal, which "
                f"{type(objective).__name__} does not model. Use objective='stratified'."
            )
        without = [s for s in self.log.signals if s.values is None]
        if without:
            raise ImplicitRMError(
                f"{self.caller} sums over all outcomes of a signal, but {without[0]!r} has "
                "infinitely many. Leave it out, or divide it into a few bins."
            )
        n = Patterns.of(self.log, np.arange(len(self.X))).n_outcomes(self.log.signals)
        if n > MAX_OUTCOMES:
            raise ImplicitRMError(
                f"the signals have {n:,} outcomes together, with all patterns of logged signals; "
                f"{self.caller} sums over at most {MAX_OUTCOMES:,}. Leave out some signals."
            )

    def _check_sizes(self):
        counts = np.bincount(self.code[self.usable], minlength=len(self.labels))
        n, n_groups = len(self.code), len(self.labels)
        if counts.min() < MIN_ROWS and n_groups > max(2, n / MIN_ROWS):
            raise ImplicitRMError(
                f"{self.by_shown} has {n_groups:,} different values in {n:,} rows; expected a few "
                f"groups of at least {MIN_ROWS} rows each. Name a column such as the model, or "
                "divide numbers into a few ranges first."
            )
        if counts.min() < MIN_ROWS:
            small = int(counts.argmin())
            raise ImplicitRMError(
                f"group {self.labels.tolist()[small]!r} of {self.by_shown} has {counts[small]} "
                f"rows of positive weight with something logged; expected at least {MIN_ROWS}. "
                "Leave its rows out, or join it with another group."
            )

    def check_reference(self, reference):
        """Return the position of the reference among the groups."""
        if reference is None:
            return int(np.bincount(self.code[self.usable]).argmax())
        if len(self.labels) == 1:
            raise ImplicitRMError(
                f"reference={reference!r} is a group, but by is None; expected the group of each "
                "row. Pass it as by=."
            )
        found = np.flatnonzero([label == reference for label in self.labels])
        if not len(found):
            shown = ", ".join(map(repr, self.labels[:8].tolist()))
            if len(self.labels) > 8:
                shown += f" and {len(self.labels) - 8} more"
            raise ImplicitRMError(
                f"reference={reference!r} is not a group of {self.by_shown}, which has {shown}. "
                "Correct it."
            )
        return int(found[0])

    @property
    def units(self):
        """Numbers of what does not depend on each other: users, or else prompts, or else rows."""
        if self.user is not None:
            return self.user
        return np.arange(len(self.code)) if self.prompt is None else self.prompt

    @property
    def names(self):
        """Names of the acts: those of the signals, with a sign if one column shows both."""
        names, sign = self.log.act_names(), {1: "positive", 0: "negative"}
        targets = self.log.acts.target.tolist()
        return [
            f"{name}_{sign[c]}" if str(name) in self.widgets else str(name)
            for name, c in zip(names, targets, strict=True)
        ]

    @property
    def widgets(self):
        """Names of the signals that show both preferences in one column."""
        names, columns = self.log.act_names(), self.log.acts.column.tolist()
        found = (str(name) for name, k in zip(names, columns, strict=True) if columns.count(k) > 1)
        return tuple(dict.fromkeys(found))

    def weights(self, same_prompts):
        """Return the weight of each row in the mean of its group."""
        weight = np.where(self.usable, self.log.sample_weight, 0.0)
        if not same_prompts:
            return weight
        if self.prompt is None:
            raise ImplicitRMError(
                "same_prompts=True needs the prompt of each row. Pass it as groups=."
            )
        cell = self.prompt * len(self.labels) + self.code
        n_prompts = self.prompt.max() + 1
        total = np.bincount(cell, weights=weight, minlength=n_prompts * len(self.labels))
        shared = (total.reshape(n_prompts, -1) > 0).all(axis=1)
        if shared.sum() < MIN_ROWS:
            raise ImplicitRMError(
                f"{shared.sum()} prompts of groups have rows in every group of by; "
                f"same_prompts=True needs at least {MIN_ROWS}. Leave it out, or compare fewer "
                "groups."
            )
        kept = shared[self.prompt]
        return np.where(kept, weight / np.where(kept, total[cell], 1.0), 0.0)

    # ------------------------------------------------------------------ fits

    def in_parts(self, n_folds):
        """Return the same log, to be fitted in another number of parts."""
        found = copy.copy(self)
        found.n_folds = n_folds
        return found

    def folds(self):
        """Return the fold of each row, and the groups of rows that no split may separate."""
        split = self.prompt if self.prompt is not None else self.user
        if split is None:
            split = row_codes(self.X)
        rng = own_random_state(self.est.random_state)
        # Sorted by group and actions, so that each fold has its share of both.
        stratum = self.code + (self.log.balance() + 1) / 4
        fold = cross_fitting_folds(stratum, split, self.n_folds, rng)
        if not np.bincount(fold, minlength=self.n_folds).all():
            raise ImplicitRMError(
                f"the rows belong to {len(np.unique(split))} prompts or users; "
                f"n_folds={self.n_folds} needs at least {self.n_folds}. Lower n_folds."
            )
        return fold, split

    def settings(self):
        """Return settings to fit with, and X with the groups as further columns of both heads.

        Propensities, and rewards, may differ between the groups in ways that the other columns do
        not show.
        """
        is_group = np.eye(len(self.labels), dtype=self.X.dtype)[self.code][:, 1:]
        X = np.hstack([self.X, is_group])
        everything, width = list(range(X.shape[1])), self.X.shape[1]
        columns = [
            everything if part is None else [*part, *everything[width:]]
            for part in HeadColumns.of(self.est).positions
        ]
        if columns == [everything, everything]:
            columns = [None, None]
        settings = clone(self.est).set_params(
            embedder=None,
            warm_start=False,
            reward_features=columns[0],
            propensity_features=columns[1],
        )
        return settings, X

    def part(self, rows):
        """Return y and further arguments of `fit` of some rows."""
        y = safe_indexing(opened(self.y), rows)
        return y, {name: safe_indexing(opened(v), rows) for name, v in self.side.items()}

    # ------------------------------------------------------------------ what fits show

    def agreed(self, identifications, loading=None):
        """Return the verdict on the whole log that most of the fits to its parts agree on.

        Parameters
        ----------
        identifications : list of Identification
            Those of the fits.
        loading : ndarray, default=None
            As `user_loading_`, the mean of the fits; None without users.
        """
        ranked = sorted(identifications, key=lambda found: LEVELS.index(found.level))
        found, whole = ranked[(len(ranked) - 1) // 2], self.est.identification_
        if loading is not None:
            looked_at = self.est.shared_examination is False
            whole = known_users(whole, self.log.signals, loading, self.n_rows_of_user, looked_at)
        further = found.against.removeprefix(whole.against).removeprefix("; ")
        if further:
            part = f"a fit to {len(identifications) - 1} of {len(identifications)} parts of the log"
            return replace(
                whole,
                level=found.level,
                assumptions=found.assumptions,
                reason=f"{whole.reason} But in {part}: {further}.",
                advice=found.advice,
                against=found.against,
            )
        if ADVICE["unseen"] in found.advice:
            whole = replace(whole, advice=found.advice)
        if found.swap_symmetric and not whole.swap_symmetric:
            return found  # the parts are too small for what identifies the whole
        return whole

    def messages(self, rows, log_likelihood):
        """Return log P(y, labels | x) of some rows, 0 of rows without information.

        Parameters
        ----------
        rows : ndarray of int
        log_likelihood : callable(actions, labels=labels) -> Tensor of shape (..., n)
        """
        labels = None if self.log.labels is None else torch.as_tensor(self.log.labels[rows])
        values = log_likelihood(torch.as_tensor(self.log.actions[rows]), labels=labels)
        return torch.where(torch.as_tensor(self.usable[rows]), values, 0.0)


def at_nodes(propensity_logit, loading):
    """Return the shifts of logits at each node of the activity, of shape (Q, n, P).

    Parameters
    ----------
    propensity_logit : Tensor of shape (n, P)
    loading : Tensor of shape (n, P) or (1, P)
    """
    nodes, _ = quadrature()
    return nodes[:, None, None] * loading.expand_as(propensity_logit)


def activity_given_others(shift, prior, messages, code):
    """Return the activity of the user of each row, given the other rows of that user.

    Parameters
    ----------
    shift : Tensor of shape (Q, n, P)
    prior : Tensor of shape (n, Q)
        Log-weights of the user of each row, from the rows that a fit has seen.
    messages : Tensor of shape (Q, n)
        Log-likelihoods of rows that the fit has not seen.
    code : Tensor of int of shape (n,)
        Numbers of the users, 0 to users - 1.
    """
    log_weight = torch.log_softmax(of_users(prior, messages, code)[:, code] - messages, 0)
    return Activity(shift, log_weight, log_weight[:, :0].T)


def of_users(prior, messages, code):
    """Return log P(node, rows of a user that a fit has not seen), of shape (Q, users).

    The parameters are those of `activity_given_others`.
    """
    of_user = prior.new_empty(int(code.max()) + 1, prior.shape[1])
    of_user[code] = prior
    return of_user.T.index_add(1, code, messages)


def _check_by(by, n_samples, name):
    """Return the labels of the groups, and the code of each row."""
    values = as_values(by)
    if values.shape != (n_samples,):
        raise ImplicitRMError(
            f"{name} has shape {values.shape}; expected one group per row of X, ({n_samples},)."
        )
    missing = is_missing(values)
    if missing.any():
        raise ImplicitRMError(
            f"{name} is missing in {missing.sum()} rows; the first is row {missing.argmax()}. "
            "Leave these rows out, or give them a group of their own."
        )
    try:
        labels, code = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise ImplicitRMError(
            f"{name} holds labels that cannot be sorted ({error}). Use one type for all."
        ) from error
    if len(labels) < 2:
        raise ImplicitRMError(
            f"{name} has only one group, {labels.tolist()[0]!r}; expected at least two. Pass the "
            "group of each row."
        )
    return labels, code


def one_step_values(
    work, measurement, ends, logits, rates=None, log=None, activity=None, ridge=0.0
):
    """Return one-step values of all rows, and the rows without one.

    Parameters
    ----------
    work : GroupedLog
    measurement, ends, rates
        As for `one_step`.
    logits : (Tensor, Tensor)
        Logits of the reward and the propensities, from fits that have not seen the rows.
    log : FeedbackLog, default=None
        Replaces the log of `work`.
    activity : Activity, default=None
        Activity of the users of all rows, if users differ.
    ridge : float
        As for `one_step`.

    Returns
    -------
    values : ndarray of shape (n, 2)
        0 for rows without information.
    singular : ndarray of bool of shape (n,)
    """
    log, (f, u) = work.log if log is None else log, logits
    labels = None if log.labels is None else torch.as_tensor(log.labels)
    actions = torch.as_tensor(log.actions)
    values, singular = np.empty((len(f), 2)), np.zeros(len(f), dtype=bool)
    for g in range(len(work.labels)):
        rows = np.flatnonzero((work.code == g) & work.usable)
        patterns = Patterns.of(log, rows)
        size = 4096 if activity is None else 512
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            values[part], singular[part] = one_step(
                measurement,
                ends,
                f[part],
                u[part],
                patterns,
                actions[part],
                rates,
                None if labels is None else labels[part],
                None if activity is None else activity.of_rows(part, rows),
                ridge,
            )
    return np.where(work.usable[:, None], values, 0.0), singular
