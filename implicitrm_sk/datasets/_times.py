"""Times in the forms found in logs, and windows in which users' actions count."""

import math
import re
from datetime import date, datetime, timedelta
from numbers import Real

import numpy as np

from .._keys import is_absent
from .._optional import import_optional
from ..exceptions import ImplicitRMError

NUMBERS = "numbers"
NAIVE = "dates without a time zone"
ZONED = "dates with a time zone"
_EXPECTED = (
    "Expected dates (datetime, ISO 8601 text) or numbers of one unit, the same kind in all rows"
)

#: Units of numbers since 1970, each a thousandth of the one before ...
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
#: ... and the seconds of the years 1998 and 2128, between which times of logs lie.
UNIX_SECONDS = (9e8, 5e9)
_CONVERT = "Convert the column first, for example with pandas.to_datetime(column, utc=True)"
#: A number of seconds or milliseconds as text, which Python may read as a date of another century.
_DIGITS = re.compile(r"\s*\d{9}")
#: A zone as BigQuery and databases write it after a time: UTC, or an offset after a blank.
_ZONE = re.compile(r"(?<=\d)\s*(?:(?:UTC|GMT)|(?:UTC|GMT)?\s*([+-]\d\d(?::?\d\d)?))$")


def _iso_zone(found):
    return found.group(1) or "+00:00"


def as_times(values, place, name):
    """Return times as datetime64[us] (in UTC if they have a zone) or as floats.

    Parameters
    ----------
    values : sequence of n
        Dates with or without a time zone, ISO 8601 text, or numbers; missing is allowed.
    place : callable(int) -> str
        Returns the place of a row, for the messages.
    name : str
        Name of the column or argument, for the messages.

    Returns
    -------
    times : ndarray of shape (n,)
        NaT or NaN where missing.
    kind : str or None
        The kind of the times, in words; None if all are missing.
    """
    kinds, found = {}, [None] * len(values)
    for row, value in enumerate(values):
        if is_absent(value):
            continue
        kind, found[row] = _time(value, lambda row=row: place(row), name)
        kinds.setdefault(kind, row)
    if len(kinds) > 1:
        (first, a), (second, b) = list(kinds.items())[:2]
        raise ImplicitRMError(
            f"{name} holds {first} ({values[a]!r}, {place(a)}) and {second} ({values[b]!r}, "
            f"{place(b)}), which cannot be compared. {_EXPECTED}. Convert them."
        )
    if NUMBERS in kinds:
        times = np.array([np.nan if t is None else t for t in found], dtype=float)
        return _of_one_unit(times, place, name), NUMBERS
    times = np.array(["NaT" if t is None else t for t in found], dtype="datetime64[us]")
    return times, next(iter(kinds), None)


def _of_one_unit(times, place, name):
    """Return times as numbers; raise if all are times since 1970, but of several units."""
    known = ~np.isnan(times)
    units, first = np.unique(_units(times)[known], return_index=True)
    if len(units) > 1 and units[0] >= 0:
        rows = np.flatnonzero(known)[first[:2]]
        (a, one), (b, other) = zip(rows, (UNITS[k] for k in units[:2]), strict=True)
        raise ImplicitRMError(
            f"{name} holds {times[a]:.0f} ({place(a)}) and {times[b]:.0f} ({place(b)}), which look "
            f"like {one} and {other} since 1970. {_EXPECTED}. Convert them."
        )
    return times


def _units(times):
    """Return the unit of each number, as a position in `UNITS`, -1 if it does not look like one."""
    found = np.full(len(times), -1)
    for k in range(len(UNITS)):
        low, high = (bound * 1000.0**k for bound in UNIX_SECONDS)
        found[(times >= low) & (times <= high)] = k
    return found


def _time(value, place, name):
    """Return the kind of a time, and the time as a naive datetime in UTC or a float."""
    given = value
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").astype(datetime)
    if isinstance(value, str):
        try:
            if _DIGITS.match(value):
                raise ValueError
            value = datetime.fromisoformat(_ZONE.sub(_iso_zone, value.strip()))
        except ValueError:
            raise ImplicitRMError(
                f"{place()} holds {given[:40]!r} in {name}. {_EXPECTED}. {_CONVERT}."
            ) from None
    if isinstance(value, Real) and not isinstance(value, bool):
        value = as_real(value)
        if math.isfinite(value):
            return NUMBERS, value
    elif isinstance(value, datetime):
        if hasattr(value, "to_pydatetime"):
            value = value.floor("us").to_pydatetime()
        if value.tzinfo is None:
            return NAIVE, value
        try:
            return ZONED, (value - value.utcoffset()).replace(tzinfo=None)
        except OverflowError:  # before the year 1 or after 9999 in UTC
            pass
    elif isinstance(value, date):
        return NAIVE, datetime(value.year, value.month, value.day)
    raise ImplicitRMError(f"{place()} holds {repr(given)[:60]} in {name}. {_EXPECTED}. {_CONVERT}.")


