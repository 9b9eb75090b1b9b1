"""Parts that the displays share: axes, colours, and rows by category."""

import numpy as np

from ..._optional import import_optional
from ..._tables import as_values, column_names
from ..._validation import check_same_rows, is_missing
from ...exceptions import ImplicitRMError

#: Okabe and Ito's palette, which colour-blind readers can distinguish. Markers and dashes accompany
#: the colours, so no display relies on colours alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))
#: Numbers with more distinct values than this are shown in quarters. Of other values, the rarest
#: are shown together.
MAX_CATEGORIES = 8
#: Maximum number of rows plotted one by one; more would hide each other.
MAX_POINTS = 1_000


def axes_for(display, ax):
    """Return the Axes to plot on, new ones for None, and store them with their figure."""
    pyplot = import_optional("matplotlib.pyplot", "plot", f"{type(display).__name__}.plot")
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    display.ax_ = ax
    display.figure_ = ax.figure
    return ax


def style(number):
    """Return colour, marker and dashes of one of several things, by its number."""
    i = number % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


def column_of(by, X, n_samples):
    """Return the values for the breakdown, and their name if they have one.

    Parameters
    ----------
    by : str, array-like of shape (n_samples,) or None
        A string is a column of X.
    X : array-like of shape (n_samples, ...) or None
    n_samples : int
    """
    if by is None:
        return None, None
    name = getattr(by, "name", None)
    if isinstance(by, str):
        if by not in (column_names(X) or ()):
            raise ImplicitRMError(
                f"by={by!r} is not a column of X. Pass the name of a column of a DataFrame X, or "
                "the values themselves, one per row."
            )
        name, by = by, X[by]
    check_same_rows(X, by=by)
    values = as_values(by)
    if values.shape != (n_samples,):
        raise ImplicitRMError(
            f"by has shape {values.shape}; expected one value per row, ({n_samples},)."
        )
    return values, name


def categories(values):
    """Return {label: rows} of the values for the breakdown; every row is in one of them."""
    missing = is_missing(values)
    known = np.flatnonzero(~missing)
    try:
        distinct, code = np.unique(values[known], return_inverse=True)
    except TypeError as error:
        raise ImplicitRMError(
            f"by holds values that cannot be sorted ({error}). Use one type for all."
        ) from error
    rest = {}  # what has no value of its own to be named by
    if len(distinct) > MAX_CATEGORIES and values.dtype.kind in "iufM":
        parts = _quarters(code)
        labels = _labels([(distinct[part[0]], distinct[part[-1]]) for part in parts])
    else:
        parts = np.arange(len(distinct))
        if len(distinct) > MAX_CATEGORIES:
            by_size = np.argsort(-np.bincount(code), kind="stable")
            parts = np.sort(by_size[: MAX_CATEGORIES - 1])
            n_others = len(distinct) - len(parts)
            rest[f"{n_others} others"] = known[~np.isin(code, parts)]
        labels = _labels([(distinct[part],) for part in parts])
    if missing.any():
        rest["missing"] = np.flatnonzero(missing)
    found = {
        repr(label) if label in rest else label: known[np.isin(code, part)]
        for label, part in zip(labels, parts, strict=True)
    }
    return found | rest


def _quarters(code):
    """Return the codes in four parts with about as many rows each; no value is in two of them."""
    counts = np.bincount(code)
    middle = np.cumsum(counts) - counts / 2
    part = np.minimum((4 * middle / counts.sum()).astype(int), 3)
    return [np.flatnonzero(part == i) for i in range(4) if (part == i).any()]


def _labels(ranges):
    """Return the label of each range of values, in short form where that keeps them apart."""
    labels = [" to ".join(map(_short, values)) for values in ranges]
    if len(set(labels)) < len(labels):
        labels = [" to ".join(map(str, values)) for values in ranges]
    return labels


def _short(value):
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="D"))
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
