"""Keys of ids, prompts and conversations, equal for equal values in every kind of table."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from numbers import Number
from uuid import UUID

import numpy as np

from .exceptions import ImplicitRMError

#: Types of ids that may be text in another place, see `as_text`.
WRITTEN = (str, Number, UUID, date, bytes)


class DuplicateKey(ImplicitRMError):
    """An object in JSON has a key twice, so that one of its values would be lost."""


def _without_duplicates(pairs):
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateKey(f"the key {twice!r} occurs twice in one object")
    return record


#: Returns the value of a text in JSON, or raises ValueError or RecursionError.
read_json = json.JSONDecoder(object_pairs_hook=_without_duplicates).decode


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
        try:
            text = json.dumps(plain(value), sort_keys=True, default=str)
        except RecursionError:
            raise ImplicitRMError(
                f"a {type(value).__name__} is nested too deeply to be compared; expected text, a "
                "number or a conversation. Leave the deep field out."
            ) from None
        return hashlib.blake2b(text.encode()).digest()  # long texts are not kept
    if hasattr(value, "detach"):  # a number of torch, which equals nothing in a dict
        return value.item()
    return value


def is_absent(value):
    """Return whether a value is NaN, NaT, None or pandas' NA."""
    if value is None or isinstance(value, str | list | tuple | np.ndarray | Mapping):
        return value is None
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling NaN cannot be compared
    same = value == value
    if isinstance(same, bool | np.bool_):
        return not same
    return type(value).__name__ == "NAType"  # of pandas, which has no truth value


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
    """Return the ids that occur as text and as another value that prints the same.

    Parameters
    ----------
    values : iterable of ids
        Each of them, once or several times.

    Returns
    -------
    others : list
        The number, UUID or other value of each such id, in order; ``as_text`` gives its text.
    """
    distinct = dict.fromkeys(v for v in values if isinstance(v, WRITTEN))
    texts = {value for value in distinct if isinstance(value, str)}
    if not texts or len(texts) == len(distinct):
        return []
    return [value for value in distinct if not isinstance(value, str) and as_text(value) in texts]


def as_text(value):
    """Return an id as text; a whole float is the integer that a missing value made a float."""
    if isinstance(value, float | np.floating | Decimal) and value == value:
        value = int(value) if abs(value) != float("inf") and value == int(value) else value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def in_two_forms(what, n, other):
    """Return the sentence that says that ids have two forms, and the remedy."""
    kind = "a number" if isinstance(other, Number) else "another type"
    return (
        f"{what} in two forms: {n:,} occur as {kind} and as text, for example {other!r} "
        f"({type(other).__name__}) and {as_text(other)!r} (str). They would be taken for "
        "different ids. Convert all ids to text before reading, 7 to '7'."
    )


def rounded_id(values):
    """Return the first id that is a float so large that integers were rounded to it, or None.

    A missing value among integers makes all of them floats, in pandas and NumPy.
    """
    if getattr(values, "dtype", None) in (np.float32, np.float64):
        large = np.abs(np.asarray(values)) >= 2**53
        return float(np.asarray(values)[large.argmax()]) if large.any() else None
    floats = (v for v in values if isinstance(v, float | np.floating))
    return next((float(v) for v in floats if abs(v) >= 2**53), None)


def as_rounded(what, value):
    """Return the sentence that says that ids were rounded, and the remedy."""
    return (
        f"{what} that are floats from 2**53 on, such as {value:.0f}: different ids may have been "
        "rounded to one. Read them as text, or as integers that may be missing (Int64)."
    )
