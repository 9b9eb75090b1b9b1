"""The columns of X that each of the two heads reads, and the checks of X that depend on them."""

import os
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_array

from ._side_columns import SideRows, embedded
from ._sklearn import check_feature_names, check_n_features
from ._sources import Source, StreamedX, chunks, open_rows
from ._tables import (
    as_frame,
    as_vectors,
    column_names,
    is_numeric,
    opened,
    taken,
)
from ._validation import as_table, check_features, check_not_text
from ._warnings import warn
from .embedding import LLMEmbedder
from .exceptions import ImplicitRMError

#: Rows with an action, and rows without it, from which on a column does not repeat it by chance.
REPEATED_ROWS = 20
#: Columns with at most so many values in some rows are looked at for signals that were not offered.
MOST_VALUES, FEW_ROWS = 20, 200
#: A signal was hardly offered where it occurs at most in this share of the rows expected, of which
#: there are more than so many. It matters in strata of at least so much of the log.
IDLE_SHARE, EXPECTED, LEAST_STRATUM = 0.02, 20, 0.1


@dataclass(frozen=True, eq=False)
class HeadColumns:
    """The columns of X that each head reads.

    Attributes
    ----------
    reward, propensity : ndarray of int
        Sorted positions in X.
    n_features : int
        Columns of X.
    names : ndarray of str of shape (n_features,) or None
    side : tuple of str
        Names of the last columns, if the columns before them are vectors of text.
    """

    reward: np.ndarray
    propensity: np.ndarray
    n_features: int
    names: Any = None
    side: tuple = ()

    @classmethod
    def of(cls, estimator):
        """Return the columns of an estimator that has read X."""
        return cls(
            estimator.reward_columns_,
            estimator.propensity_columns_,
            estimator.n_features_in_,
            getattr(estimator, "feature_names_in_", None),
            getattr(estimator, "side_columns_", ()),
        )

    @cached_property
    def used(self):
        """Positions in X of the columns that any head reads, as `select_features` returns them."""
        return np.union1d(self.reward, self.propensity)

    @property
    def are_restricted(self):
        """Whether the heads read different columns, or not all."""
        return not len(self.reward) == len(self.propensity) == self.n_features

    @property
    def relation(self):
        """How the columns of the two heads relate: "same", "disjoint" or "overlapping"."""
        shared = np.intersect1d(self.reward, self.propensity)
        if not len(shared):
            return "disjoint"
        if len(shared) == len(self.reward) == len(self.propensity):
            return "same"
        return "overlapping"

    @property
    def positions(self):
        """Positions of the reward and the propensity columns within `used`, None for all."""
        return tuple(
            None
            if len(columns) == len(self.used)
            else tuple(np.searchsorted(self.used, columns).tolist())
            for columns in (self.reward, self.propensity)
        )

    def reward_part(self, X):
        """Return the columns of `select_features` that the reward reads."""
        columns, _ = self.positions
        return X if columns is None else X[:, list(columns)]

    def labels(self, columns):
        """Return names, or positions, for the messages."""
        names = self.names
        if self.side:
            names = [*range(self.n_features - len(self.side)), *self.side]
        shown = [int(column) if names is None else names[column] for column in columns]
        return [name if isinstance(name, int) else str(name) for name in shown]

    def check_same_as(self, before):
        """Raise unless an earlier fit, whose training continues, used the same columns."""
        for name, old, new in (
            ("reward_features", before.reward, self.reward),
            ("propensity_features", before.propensity, self.propensity),
        ):
            if not np.array_equal(old, new):
                raise ImplicitRMError(
                    f"training cannot continue from the fitted weights: {name} selected the "
                    f"columns {old.tolist()} and now selects {new.tolist()}. Use the same columns, "
                    "or fit a clone."
                )


def set_embedder(estimator):
    """Set `embedder_` from the estimator's parameter, if it has an embedder."""
    estimator.__dict__.pop("embedder_", None)
    embedder = estimator.embedder
    if embedder is None:
        return
    if isinstance(embedder, str | os.PathLike):
        embedder = LLMEmbedder(embedder, verbose=bool(estimator.verbose))
    estimator.embedder_ = clone(embedder).fit()


