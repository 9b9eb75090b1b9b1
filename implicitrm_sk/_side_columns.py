"""Text beside columns of numbers: the table becomes vectors, followed by these columns."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from .embedding._text import text_columns
from .exceptions import ImplicitRMError

#: Largest error, as a share of its spread, from rounding a column to the format of the vectors.
_ROUNDING = 1e-3


class SideRows(np.ndarray):
    """Vectors of text, followed by the columns that the table has beside the text.

    Attributes
    ----------
    side : tuple of str
        Names of the last columns.
    selected : dict of str to object
        The selections of `reward_features` and `propensity_features`, by position.
    """

    side: tuple = ()
    selected: Mapping = {}

    def __array_finalize__(self, made_from):
        self.side = getattr(made_from, "side", ())
        self.selected = getattr(made_from, "selected", {})


def embedded(estimator, X, embedder, *, reset, with_propensity):
    """Return the vectors of text, followed by the side columns if there are any.

    Parameters
    ----------
    estimator : ImplicitRewardEstimator
        Its `side_columns_` are used, or its column selections if `reset`.
    X : text of n rows
        A table, or a list of dicts, if side columns are used.
    embedder : LLMEmbedder
    reset, with_propensity : bool
        As in `select_features`. Columns that are not needed may be missing, and are then NaN.
    """
    if not reset:
        side = getattr(estimator, "side_columns_", ())
        if not side:
            return embedder.transform(X)
        missing = [name for name in side if not _has(X, name)]
        width = estimator.n_features_in_ - len(side)
        needed = [
            name
            for position, name in enumerate(side, width)
            if with_propensity or position in estimator.reward_columns_
        ]
        lacking = [name for name in needed if name in missing]
        if lacking:
            raise ImplicitRMError(
                f"X lacks the columns {lacking}, which fit used. Pass text as a table that has "
                "them. Only predict and decision_function work without the columns that the "
                "propensity alone reads."
            )
        return _beside(embedder.transform(X), X, side, missing)
    keys = {
        name: _names(getattr(estimator, name), X)
        for name in ("reward_features", "propensity_features")
    }
    named = {name: key for name, key in keys.items() if _is_names(key)}
    if not named:
        return embedder.transform(X)
    text = text_columns(_columns(X))
    if not text:
        name, key = next(iter(named.items()))
        raise ImplicitRMError(
            f"{name} names the columns {key}, but X does not have column names. Pass text and "
            "further columns as one DataFrame, or as a list of dicts."
        )
    side = []
    for parameter, key in named.items():
        for name in key:
            if name not in text and not _has(X, name):
                raise ImplicitRMError(
                    f"{parameter} names the column {name!r}, which X lacks. X has the columns "
                    f"{', '.join(map(str, _columns(X)[:10]))}. Correct the name."
                )
            if name not in text and name not in side:
                side.append(name)
    side = tuple(name for name in _columns(X) if name in side)
    vectors = embedder.transform(X)
    rows = _beside(vectors, X, side, ()).view(SideRows)
    rows.side = side
    rows.selected = keys | {
        parameter: _positions(key, text, side, vectors.shape[1]) for parameter, key in named.items()
    }
    return rows


def _columns(X):
    """Return the names of the columns of a table or of a list of dicts."""
    columns = list(getattr(X, "column_names", getattr(X, "columns", ())))
    if columns or not (isinstance(X, list | tuple) and len(X) and isinstance(X[0], Mapping)):
        return columns
    return list(X[0])


def _has(X, name):
    return name in _columns(X)


def _is_names(key):
    return isinstance(key, list) and bool(key) and all(isinstance(name, str) for name in key)


def _names(key, X):
    """Return the names of a selection as a list, or the selection itself if it is not by name."""
    columns = _columns(X)
    if callable(key) and set(columns) - set(text_columns(columns)):
        # A callable gets the table, and may return any selection of its columns.
        key = key(X)
        if isinstance(key, slice) and not isinstance(key.start or key.stop, str):
            key = columns[key]
        elif not isinstance(key, str | slice):
            key = np.asarray(key)
            is_positions = key.dtype.kind in "biu" and key.ndim == 1
            key = np.asarray(columns, dtype=object)[key].tolist() if is_positions else key.tolist()
    if isinstance(key, str):
        return [key]
    if callable(key) or isinstance(key, slice | Integral) or key is None:
        return key
    listed = list(key)
    return [str(name) for name in listed] if all(isinstance(n, str) for n in listed) else key


def _positions(names, text, side, width):
    found = []
    for name in names:
        found += range(width) if name in text else [width + side.index(name)]
    # The prompt and the response form one vector.
    return sorted(set(found))


def _beside(vectors, X, side, missing):
    """Return vectors and side columns as one array, NaN where a column is missing."""
    values = np.full((len(vectors), len(side)), np.nan)
    for position, name in enumerate(side):
        if name not in missing:
            values[:, position] = _numbers(X, name)
    rounded = values.astype(vectors.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(rounded - values)
        spread = np.ptp(values, axis=0) if len(values) else 0.0
        exact = np.isnan(values).all() or not (error > _ROUNDING * spread).any()
    return np.column_stack([vectors, rounded if exact else values])


def _numbers(X, name):
    is_table = hasattr(X, "columns") or hasattr(X, "column_names")
    column = X[name] if is_table else [row.get(name) for row in X]
    try:
        if hasattr(column, "iloc") and getattr(column.dtype, "kind", "O") not in "mM":
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        values = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)
        if values.dtype.kind in "mMUS":
            raise TypeError(f"they are of type {values.dtype}")
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ImplicitRMError(
            f"the column {name!r} of X, which reward_features or propensity_features names, cannot "
            f"be read as numbers ({error}). Encode it first, by codes or one column per value. For "
            "users, pass user_id to fit instead."
        ) from None
