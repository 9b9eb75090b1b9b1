"""The one reader of text: whatever users pass becomes plain strings or chat messages."""

from collections.abc import Mapping

import numpy as np

_PAIRS = (("prompt", "response"), ("prompt", "completion"))
_SINGLES = ("messages", "text", "response", "completion")
#: What a row may be, for the messages.
FORMS = (
    "a (prompt, response) tuple, a dict or row with 'prompt' and 'response' (or 'completion'), "
    "with 'messages' or with 'text', a list of chat messages ({'role': ..., 'content': ...}), or a "
    "plain string"
)


def read_text(X):
    """Return one plain string or one conversation per row of X.

    Parameters
    ----------
    X : list, tuple, ndarray, Series, DataFrame or Hugging Face Dataset of n rows
        Not one tuple of two strings, which might be one row.
        A row is a (prompt, response) tuple; a mapping or row of a table with ``prompt`` and
        ``response`` (or ``completion``), with ``messages``, or with ``text`` (other columns are
        not read); a list of chat messages; or a plain string. Prompt and response may be lists of
        chat messages themselves.

    Returns
    -------
    rows : list of str or of tuple of (role, content)
        A prompt and a response become messages of the roles "user" and "assistant".

    Raises
    ------
    TypeError, ValueError
        If X or one of its rows is anything else; the message names the row.

    Examples
    --------
    >>> from implicitrm_sk.embedding._text import read_text
    >>> read_text([("2 + 2?", "4"), {"text": "four"}])
    [(('user', '2 + 2?'), ('assistant', '4')), 'four']
    """
    if isinstance(X, str | bytes | Mapping):
        raise TypeError(
            f"X is one {type(X).__name__}, but expected is a list with one entry per response: "
            f"each {FORMS}. Put a single response into a list."
        )
    if isinstance(X, tuple) and len(X) == 2 and all(isinstance(row, str) for row in X):
        raise ValueError(
            "X is one tuple of two strings, which may be a prompt and a response or two texts. Put "
            "it into a list, [(prompt, response)], or make it a list of two texts."
        )
    columns = list(getattr(X, "column_names", getattr(X, "columns", ())))
    if columns:
        return _read_table(X, columns)
    if hasattr(X, "to_numpy"):  # a Series
        X = X.to_numpy()
    if not hasattr(X, "__len__") or not hasattr(X, "__getitem__"):
        raise TypeError(
            f"X is a {type(X).__name__}, but expected is a list with one entry per response: each "
            f"{FORMS}."
        )
    if isinstance(X, np.ndarray):
        if X.ndim not in (1, 2) or (X.ndim == 2 and X.shape[1] not in (1, 2)):
            raise ValueError(
                f"X is an array of shape {X.shape}, but expected is text: n strings, or n rows of "
                "prompt and response."
            )
        X = X[:, 0] if X.ndim == 2 and X.shape[1] == 1 else X
    if len(X) and all(_is_message(row) for row in X):
        raise ValueError(
            "X is one list of chat messages, but expected is one per response: put it into a list."
        )
    return [_read_row(row, number) for number, row in enumerate(X)]


def _read_table(X, columns):
    for names in _PAIRS:
        if set(names) <= set(columns):
            cells = zip(*(_cells(X[name]) for name in names), strict=True)
            return [_pair(*pair, number) for number, pair in enumerate(cells)]
    for name in _SINGLES[:2]:
        if name in columns:
            return [_read_row(cell, number) for number, cell in enumerate(_cells(X[name]))]
    if len(columns) == 1:
        return [_read_row(cell, number) for number, cell in enumerate(_cells(X[columns[0]]))]
    raise ValueError(
        f"X has the columns {[str(name) for name in columns]}, but expected are 'prompt' and "
        "'response' (or 'completion'), or 'messages', or 'text'. Rename them, or select one column."
    )


def _cells(column):
    return column.to_numpy() if hasattr(column, "to_numpy") else column


def _is_message(value):
    return isinstance(value, Mapping) and {"role", "content"} <= set(value)


def _is_messages(value):
    return (
        isinstance(value, list | tuple | np.ndarray)
        and len(value) > 0
        and all(_is_message(part) for part in value)
    )


def _read_row(row, number):
    if isinstance(row, str):
        return _text(row, number)
    if _is_messages(row):
        return tuple(_message(message, number) for message in row)
    if isinstance(row, Mapping):
        for names in _PAIRS:
            if set(names) <= set(row):
                return _pair(*(row[name] for name in names), number)
        for name in _SINGLES[:2]:
            if name in row:
                return _read_row(row[name], number)
        raise ValueError(
            f"row {number} of X is a dict with the keys {[str(key) for key in row]}, but expected "
            "are 'prompt' and 'response' (or 'completion'), or 'messages', or 'text'."
        )
    if isinstance(row, tuple | list | np.ndarray) and len(row) == 2:
        return _pair(*row, number)
    raise _unreadable(row, number)


def _unreadable(value, number):
    kind = type(value).__name__
    if value is None or (isinstance(value, float) and np.isnan(value)) or kind == "NAType":
        return ValueError(
            f"row {number} of X holds a missing text ({value!r}). Leave such rows out, or replace "
            'the missing text by "" if the text is known to be empty.'
        )
    if isinstance(value, tuple | list | np.ndarray | Mapping):
        kind = f"{kind} of {len(value)}"
    return TypeError(f"row {number} of X holds a {kind}, but expected is {FORMS}.")


def _pair(prompt, response, number):
    return _turn(prompt, "user", number) + _turn(response, "assistant", number)


def _turn(value, role, number):
    if _is_messages(value):
        return tuple(_message(message, number) for message in value)
    return ((role, _text(value, number)),)


def _message(message, number):
    if message.get("tool_calls"):
        raise ValueError(
            f"row {number} of X has a message with tool_calls, which are not read: write what the "
            "model is to see of them into 'content'."
        )
    content = message["content"]
    if isinstance(content, list | tuple | np.ndarray):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
            raise ValueError(
                f"row {number} of X has a message whose content is not text only: expected is a "
                "string, or parts {'type': 'text', 'text': ...}."
            )
        content = "".join(part["text"] for part in content)
    return _text(message["role"], number), _text(content, number)


def _text(value, number):
    if not isinstance(value, str):
        raise _unreadable(value, number)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"row {number} of X is no valid Unicode text ({error}): half of a surrogate pair, "
                "as a cut emoji leaves it. Repair it with text.encode('utf-16', 'surrogatepass')"
                ".decode('utf-16', 'replace')."
            ) from None
    return str(value)


def as_messages(row):
    """Return the messages of a conversation as dicts, as chat templates read them."""
    return [{"role": role, "content": content} for role, content in row]


def as_plain_text(row):
    """Return a row without chat template: the contents of its messages, one per line."""
    return row if isinstance(row, str) else "\n".join(content for _, content in row)