def embed_text(estimator, X, *, reset, with_propensity=True):
    """Return X as vectors, or a path of vectors, if X is text and there is an embedder.

    The vectors are followed by the columns beside the text that the heads read, see `embedded`.
    """
    if hasattr(X, "fit_params"):
        raise TypeError(
            f"X is a {type(X).__name__}, which holds responses and feedback. Pass its parts: "
            "est.fit(data.X, data.actions, **data.fit_params())."
        )
    X = open_rows(X)
    if isinstance(X, Source):
        return X
    X, embedder = as_vectors(opened(X)), getattr(estimator, "embedder_", None)
    if embedder is None or is_numeric(X):
        return X
    return embedded(estimator, X, embedder, reset=reset, with_propensity=with_propensity)


def read_features(estimator, X, *, reset=False, with_propensity=True):
    """Return what `select_features` returns for X, where X may also be text or a path."""
    vectors = embed_text(estimator, X, reset=reset, with_propensity=with_propensity)
    return select_features(estimator, vectors, reset=reset, with_propensity=with_propensity)


def warn_of_actions(X, log, columns):
    """Warn if columns of X repeat an action, on whatever scale, and return their positions.

    Parameters
    ----------
    X : ndarray of shape (n, d) or StreamedX
        The columns in use. Only the first rows of a file are read.
    log : FeedbackLog
        The log of these rows.
    columns : HeadColumns
    """
    _, rows = next(chunks(X))
    found = []
    for counts, signal in zip(log.acts.counts[: len(rows)].T, log.acts.column, strict=True):
        known = np.flatnonzero(~np.isnan(counts))
        acted = counts[known] > 0
        if min(acted.sum(), (~acted).sum()) < REPEATED_ROWS:
            continue
        without, most = known[np.argmin(acted)], known[np.argmax(counts[known])]
        start = rows[without]
        step = (rows[most].astype(float) - start) / counts[most]
        repeated = np.flatnonzero(step)
        few = np.concatenate([known[acted][:REPEATED_ROWS], known[~acted][:REPEATED_ROWS]])
        for some in (few, known):  # a few rows suffice for nearly all columns
            line = start[repeated] + np.outer(counts[some], step[repeated])
            tolerance = 1e-3 * np.abs(step[repeated])
            same = np.abs(rows[np.ix_(some, repeated)] - line) <= tolerance
            repeated = repeated[same.all(axis=0)]
        found += repeated.tolist()
        if len(repeated):
            (name,) = columns.labels(columns.used[repeated[:1]])
            warn(
                f"column {name!r} of X repeats the signal {log.signal_names[signal]!r}: each gives "
                "the other. A reward that reads the action follows it, whatever users preferred. "
                "Leave the column out of X."
            )
    return found