def as_real(value):
    """Return a number as a float, infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def with_zone(times, kind):
    """Return times that keep the information whether they have a time zone."""
    if kind != ZONED:
        return times
    pandas = import_optional("pandas", "data", "Reading times")
    return pandas.DatetimeIndex(times).tz_localize("UTC")


def column_times(column, place, name):
    """Return the times of a pandas Series like `as_times`, but faster."""
    pandas = import_optional("pandas", "data", "Reading times")
    if hasattr(column.dtype, "pyarrow_dtype"):
        arrow = import_optional("pyarrow", "data", "Reading times")
        column = arrow.array(column).to_pandas()
    if pandas.api.types.infer_dtype(column, skipna=True) == "string":
        text = column
        try:
            column = pandas.to_datetime(text, format="ISO8601")
        except (ValueError, TypeError):  # with and without a zone, or not times
            return as_times(text.tolist(), place, name)
        # Four digits are a year for pandas, and may be a number.
        is_year = (column.dt.month == 1) & (column.dt.day == 1) & (column == column.dt.normalize())
        years = text[is_year]
        if years.str.strip().str.isdecimal().any():
            return as_times(text.tolist(), place, name)
    if isinstance(column.dtype, pandas.DatetimeTZDtype):
        return column.dt.tz_convert(None).to_numpy("datetime64[us]"), ZONED
    if column.dtype.kind == "M":
        return column.to_numpy("datetime64[us]"), NAIVE
    if column.dtype.kind in "iuf":
        times = column.to_numpy(dtype=float, na_value=np.nan)
        if not np.isinf(times).any():
            return _of_one_unit(times, place, name), NUMBERS
    return as_times(column.tolist(), place, name)


def check_kinds(kinds, times):
    """Raise unless times of several arguments, given by name and kind, can be compared.

    Parameters
    ----------
    kinds : dict of str to str or None
    times : dict of str to ndarray
        The times of some of these names.
    """
    kinds = {name: kind for name, kind in kinds.items() if kind is not None}
    if len(set(kinds.values())) > 1:
        found = "; ".join(f"{name} holds {kind}" for name, kind in kinds.items())
        remedy = (
            "Convert all of them to one form, for example with pandas.to_datetime(column, utc=True)"
        )
        if set(kinds.values()) == {NAIVE, ZONED}:
            remedy = "Add the time zone where it lacks, as in 2026-03-08T00:00Z"
        raise ImplicitRMError(f"times cannot be compared: {found}. {remedy}.")
    units = {}
    for name, values in times.items():
        if kinds.get(name) == NUMBERS:
            found = set(_units(values[~np.isnan(values)]).tolist())
            if len(found) == 1 and -1 not in found:
                units[name] = UNITS[found.pop()]
    if len(set(units.values())) > 1:
        found = "; ".join(f"{name} looks like {unit} since 1970" for name, unit in units.items())
        raise ImplicitRMError(f"times cannot be compared: {found}. Convert all to one unit.")


def as_window(window, times):
    """Return a duration in the units of `times`."""
    if times.dtype.kind == "f":
        if not isinstance(window, Real) or isinstance(window, bool) or not window > 0:
            raise ImplicitRMError(
                f"window={window!r}, but the times are numbers; expected a number > 0 in their "
                "unit. Pass a number."
            )
        return float(window)
    given = window
    if isinstance(window, str) and not isinstance(_number(window), float):
        pandas = import_optional("pandas", "data", "A window as text")
        try:
            window = pandas.Timedelta(window)
        except ValueError:
            pass
    if isinstance(window, np.timedelta64):
        window = window.astype("timedelta64[us]").astype(timedelta)
    if not isinstance(window, timedelta) or not window > timedelta(0):
        raise ImplicitRMError(
            f"window={given!r}, but the times are dates; expected a duration > 0 with its unit, "
            "such as '24h', '30min' or a datetime.timedelta. Correct it."
        )
    return np.timedelta64(window // timedelta(microseconds=1), "us")


def windows_open(times, kind, window, now):
    """Return the rows whose window is still open at `now`.

    Parameters
    ----------
    times, kind
        The result of `as_times`; None without times.
    window, now
        As for `read_feedback_log`, or the text of a number if the times are numbers.
    """
    if times is None:
        raise ImplicitRMError(
            f"window={window!r} needs the time of each row. Name its column by time=."
        )
    if kind == NUMBERS:
        window, now = map(_number, (window, now))
    now = time_of_export(now, {"time": kind}, {"time": times})
    return is_unknown(times) | ~(times + as_window(window, times) <= now)


def time_of_export(now, kinds, times):
    """Return `now`, which has to be known and of the kind and unit of the other times."""
    found, kind = as_times([now], lambda _: "now", "now")
    if kind is None:
        raise ImplicitRMError(f"now is {now!r}; expected the time of the export. Pass it.")
    check_kinds(kinds | {"now": kind}, times | {"now": found})
    return found[0]


def _number(value):
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def is_unknown(times):
    """Return where times are NaT or NaN."""
    return times != times
