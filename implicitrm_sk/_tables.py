"""Tables and columns of every library as arrays. No other module reads them.

The input may be a frame or series of pandas, polars (also lazy), Arrow or another library that
narwhals knows. It may also be a masked array, a tensor or a list. Equal values give equal arrays.
"""

import sys
from decimal import Decimal
from numbers import Real

import narwhals
import numpy as np

from ._keys import is_absent, is_nested
from .exceptions import ImplicitRMError


def opened(value):
    """Return a table or column in a form that has rows; lazy frames are collected.

    Torch tensors become arrays. Batches and arrays of Arrow become objects that narwhals reads.
    Other values are returned unchanged.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if hasattr(value, "collect") and hasattr(value, "lazy"):
        return value.collect()
    if hasattr(value, "with_format") and getattr(value, "column_names", None):
        return value.with_format("arrow")[:]  # a data set of Hugging Face
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        if isinstance(value, arrow.RecordBatch):
            return arrow.Table.from_batches([value])
        if isinstance(value, arrow.Array):
            return arrow.chunked_array([value])
    return value


def as_frame(value):
    """Return a table as a frame of narwhals, None if it is not a table."""
    if isinstance(value, np.ndarray | list | tuple | str) or value is None:
        return None
    return _read(value, narwhals.DataFrame, eager_only=True)


def as_series(value):
    """Return a column as a series of narwhals, None if it is not a column of one."""
    if isinstance(value, np.ndarray | list | tuple | str) or value is None:
        return None
    return _read(value, narwhals.Series, series_only=True)


def _read(value, kind, **options):
    try:
        found = narwhals.from_native(value, pass_through=True, **options)
    except ValueError as error:
        names = [str(name) for name in getattr(value, "columns", ())]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is None:
            raise
        raise ImplicitRMError(
            f"a table has two columns {twice!r}; expected one. Rename one of them."
        ) from error
    return found if isinstance(found, kind) else None


def column_names(value):
    """Return the names of the columns of a table as a list, or None if they are not text."""
    frame = as_frame(value)
    if frame is None:
        return None
    names = list(frame.columns)
    return names if all(isinstance(name, str) for name in names) else None


def columns_of(value):
    """Return the columns of a table or array of shape (n, d), or the single one of a vector."""
    value = opened(value)
    frame = as_frame(value)
    if frame is not None:
        return [_native(frame, position) for position in range(len(frame.columns))]
    if as_series(value) is not None:
        return [value]
    if isinstance(value, list | tuple):
        value = np.asarray(value, dtype=object)
    return [value] if value.ndim == 1 else list(value.T)


def taken(X, positions):
    """Return the columns of a table, or of an array, at some positions."""
    frame = as_frame(X)
    return X[:, positions] if frame is None else frame[:, list(map(int, positions))].to_native()


def _native(frame, position):
    return frame[:, position].to_native()


def as_list(value):
    """Return a column, or rows, as a list of plain Python values."""
    value = opened(value)
    series = as_series(value)
    return list(value) if series is None else series.to_list()


def as_numbers(value):
    """Return a table, column or array of numbers as an ndarray, NaN where they are missing.

    Numbers keep their type if no value is missing and the columns agree. A value that is not
    numeric is returned as an array of what it holds; the check that follows rejects it.
    """
    value = opened(value)
    if isinstance(value, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(value)
        if not masked.any():
            return np.asarray(value.data)
        kept = value.dtype.kind in "fO"
        value = np.array(value.data, dtype=None if kept else np.float64)
        value[masked] = np.nan
    frame = as_frame(value)
    if frame is not None:
        if _is_plain(value):
            return value.to_numpy()
        columns = [as_numbers(_native(frame, k)) for k in range(len(frame.columns))]
        return np.column_stack(columns) if columns else np.empty(frame.shape)
    series = as_series(value)
    if series is not None:
        if getattr(getattr(value, "dtype", None), "kind", "O") in "biuf" and _is_plain(value):
            return value.to_numpy()
        value = series.to_numpy() if series.dtype.is_float() else None
        if value is None or value.dtype.kind not in "f":
            value = _filled(series.to_list())
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _filled(value)
    return value


def _is_plain(value):
    """Return whether pandas stores the numbers in the format of NumPy."""
    dtypes = getattr(value, "dtypes", None)
    if not hasattr(value, "iloc") or dtypes is None:
        return False
    dtypes = [dtypes] if value.ndim == 1 else list(dtypes)
    return all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in dtypes)


def _filled(values):
    """Return objects as numbers, NaN where missing; or as objects if some are not numbers."""
    found = np.asarray(values, dtype=object)
    flat = [np.nan if is_absent(value) else value for value in found.ravel().tolist()]
    if all(isinstance(value, Real | Decimal | np.bool_) for value in flat):
        kinds = {type(value) for value in flat}
        if kinds <= {bool, np.bool_} or kinds <= {int}:
            try:
                return np.array(flat, dtype=np.int64).reshape(found.shape)
            except OverflowError:
                pass
        return np.array(flat, dtype=np.float64).reshape(found.shape)
    found = np.empty(found.shape, dtype=object)
    found.ravel()[:] = flat
    return found


def first_no_number(values):
    """Return position and value of the first entry that is not a number, None if all are.

    Nothing is converted: text such as '1' is text, and a time is a time.
    """
    if values.dtype.kind in "biuf":
        return None
    if values.dtype.kind != "O":
        position = (0,) * values.ndim
        return None if not values.size else (position, values[position])
    for place, value in enumerate(values.ravel().tolist()):
        if not isinstance(value, Real | Decimal | np.bool_):
            return np.unravel_index(place, values.shape), value
    return None


def as_vectors(value):
    """Return a column of vectors as an array of shape (n, d); other values unchanged.

    A table with one such column is read like the column.
    """
    value = opened(value)
    series = as_series(value)
    if series is None:
        frame = as_frame(value)
        if frame is None or len(frame.columns) != 1:
            return value
        series = frame[:, 0]
    dtype = series.dtype
    if dtype not in (narwhals.List, narwhals.Array, narwhals.Object):
        return value
    rows = series.to_list()
    first = next((row for row in rows if not is_absent(row)), None)
    cell = first[0] if isinstance(first, list | tuple | np.ndarray) and len(first) else None
    if not isinstance(cell, Real):
        return value
    lengths = [0 if is_absent(row) else len(row) for row in rows]
    wrong = next((row for row, n in enumerate(lengths) if n != len(first)), None)
    if wrong is not None:
        found = f"{lengths[wrong]} numbers" if lengths[wrong] else "nothing"
        raise ImplicitRMError(
            f"X holds vectors, but row {wrong} holds {found}; expected {len(first)} numbers in "
            "each row. Compute this embedding again, or leave the row out."
        )
    if isinstance(first, np.ndarray):
        return np.stack(rows)
    return as_numbers(rows)


def is_numeric(X):
    """Return whether X is a table of numbers, or a column of vectors."""
    X = as_vectors(X)
    if isinstance(X, np.ndarray) and X.dtype != object:
        return X.dtype.kind in "biuf"
    frame = as_frame(X)
    if frame is not None:
        return all(map(_is_number_column, frame.iter_columns()))
    series = as_series(X)
    if series is not None:
        return _is_number_column(series)
    if isinstance(X, np.ndarray):
        X = list(X)
    first = X[0] if isinstance(X, list | tuple) and len(X) else None
    return isinstance(first, list | tuple | np.ndarray) and all(
        isinstance(value, Real) for value in first
    )


def _is_number_column(series):
    dtype = series.dtype
    if dtype.is_numeric() or dtype in (narwhals.Boolean,):
        return True
    if dtype != narwhals.Object:
        return False
    first = next((value for value in series.to_list() if not is_absent(value)), None)
    return isinstance(first, Real | Decimal)


def times_in(value):
    """Return the names of the columns of a table that hold only times."""
    frame = as_frame(value)
    columns = () if frame is None else frame.iter_columns()
    return [str(column.name) for column in columns if column.dtype.is_temporal()]


def as_values(value):
    """Return a column of ids of any kind as a one-dimensional array.

    Missing ids are None or NaN. If all are numbers, or all strings, the array has their type.
    Otherwise it is an array of plain Python objects, so that equal ids are equal in every library.
    """
    value = opened(value)
    if isinstance(value, np.ma.MaskedArray):
        value = value.tolist()  # with None
    series = as_series(value)
    if series is not None:
        if isinstance(getattr(value, "dtype", None), np.dtype) and value.dtype.kind in "biufM":
            value = value.to_numpy()
        else:
            value = series.to_list()
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        value = _datetimes(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    frame = as_frame(value)
    if frame is not None:
        return np.empty(frame.shape)  # the check of the shape rejects it
    if not hasattr(value, "__iter__") or isinstance(value, str):
        return np.asarray(value)
    if getattr(value, "ndim", 1) != 1:
        return value
    values = [_plain_id(one) for one in value]
    kinds = {type(one) for one in values}
    if kinds in ({str}, {int}, {float}, {bool}):
        plain = np.asarray(values)
        if plain.dtype.kind in "biufU" and (kinds != {str} or plain.tolist() == values):
            return plain
    lengths = {len(one) if isinstance(one, list) and not is_nested(one) else -1 for one in values}
    if len(lengths) == 1 and lengths != {-1}:
        return np.asarray(values, dtype=object)  # a table; the check of the shape rejects it
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _datetimes(value):
    """Return times as Python objects if this loses nothing, else as nanoseconds."""
    coarse = value.astype("datetime64[us]")
    if ((coarse == value) | np.isnat(value)).all():
        return coarse.tolist()
    return [None if np.isnat(one) else int(one) for one in value.astype("datetime64[ns]")]


def _plain_id(value):
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return None if is_absent(value) else value