def signals_not_offered(X, log, columns, repeated):
    """Return where a signal hardly occurs, as if it was not offered: a list of texts.

    Parameters
    ----------
    X, log, columns
        As in `warn_of_actions`.
    repeated : list of int
        The columns that repeat an action.

    Returns
    -------
    found : list of (str, bool)
        The finding, and whether it leaves many rows without two signals of one preference. Signals
        do not determine the reward of these rows.
    """
    _, rows = next(chunks(X))
    few = rows[:: -(-len(rows) // FEW_ROWS)]
    ordered = np.sort(few, axis=0)
    n_values = 1 + (np.diff(ordered, axis=0) != 0).sum(axis=0)
    acts, names = log.acts, log.act_names()
    counts = acts.counts[: len(rows)]
    known, acted, found = ~np.isnan(counts), counts > 0, []
    few_values = np.flatnonzero((n_values > 1) & (n_values <= MOST_VALUES))
    for column in np.setdiff1d(few_values, repeated):
        values, code = np.unique(rows[:, column], return_inverse=True)
        if len(values) > MOST_VALUES:
            continue
        (label,) = columns.labels(columns.used[[column]])
        n, seen = (
            np.stack([np.bincount(code, one, len(values)) for one in part.T], axis=1)
            for part in (known, acted & known)
        )
        others = n.sum(axis=0) - n, seen.sum(axis=0) - seen
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = n * (others[1] / others[0])
        idle = (np.nan_to_num(expected) > EXPECTED) & (seen <= IDLE_SHARE * expected)
        for value, act in np.argwhere(idle):
            left = ~idle[value] & (n[value] > 0) & acts.bounds & (acts.target == acts.target[act])
            matters = n[value, act] >= LEAST_STRATUM * n[:, act].sum() and left.sum() < 2
            found.append(
                (
                    f"signal {str(names[act])!r} occurs in {seen[value, act]:.0f} of the "
                    f"{n[value, act]:.0f} rows in which column {label!r} of X is "
                    f"{values[value]:g}, where its rate elsewhere would give "
                    f"{expected[value, act]:.0f}",
                    bool(matters),
                )
            )
    return found


def select_features(estimator, X, *, reset, with_propensity=True):
    """Return the columns of X in use, in the order of X, as floats; check or set what fit saw.

    Sets `reward_columns_` and `propensity_columns_` if `reset`. Columns that only the propensity
    head reads may be missing or NaN if `with_propensity` is False; they are then NaN. X holds
    vectors. The rows of a large file become a `StreamedX`.
    """
    keys = estimator.reward_features, estimator.propensity_features
    if reset:
        vars(estimator).pop("side_columns_", None)
        if isinstance(X, SideRows):
            estimator.side_columns_ = X.side
            keys = X.selected["reward_features"], X.selected["propensity_features"]
    if isinstance(X, Source):
        return _select_from_source(estimator, X, reset=reset, with_propensity=with_propensity)
    X = as_vectors(opened(X))
    if reset and all(key is None for key in keys):
        X = check_features(estimator, X, reset=True)
        estimator.reward_columns_ = estimator.propensity_columns_ = np.arange(X.shape[1])
        return X
    if reset:
        X = _table(X)
        check_feature_names(estimator, X, reset=True)
        check_n_features(estimator, X, reset=True)
        estimator.reward_columns_, estimator.propensity_columns_ = _resolve_both(estimator, X, keys)
    columns_in_use = HeadColumns.of(estimator)
    if not reset and not columns_in_use.are_restricted:
        return check_features(estimator, X, reset=False)
    reward, propensity = columns_in_use.reward, columns_in_use.propensity
    needed = columns_in_use.used if reset or with_propensity else reward
    values = _values(estimator, _table(X), columns_in_use, needed)
    for role, columns, allow_nan in (
        ("reward", reward, False),
        ("propensity", np.setdiff1d(propensity, reward), not (reset or with_propensity)),
    ):
        block = values[:, np.searchsorted(columns_in_use.used, columns)]
        bad = np.isinf(block) if allow_nan else ~np.isfinite(block)
        if bad.any():
            raise ImplicitRMError(
                f"Input X contains NaN or infinity in {bad.any(axis=1).sum()} rows of the {role} "
                f"columns {columns_in_use.labels(columns[bad.any(axis=0)])}. Fill them in"
                + (
                    "; only predict and decision_function work without them."
                    if role == "propensity" and not reset
                    else "."
                )
            )
    return values


def _select_from_source(estimator, source, *, reset, with_propensity):
    """Return the columns in use as a `StreamedX`, which checks rows as it reads them."""
    keys = estimator.reward_features, estimator.propensity_features
    if reset and any(map(callable, keys)):
        raise ImplicitRMError(
            "reward_features or propensity_features is a callable, which would need all of "
            f"X={source.name!r} in memory. Select the columns by position."
        )
    # One row is enough to resolve the columns and to check their number.
    like = np.zeros((1, source.shape[1]), dtype=np.float32)
    select_features(estimator, like, reset=reset, with_propensity=with_propensity)
    columns = None
    if HeadColumns.of(estimator).are_restricted:
        columns = HeadColumns.of(estimator).used
        if source.shape[1] < estimator.n_features_in_:
            raise ImplicitRMError(
                f"X={source.name!r} has {source.shape[1]} columns; expected "
                f"{estimator.n_features_in_}, as in fit. Pass a file with all columns."
            )
    return StreamedX(
        source,
        lambda rows: select_features(
            estimator, rows, reset=False, with_propensity=reset or with_propensity
        ),
        columns,
    )


def _table(X):
    if as_frame(X) is not None:
        return X
    check_not_text(X)
    return check_array(as_table(X), dtype=None, ensure_all_finite=False)


def _values(estimator, X, columns, needed):
    """Return the columns in use as floats; NaN for a missing column that is not needed."""
    names, used, reward = columns.names, columns.used, columns.reward
    if names is not None and column_names(X) is not None:
        there = {name: position for position, name in enumerate(column_names(X))}
        missing = [column for column in needed if names[column] not in there]
        if missing:
            raise ImplicitRMError(
                f"X lacks the columns {columns.labels(missing)}, which fit used. Pass them. Only "
                "predict and decision_function work without the columns that the propensity alone "
                "reads."
            )
        present = np.array([column for column in used if names[column] in there])
        block = taken(X, [there[names[column]] for column in present])
    else:
        check_feature_names(estimator, X, reset=False)
        present = used
        if X.shape[1] == len(reward) < estimator.n_features_in_ and np.array_equal(needed, reward):
            present, block = reward, X
        elif X.shape[1] == estimator.n_features_in_:
            block = taken(X, used)
        else:
            raise ImplicitRMError(
                f"X has {X.shape[1]} features, but ImplicitRewardEstimator is expecting "
                f"{estimator.n_features_in_} features as input. Pass all of them. predict and "
                f"decision_function also accept the {len(reward)} reward columns alone, without "
                f"the columns {columns.labels(np.setdiff1d(used, reward))} of the propensity."
            )
    check_not_text(block)
    block = as_table(block)
    block = check_array(block, dtype=[np.float64, np.float32, np.float16], ensure_all_finite=False)
    if len(present) == len(used):
        return block
    values = np.full((len(block), len(used)), np.nan, dtype=block.dtype)
    values[:, np.searchsorted(used, present)] = block
    return values


def _resolve_both(estimator, X, keys):
    n_features = X.shape[1]
    names = getattr(estimator, "feature_names_in_", None)
    resolved = [
        None if key is None else _resolve(key, X, n_features, names, parameter)
        for parameter, key in zip(("reward_features", "propensity_features"), keys, strict=True)
    ]
    for i, parameter in ((0, "propensity_features"), (1, "reward_features")):
        if resolved[1 - i] is None:
            resolved[1 - i] = np.setdiff1d(np.arange(n_features), resolved[i])
            if not len(resolved[1 - i]):
                other = ("reward_features", "propensity_features")[i]
                raise ImplicitRMError(
                    f"{other} selects all {n_features} columns of X, so no columns are left for "
                    f"{parameter}=None, which means all other columns. Set both parameters if "
                    "reward and propensity are to share columns."
                )
    return resolved


def _resolve(key, X, n_features, names, parameter):
    """Return sorted positions of the columns that `key` selects."""
    if callable(key):
        key = key(X)
    columns = np.arange(n_features)

    def position(name):
        if names is None:
            raise ImplicitRMError(
                f"{parameter} names the column {str(name)!r}, but X does not have column names. "
                "Pass a DataFrame with string columns, or select by position."
            )
        (found,) = np.nonzero(names == name)
        if not len(found):
            raise ImplicitRMError(
                f"{parameter} names the column {str(name)!r}, which X lacks. X has the columns "
                f"{', '.join(map(str, names[:10]))}{', ...' if len(names) > 10 else ''}. Correct "
                "the name."
            )
        return int(found[0])

    if isinstance(key, str | Integral) and not isinstance(key, bool):
        key = [key]
    if isinstance(key, slice):
        ends = [key.start, key.stop]
        if any(isinstance(end, str) for end in ends):
            # A slice of names includes its last one, as in pandas.
            start, stop = (
                position(end) + last if isinstance(end, str) else end
                for last, end in enumerate(ends)
            )
            key = slice(start, stop, key.step)
        selected = columns[key]
    else:
        key = np.asarray(key)
        if key.ndim != 1:
            raise ImplicitRMError(
                f"{parameter} must be a column, a list of columns, a slice, a mask or a callable "
                f"that returns one of these, got {key!r}."
            )
        if key.dtype.kind in "UOT" and all(isinstance(name, str) for name in key):
            selected = np.array([position(name) for name in key], dtype=int)
        elif key.dtype == bool:
            if len(key) != n_features:
                raise ImplicitRMError(
                    f"{parameter} is a mask of length {len(key)}; expected one entry per column of "
                    f"X, {n_features}."
                )
            selected = columns[key]
        elif key.dtype.kind in "iu" or not key.size:
            outside = key[(key < -n_features) | (key >= n_features)] if key.size else key
            if len(outside):
                raise ImplicitRMError(
                    f"{parameter} selects column {outside[0]}, but X has {n_features} columns. Use "
                    f"positions 0 to {n_features - 1}."
                )
            selected = columns[key.astype(int)]
        else:
            raise ImplicitRMError(
                f"{parameter} must select columns by name, position, slice or mask, got values of "
                f"type {key.dtype}. Convert them."
            )
    if not len(selected):
        raise ImplicitRMError(
            f"{parameter} selects none of the columns of X; expected at least one. Name some, or "
            "pass None for all columns, or for those that the other parameter leaves."
        )
    if len(np.unique(selected)) < len(selected):
        raise ImplicitRMError(
            f"{parameter} selects a column twice: {_duplicates(selected, names)}."
        )
    return np.sort(selected)


def _duplicates(selected, names):
    values, counts = np.unique(selected, return_counts=True)
    twice = values[counts > 1]
    return [int(column) if names is None else str(names[column]) for column in twice]
