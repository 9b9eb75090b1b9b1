"""The only reader of text: it turns all input forms into plain strings or chat messages."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._keys import plain, read_json
from .._tables import as_list, as_series, opened
from ..exceptions import ImplicitRMError

_PAIRS = (("prompt", "response"), ("prompt", "completion"))
_SINGLES = ("messages", "conversations", "text")
#: Columns that contain a chat in each row.
CHATS = _SINGLES[:2]
#: What text is read from; 'text' is read only if none of these is there.
_FORMS = (*_PAIRS, *((name,) for name in CHATS))
#: The forms of a row, for the messages.
FORMS = (
    "a (prompt, response) tuple, a dict or row with 'prompt' and 'response', 'messages' or 'text', "
    "a list of chat messages ({'role': ..., 'content': ...}), or a plain string"
)
#: Roles under the names of ShareGPT ("from") and LangChain ("type"), which have a form of their
#: own; a value of "role" is kept as it is.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "system": "system",
    "tool": "tool",
    "user": "user",
    "assistant": "assistant",
}
#: Kinds of parts that are text, and the field that contains it.
_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
#: Kind of a part that only marks where a step of the model begins.
_MARK = "step-start"
#: Roles that may follow the last assistant turn, because they are not the next user turn.
TOOLS = ("tool", "function", "ipython")
#: Roles of the turns of a response. All others ask, whatever their name.
_ANSWERING = ("assistant", *TOOLS)


def read_text(X):
    """Return one plain string or one conversation per row of X.

    Parameters
    ----------
    X : list, tuple, ndarray, Series, DataFrame or Hugging Face Dataset of n rows
        It may not be one tuple of two strings, which might be one row. A row is a (prompt,
        response) tuple, a list of chat messages, a plain string, or a mapping or row of a table. A
        mapping has ``prompt`` and ``response`` (or ``completion``), ``messages`` (or
        ``conversations``), or ``text``; other columns are ignored. Prompt and response may
        themselves be lists of chat messages. If a response begins with the messages of its prompt,
        they are read once. In a column of messages, a string is JSON.

    Returns
    -------
    rows : list of str or of tuple of (role, content)
        A prompt and a response become messages with the roles "user" and "assistant". Tool calls
        are part of the content, see `as_content`.

    Raises
    ------
    TypeError, ValueError
        If X or one of its rows has another form. If a chat has no assistant turn, or does not end
        with one (apart from tool turns). The message names the row.

    Examples
    --------
    >>> from implicitrm_sk.embedding._text import read_text
    >>> read_text([("2 + 2?", "4"), {"text": "four"}])
    [(('user', '2 + 2?'), ('assistant', '4')), 'four']
    """
    if isinstance(X, str | bytes | Mapping):
        raise TypeError(
            f"X is one {type(X).__name__}; expected a list with one entry per response: each "
            f"{FORMS}. Put a single response into a list."
        )
    if isinstance(X, tuple) and len(X) == 2 and all(isinstance(row, str) for row in X):
        raise ImplicitRMError(
            "X is one tuple of two strings, which may be a prompt and a response or two texts. "
            "Put it into a list, [(prompt, response)], or make it a list of two texts."
        )
    X = opened(X)
    columns = list(getattr(X, "column_names", getattr(X, "columns", ())))
    if columns:
        return _read_table(X, columns)
    if as_series(X) is not None:
        X = as_list(X)
    if not hasattr(X, "__len__") or not hasattr(X, "__getitem__"):
        raise TypeError(
            f"X is a {type(X).__name__}; expected a list with one entry per response: each "
            f"{FORMS}. Convert X to a list."
        )
    if isinstance(X, np.ndarray):
        if X.ndim not in (1, 2) or (X.ndim == 2 and X.shape[1] not in (1, 2)):
            raise ImplicitRMError(
                f"X is an array of shape {X.shape}; expected text: n strings, or n rows of prompt "
                "and response. Reshape it."
            )
        X = X[:, 0] if X.ndim == 2 and X.shape[1] == 1 else X
    if len(X) and all(is_message(row) for row in X):
        raise ImplicitRMError(
            "X is one list of chat messages; expected one list per response. Put it into a list."
        )
    return [_read_row(row, f"row {number} of X") for number, row in enumerate(X)]


def _read_table(X, columns):
    names = text_columns(columns)
    if len(names) == 2:
        cells = zip(*(as_list(X[name]) for name in names), strict=True)
        return [read_pair(*pair, f"row {n} of X") for n, pair in enumerate(cells)]
    if names:
        read = _read_chat_row if names[0] in CHATS else _read_row
        return [read(cell, f"row {n} of X") for n, cell in enumerate(as_list(X[names[0]]))]
    raise ImplicitRMError(
        f"X has the columns {[str(name) for name in columns]}; expected 'prompt' and 'response' "
        "(or 'completion'), or 'messages', or 'text'. Rename them, or select one column."
    )


def text_columns(columns):
    """Return the columns of a table that hold its text, or none if they are not known."""
    found = _text_names(columns, "X")
    return found or (tuple(columns) if len(columns) == 1 else ())


def _text_names(columns, where):
    """Return the names that hold text among the columns of a table or the keys of a dict."""
    found = [names for names in _FORMS if all(name in columns for name in names)]
    if len(found) > 1:
        first, second = (" and ".join(map(repr, names)) for names in found[:2])
        raise ImplicitRMError(
            f"{where} has {first}, and {second}, but only one of them can be meant. Leave out the "
            f"other, for example by X[{list(found[0])}]."
        )
    if not found and _SINGLES[-1] in columns:
        if _PAIRS[0][0] in columns:
            raise ImplicitRMError(
                f"{where} has 'prompt' and 'text', and it is not known whether 'text' contains the "
                "prompt. If it does, leave 'prompt' out. If not, rename 'text' to 'response'."
            )
        return _SINGLES[-1:]
    return found[0] if found else ()


def is_message(value):
    """Return whether a value is a chat message, in any of the forms found in logs."""
    if not isinstance(value, dict | Mapping):  # the check for dict is faster
        return False
    if value.get("role") is not None:  # a table has every field in every row
        return any(name in value for name in ("content", "parts", "tool_calls", "function_call"))
    return _is_typed(value) or (value.get("from") is not None and "value" in value)


def _is_typed(value):
    """Return whether a message has the role of LangChain, which is its type."""
    return "content" in value and isinstance(value.get("type"), str) and value["type"] in _ROLES


def _is_messages(value):
    return (
        isinstance(value, list | tuple | np.ndarray)
        and len(value) > 0
        and all(is_message(part) for part in value)
    )


def _read_row(row, where):
    if isinstance(row, str):
        return as_text(row, where)
    if _is_messages(row):
        return _complete(tuple(_message(message, where) for message in row), where)
    if isinstance(row, Mapping):
        names = _text_names(row, where)
        if len(names) == 2:
            return read_pair(*(row[name] for name in names), where)
        if names:
            read = _read_chat_row if names[0] in CHATS else _read_row
            return read(row[names[0]], where)
        raise ImplicitRMError(
            f"{where} is a dict with the keys {[str(key) for key in row]}; expected 'prompt' and "
            "'response' (or 'completion'), or 'messages', or 'text'. Rename the keys."
        )
    if isinstance(row, tuple | list | np.ndarray) and len(row) == 2:
        return read_pair(*row, where)
    raise _unreadable(row, where)


def _read_chat_row(value, where):
    return _complete(read_chat(value, where), where)


def messages_of(value, where):
    """Return the messages of a chat unchanged, as a list of mappings; a string is JSON."""
    value = parsed(value, where)
    if not _is_messages(value):
        if isinstance(value, list | tuple | np.ndarray) and len(value):
            raise _not_a_message(value, where)
        raise _unreadable(value, where)
    return list(value)


def parsed(value, where):
    """Return a chat, which may be JSON, as a list of messages or whatever it is."""
    if isinstance(value, str):
        try:
            value = read_json(value)
        except (ValueError, RecursionError) as error:
            raise ImplicitRMError(
                f"{where} holds a string in a column of chats that is not JSON ({error}); expected "
                "a list of messages, or JSON of one. Name a column of plain texts 'text' or "
                "'response'."
            ) from None
    return value


def _not_a_message(turns, where):
    wrong = next(part for part in turns if not is_message(part))
    shown = wrong
    if isinstance(wrong, Mapping):
        shown = f"the keys {[str(key) for key, part in wrong.items() if part is not None]}"
    return ImplicitRMError(
        f"{where} holds a chat with a turn that is not a message ({str(shown)[:80]}); expected "
        "{'role': ..., 'content': ...} or {'from': ..., 'value': ...}. Convert the turn."
    )


def read_chat(value, where):
    """Return a chat as (role, content) pairs, whatever turn it ends with."""
    return tuple(_message(message, where) for message in messages_of(value, where))


def _complete(row, where):
    """Return a chat if it ends with a response, apart from tool turns."""
    last = last_response(row)
    roles = ", ".join(dict.fromkeys(role for role, _ in row))
    if last is None:
        raise ImplicitRMError(
            f"{where} is a chat without an assistant turn (its roles are {roles}), so it does not "
            "contain a response. Leave such rows out, or name the role of the responses "
            "'assistant'."
        )
    if any(role not in TOOLS for role, _ in row[last + 1 :]):
        raise ImplicitRMError(
            f"{where} is a chat that continues after its last assistant turn (with {row[-1][0]}); "
            "expected a chat that ends with the response. Cut it there, for example with "
            "datasets.read_feedback_log(turn=)."
        )
    return row


def last_response(row):
    """Return the position of the last assistant turn of a chat, or None."""
    turns = range(len(row) - 1, -1, -1)
    return next((turn for turn in turns if row[turn][0] == "assistant"), None)


def start_of_response(row, turn):
    """Return the position at which the response that contains an assistant turn begins."""
    while turn > 0 and row[turn - 1][0] in _ANSWERING:
        turn -= 1
    return turn


def response_text(X: Any) -> list[str]:
    """Return the text of each response, without its prompt.

    The text serves to measure its length, to find responses that occur twice, or to read what a
    reward belongs to. For a log, the response is the turn that the actions belong to, with its
    calls of tools and their results.

    Parameters
    ----------
    X : list, table or column of text with n rows
        Responses as `fit` takes them: pairs of prompt and response, chats, or the ``X`` or
        ``response`` of `read_feedback_log`. The last response of a chat is meant. A plain string is
        a response.

    Returns
    -------
    text : list of str of length n
        The contents of the messages of each response, one per line, where a call of a tool is
        written as the language model reads it.

    Raises
    ------
    TypeError, ValueError
        If X or one of its rows is not text. The message names the row.

    See Also
    --------
    implicitrm_sk.datasets.read_feedback_log : Cuts chats after the turn that users acted on.

    Examples
    --------
    >>> from implicitrm_sk.embedding import response_text
    >>> chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    >>> response_text([("2 + 2?", "four"), chat])
    ['four', '4']
    """
    found = []
    for row in read_text(X):
        if not isinstance(row, str):
            row = as_plain_text(row[start_of_response(row, last_response(row)) :])
        found.append(row)
    return found


def _unreadable(value, where):
    kind = type(value).__name__
    if value is None or (isinstance(value, float) and np.isnan(value)) or kind == "NAType":
        return ImplicitRMError(
            f"{where} holds a missing text ({value!r}). Leave such rows out, or replace "
            'the missing text by "" if the text is known to be empty.'
        )
    if isinstance(value, tuple | list | np.ndarray | Mapping):
        kind = f"{kind} of {len(value)}"
    return TypeError(f"{where} holds a {kind}; expected {FORMS}. Convert it, or leave it out.")


def read_pair(prompt, response, where):
    """Return a prompt and its response as one chat; messages that both contain are read once."""
    prompt, response = _turn(prompt, "user", where), _turn(response, "assistant", where)
    if len(response) > len(prompt) and _repeats(response, prompt):
        prompt = ()
    if last_response(response) is None:
        roles = ", ".join(dict.fromkeys(role for role, _ in response))
        raise ImplicitRMError(
            f"{where} has a response without an assistant turn (its roles are {roles}); expected "
            "text, or messages with one of the role 'assistant'. Rename the role."
        )
    return _complete(prompt + response, where)


def _repeats(response, prompt):
    """Return whether a response begins with its prompt, which may lack the system turns."""
    start = next((i for i, (role, _) in enumerate(response) if role != "system"), 0)
    return any(response[i : i + len(prompt)] == prompt for i in {0, start})


def _turn(value, role, where):
    if is_message(value):
        return (_message(value, where),)
    if role == "user" and isinstance(value, list | tuple | np.ndarray) and not len(value):
        return ()  # a prompt may be missing if the assistant spoke first
    if _is_messages(value):
        return tuple(_message(message, where) for message in value)
    if isinstance(value, Mapping):
        raise _not_a_message((value,), where)
    if isinstance(value, list | tuple | np.ndarray) and any(map(is_message, value)):
        raise _not_a_message(value, where)
    if _is_parts(value):
        value = "".join(_part(part, where) for part in value)
    return ((role, as_text(value, where)),)


def _message(message, where):
    """Return (role, content) of a message of any form."""
    if message.get("role") is not None:
        role, content = as_text(message["role"], where), message.get("content")
        if _has_parts(message):  # of which the content is a copy, if it exists
            content = message["parts"]
    elif _is_typed(message):
        role, content = _ROLES[message["type"]], message["content"]
    else:
        name = as_text(message["from"], where)
        if name not in _ROLES:
            raise ImplicitRMError(
                f"{where} has a message from {name!r}; expected {', '.join(_ROLES)}. Rename it."
            )
        role, content = _ROLES[name], message["value"]
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    if isinstance(content, list | tuple | np.ndarray):
        content = "".join(_part(part, where) for part in content)
    has_calls = message.get("tool_calls") is not None or message.get("function_call") is not None
    calls = list(_calls(message, where)) if has_calls else ()
    if not calls:
        return role, as_text(content, where)
    said = "" if content is None else as_text(content, where)
    return role, "\n".join([*([said] if said else []), *calls])


def _has_parts(message):
    parts = message.get("parts")
    return isinstance(parts, list | tuple | np.ndarray) and len(parts) > 0


def _is_parts(value):
    """Return whether a value is the content of a message in parts, without its message."""
    return (
        isinstance(value, list | tuple | np.ndarray)
        and len(value) > 0
        and all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in value)
    )


def _part(part, where):
    if isinstance(part, str):
        return as_text(part, where)
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind == _MARK:
        return ""
    if not isinstance(kind, str) or kind not in _PARTS or _PARTS[kind] not in part:
        raise ImplicitRMError(
            f"{where} has a message whose content is not text only: a part is {kind!r}; expected a "
            f"string, or parts of the kinds {', '.join(_PARTS)}. Leave such rows out, or describe "
            "these parts as text."
        )
    return as_text(part[_PARTS[kind]], where)


def _calls(message, where):
    """Yield the tool calls in a message as text."""
    calls = message.get("tool_calls")
    calls = [] if calls is None else calls
    single = message.get("function_call")
    if not isinstance(calls, list | tuple | np.ndarray):
        calls = [calls]
    for call in [*calls, *([] if single is None else [single])]:
        function = call.get("function", call) if isinstance(call, Mapping) else call
        if function is None:  # a table has every field in every row
            function = call
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise ImplicitRMError(
                f"{where} has a message with tool_calls that cannot be read ({str(call)[:80]}); "
                f"expected a list of {{'function': {{'name': ..., 'arguments': ...}}}}. Write what "
                "the model is to see into 'content'."
            )
        arguments = function.get("arguments", function.get("args"))
        if not isinstance(arguments, str):
            arguments = json.dumps(
                plain(arguments), sort_keys=True, ensure_ascii=False, default=str
            )
        name = json.dumps(name, ensure_ascii=False)
        call = f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>'
        yield as_text(call, where)


def as_text(value, where):
    """Return a string as a plain string of valid text; raise if it is not valid."""
    if not isinstance(value, str):
        raise _unreadable(value, where)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ImplicitRMError(
                f"{where} is not valid Unicode text ({error}): it has half of a surrogate pair, as "
                "a cut emoji leaves it. Repair it with text.encode('utf-16', "
                "'surrogatepass').decode('utf-16', 'replace')."
            ) from None
    return str(value)


def as_messages(row):
    """Return the messages of a conversation as dicts, as chat templates read them."""
    return [{"role": role, "content": content} for role, content in row]


def as_plain_text(row):
    """Return a row without chat template: the contents of its messages, one per line."""
    return row if isinstance(row, str) else "\n".join(content for _, content in row)
