"""Keys of ids, prompts and conversations, equal for equal values in every kind of table."""

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real

import numpy as np


def plain(value):
    """Return nested values from any table as plain Python values without empty fields.

    A table has every field in every row, so a null field was not in the original.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    return value


def is_nested(value):
    """Return whether a value is a message or a list of messages, not a plain id."""
    if isinstance(value, list | tuple | np.ndarray):
        return len(value) > 0 and all(isinstance(part, Mapping) for part in value)
    return isinstance(value, Mapping)


def key_of(value):
    """Return a key that is equal for equal ids or conversations."""
    if isinstance(value, list | tuple | np.ndarray | Mapping):
        text = json.dumps(plain(value), sort_keys=True, default=str)
        return hashlib.blake2b(text.encode()).digest()  # long texts are not kept
    return value


def is_absent(value):
    """Return whether a value is NaN, NaT, None or pandas' NA."""
    if value is None or isinstance(value, str | list | tuple | np.ndarray | Mapping):
        return value is None
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling NaN cannot be compared
    same = value == value  # NA of pandas does not have a truth value
    return not (isinstance(same, bool | np.bool_) and same)


def codes_of(values):
    """Return a number for each value.

    Equal values, and equal conversations, have the same number. Each missing value has its own.
    """
    codes, n_absent = {}, 0
    found = np.empty(len(values), dtype=int)
    for row, value in enumerate(values):
        if is_absent(value):
            n_absent += 1
            found[row] = -n_absent
        else:
            try:
                found[row] = codes.setdefault(key_of(value), len(codes))
            except TypeError:
                raise TypeError(
                    f"row {row} holds a {type(value).__name__} ({str(value)[:40]}) as an id, which "
                    "cannot be compared; expected text, a number or a conversation. Convert it."
                ) from None
    return np.where(found < 0, len(codes) - 1 - found, found)


def two_forms(values):
    """Return the ids that occur as a number and as text that prints the same.

    Parameters
    ----------
    values : iterable of ids
        Each of them, once or several times.

    Returns
    -------
    numbers : list
        The number of each such id, in order; ``as_text`` gives its text.
    """
    distinct = dict.fromkeys(v for v in values if isinstance(v, str | Real | Decimal))
    texts = {value for value in distinct if isinstance(value, str)}
    if not texts or len(texts) == len(distinct):
        return []
    return [value for value in distinct if not isinstance(value, str) and as_text(value) in texts]


def as_text(value):
    """Return an id as text; a whole float is the integer that a missing value made a float."""
    if isinstance(value, float | np.floating | Decimal) and value == value:
        value = int(value) if abs(value) != float("inf") and value == int(value) else value
    return str(value)


def in_two_forms(what, n, number):
    """Return the sentence that says that ids have two forms, and the remedy."""
    return (
        f"{what} in two forms: {n:,} occur as a number and as text, for example {number!r} "
        f"({type(number).__name__}) and {as_text(number)!r} (str). They would be taken for "
        "different ids. Convert all ids to text before reading, 7 to '7'."
    )
