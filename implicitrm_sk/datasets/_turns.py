"""The prompt and the response of a row: the turns of a chat up to the one acted on."""

import json

import numpy as np

from ..embedding._text import (
    TOOLS,
    as_messages,
    last_response,
    messages_of,
    parsed,
    read_chat,
    read_pair,
    start_of_response,
)
from ..exceptions import ImplicitRMError


def split_chat(value, where, turn_of=None):
    """Return ((prompt, response), whether something was cut off), or None without a response.

    Parameters
    ----------
    value : list of messages, or JSON of such
    where : str
        Place of the row, for the messages.
    turn_of : callable(chat) -> int, default=None
        Returns the position of the turn that was acted on; None means the last one.
    """
    value = parsed(value, where)
    if isinstance(value, list | tuple | np.ndarray) and not len(value):
        return None
    chat = read_chat(value, where)
    turn = last_response(chat)
    if turn is None:
        return None
    if turn_of is not None:
        turn = turn_of(chat)
    end = turn + 1
    while end < len(chat) and chat[end][0] in TOOLS:
        end += 1
    start = start_of_response(chat, turn)
    response = chat[start:end]
    response = response[0][1] if len(response) == 1 else as_messages(response)
    return (as_messages(chat[:start]), response), end < len(chat)


def turn_named(given, value, chat, *, where, name):
    """Return the position of the turn of a chat that the column `name` gives for it."""
    if isinstance(given, float) and given.is_integer():  # integers beside missing values
        given = int(given)
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        turn = int(given)
    elif isinstance(given, str):
        ids = [message.get("id") for message in messages_of(value, where)]
        if ids.count(given) != 1:
            raise ImplicitRMError(
                f"{where} has {ids.count(given) or 'no'} messages with the id {given!r} from "
                f"{name}; expected one. Correct the id."
            )
        turn = ids.index(given)
    else:
        raise ImplicitRMError(
            f"{where} has {given!r} in {name}; expected the position of a turn (an integer, from "
            "0) or the id of a message. Correct it."
        )
    if not 0 <= turn < len(chat) or chat[turn][0] != "assistant":
        what = f"a turn of {chat[turn][0]}" if 0 <= turn < len(chat) else "not there"
        raise ImplicitRMError(
            f"{where} has {len(chat)} turns, and {name} names {given!r}, which is {what}; expected "
            "an assistant turn. Positions count from 0. Correct it."
        )
    return turn


def split_pair(prompt, response, where):
    """Return prompt and response, each as text, or as messages if it is more than one message."""
    chat = read_pair(prompt, response, where)
    if isinstance(prompt, str) and isinstance(response, str):
        return prompt, response
    start = start_of_response(chat, last_response(chat))
    answer = chat[start:]
    prompt = prompt if isinstance(prompt, str) and start == 1 else as_messages(chat[:start])
    return prompt, answer[0][1] if len(answer) == 1 else as_messages(answer)


def split_alone(response, where):
    """Return a response without a prompt, as text, or as messages if it is more than one."""
    chat = read_pair((), response, where)
    return chat[0][1] if len(chat) == 1 else as_messages(chat)


def unknown_roles(value, where):
    """Return the roles of a chat, which may be empty, that neither ask nor answer by their name."""
    known = ("user", "system", "developer", "assistant", *TOOLS)
    value = parsed(value, where)
    turns = read_chat(value, where) if len(value) else ()
    return [role for role in dict.fromkeys(role for role, _ in turns) if role not in known]


def is_json(text):
    """Return whether a text is an object or array of JSON, as chats are in cells of a table."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def is_blank(response):
    """Return whether a response contains only white space."""
    if isinstance(response, str):
        return not response.strip()
    return not any(message["content"].strip() for message in response)
