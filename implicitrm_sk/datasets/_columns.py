"""The columns of a log by role: those that arguments name, and those that are guessed."""

from collections.abc import Mapping

import numpy as np

from .._keys import is_absent, read_json
from ..embedding._text import CHATS
from ..exceptions import ImplicitRMError

#: Columns that are searched for if no argument names one.
GUESSES = {
    "messages": CHATS,
    "prompt": ("prompt",),
    "response": ("response", "answer", "completion"),
    "embedding": ("embedding",),
    "user_id": ("user_id",),
    "prompt_id": ("prompt_id",),
    "conversation_id": ("conversation_id",),
    "time": ("time", "timestamp", "created_at"),
}
TEXT = ("messages", "prompt", "response")
#: Columns that hold the id of a response if no argument names one; only duplicates need them.
RESPONSE_IDS = ("response_id", "message_id")
#: A column with this name, or with a name that begins with the second, is an action.
_ACTIONS = ("action", "action_")


class Fields:
    """Columns of a log by name; a name with dots is a path into nested values.

    Parameters
    ----------
    records : Records
    names : sequence of str
        Those that do not exist are left out.
    guess_actions : bool, default=False
        Whether columns whose names say that they are actions are collected too.

    Attributes
    ----------
    values : dict of list
        The columns by name, None if a row has no value.
    rows : list
        The place of each row, see `Records.place`.
    seen : dict
        Its keys are the columns of the log.
    ends : dict of str
        For paths that lead to nothing, a sentence that says where the first of them ends.
    """

    def __init__(self, records, names, guess_actions=False):
        self.records = records
        self.values, self.seen, self.rows, self.ends = {}, {}, [], {}
        self._collect(dict.fromkeys(names), guess_actions)

    def _collect(self, names, guess_actions):
        """Read all rows, and keep the columns of these names; the others are only counted."""
        paths = {name: str(name).split(".") for name in names}
        roots = {path[0] for path in paths.values()} | set(names)
        met = set()  # paths that lead to a field, though it may be null everywhere

        def wanted(columns):
            self.seen.update(dict.fromkeys(columns))
            return [c for c in columns if c in roots or (guess_actions and _is_action(c))]

        for number, record in self.records.read(wanted):
            row = len(self.rows)
            self.rows.append(number)
            for name in record:
                if name not in self.seen:
                    self.seen[name] = None
                if guess_actions and name not in paths and _is_action(name):
                    paths[name] = [name]
            for name, path in paths.items():
                value = record.get(name)
                if value is None and path[0] in record and name not in record:
                    value, is_there = self._inside(record[path[0]], path, row)
                    if is_there:
                        met.add(name)
                if value is not None:
                    column = self.values.setdefault(name, [])
                    column.extend([None] * (row - len(column)))
                    column.append(value)
        for name in paths:
            if name in self.values or name in self.seen or name in met:
                column = self.values.setdefault(name, [])
                column.extend([None] * (len(self.rows) - len(column)))

    def _inside(self, value, path, row):
        """Return the field at the end of a path into nested values, and whether it exists."""
        for depth, step in enumerate(path[1:], 1):
            if is_absent(value):
                return None, False
            value, there = self._opened(value, path, depth, row)
            if isinstance(value, Mapping):
                if step not in value:
                    return self._end(path, depth, row, value)
                value = value[step]
            elif step.isdecimal():
                if int(step) >= len(value):
                    return self._end(path, depth, row, range(len(value)))
                value = value[int(step)]
            else:
                names = [name for v in value for name in _names_of(v)]
                if value and not names:
                    raise self._not_nested(value, path, depth, row, there)
                named = [v for v in value if step in _names_of(v)]
                if len(named) > 1:
                    raise ImplicitRMError(
                        f"{self.place(row)} holds {len(named)} entries named {step!r}; expected "
                        "one. Turn them into rows or events, see actions_from_events."
                    )
                if not named:
                    return self._end(path, depth, row, names)
                value = self._value_of(named[0], path, depth, row)
        return value, True

    def _opened(self, value, path, depth, row):
        """Return a nested value as a mapping or list, and as it was."""
        there = value
        if isinstance(value, str):
            try:
                value = read_json(value)
            except (ValueError, RecursionError):
                pass
        if isinstance(value, list | tuple | np.ndarray):
            value = list(value)
            if value and all(isinstance(v, tuple) and len(v) == 2 for v in value):
                value = dict(value)  # a map of Arrow
        if not isinstance(value, Mapping | list):
            raise self._not_nested(there, path, depth, row, there)
        return value, there

    def _not_nested(self, value, path, depth, row, there):
        return ImplicitRMError(
            f"{self.place(row)} holds {str(there)[:40]!r} in {'.'.join(path[:depth])!r}, where "
            f"{path[depth]!r} is to be found; expected a record, a list of entries with a name, or "
            "JSON of these. Name another column."
        )

    def _end(self, path, depth, row, names):
        """Return that a path leads to nothing, and keep where the first of them ends."""
        shown = ", ".join(map(str, dict.fromkeys(names))) or "nothing"
        self.ends.setdefault(
            ".".join(path),
            f" {'.'.join(path[:depth])!r} of {self.place(row)} holds {shown[:200]}, and no row "
            f"holds the rest of the path.",
        )
        return None, False

    def _value_of(self, entry, path, depth, row):
        """Return the value of a score.

        It is the `score` of LangSmith, the `value` of Langfuse, or its category.
        """
        names = ["value", "score", "stringValue"]
        if entry.get("dataType") == "CATEGORICAL":
            names.reverse()  # the value is then a number for the text, or nothing
        if not any(name in entry for name in names):
            raise ImplicitRMError(
                f"{self.place(row)} holds the entry {path[depth]!r} without a value; expected one "
                f"of {', '.join(map(repr, names))}, but its fields are "
                f"{', '.join(map(repr, entry))}. Name the value by its position, as in "
                f"'{'.'.join(path[:depth])}.0.{list(entry)[-1]}'."
            )
        return next((entry[name] for name in names if entry.get(name) is not None), None)

    def place(self, row):
        """Return the place of a row, in words."""
        return self.records.place(self.rows[row])

    def check(self, names):
        """Raise unless all columns of these names exist."""
        for name in names:
            if name not in self.values:
                raise ImplicitRMError(
                    f"{self.records.name} lacks the column {name!r}. It has the columns "
                    f"{self._listing()}.{self.ends.get(name, '')}"
                    f"{nearly(name, self.seen)} Correct the name."
                )

    def _listing(self):
        names = list(map(repr, self.seen))
        return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


class Columns(Fields):
    """The columns of a log that are needed, as they are read.

    Parameters
    ----------
    records : Records
    given : dict
        The columns that arguments name, by role; None if not named.
    signals : dict or None
        The kind of each column of actions, None if they are to be found by their names.
    keep : list of str
    needs_features : bool
        Whether a log without text and vectors is refused.
    compared : sequence of str
        Further columns to collect, if they exist.

    Attributes
    ----------
    roles : dict of str
        The column of each role that exists.
    positions : ndarray of int
        The numbers of the rows in the source.
    found : dict of int
        Numbers of rows for the summary, by finding.
    """

    def __init__(self, records, given, signals, keep, needs_features, compared=()):
        self.keep, self.found = keep, {}
        self.compared = (*compared, *RESPONSE_IDS)
        named = [name for name in given.values() if name is not None]
        named += [*(signals or ()), *keep, *self.compared]
        candidates = [name for names in GUESSES.values() for name in names]
        super().__init__(records, named + candidates, signals is None)
        self.n_read = len(self.rows)
        self.positions = np.arange(self.n_read)
        if not self.n_read:
            raise ImplicitRMError(f"{records.name} has no rows. Check the export.")
        if signals is None:
            found = sorted(name for name in self.values if _is_action(name))
            signals = dict.fromkeys(found, "positive")
        self.signals = signals
        self.guessed = set()
        self.roles = self._settle(given, needs_features)
        self.check([*self.roles.values(), *signals, *keep])

    def of(self, role):
        return f"column {self.roles[role]!r}"

    def column(self, name):
        """Return the values of a role, of a signal or of a column."""
        return self.values[self.roles.get(name, name)]

    def _settle(self, given, needs_features):
        """Return the column of each role: the given one, or the only one with one of its names."""
        roles = {role: name for role, name in given.items() if name is not None}
        given_text = set(roles) & set(TEXT)
        if "messages" in given_text and len(given_text) > 1:
            raise ImplicitRMError(
                "messages and prompt or response are given, but both name the text. Pass "
                "messages=, or prompt= and response=."
            )
        for role, names in GUESSES.items():
            # Of the text, a prompt may be guessed beside responses that are named.
            beside = role == "prompt" and given_text == {"response"}
            if role in roles or (role in TEXT and given_text and not beside):
                continue
            taken = (*self.signals, *roles.values())
            present = [name for name in names if name in self.values and name not in taken]
            if len(present) > 1:
                self._refuse_guess(role, present)
            if present:
                roles[role] = present[0]
                self.guessed.add(role)
        if not given_text:
            if "messages" in roles and "response" in roles:
                self._refuse_guess("messages", [roles["messages"], roles["response"]])
            if "messages" in roles or "response" not in roles:
                roles.pop("prompt", None)
        if "prompt" in given_text and "response" not in roles:
            raise ImplicitRMError(
                f"prompt={roles['prompt']!r} is given without the column of responses. Pass "
                "response= too."
            )
        for role in TEXT:
            if role in roles and roles[role] in (*self.signals, *self.keep):
                raise ImplicitRMError(
                    f"the column {roles[role]!r} is the text ({role}) and is named in signals, "
                    "keep or null_is_silent too; expected another column there. Correct it."
                )
        if needs_features and not {"messages", "response", "embedding"} & set(roles):
            raise ImplicitRMError(
                f"{self.records.name} has no column that is known to hold text or vectors. Name "
                "it: messages= (chats), response= and prompt=, or embedding=. It has the columns "
                f"{self._listing()}."
            )
        if "turn" in roles and "messages" not in roles:
            raise ImplicitRMError(
                f"turn={roles['turn']!r} names the turn of a chat that was acted on, but no column "
                "of chats is read. Pass messages=, or leave turn out."
            )
        return roles

    def _refuse_guess(self, role, present):
        raise ImplicitRMError(
            f"{self.records.name} has the columns {' and '.join(map(repr, present))}, but only one "
            f"of them can be meant. Name it: {role}={present[0]!r}."
        )

    @property
    def has_text(self):
        return "messages" in self.roles or "response" in self.roles

    def described(self):
        """Return the column of each role, in words."""
        found = {r: f"{n}{' (guessed)' * (r in self.guessed)}" for r, n in self.roles.items()}
        if self.records.files[1:]:
            found = {"files": f"{len(self.records.files)}, in the order of their names"} | found
        if self.records.left_out:
            found["files left out"] = ", ".join(self.records.left_out)
        return found

    def drop(self, rows):
        """Leave out rows by their numbers."""
        kept = np.ones(self.n_read, dtype=bool)
        kept[rows] = False
        self.positions = self.positions[kept]
        self.rows = [row for row, keep in zip(self.rows, kept, strict=True) if keep]
        for name, column in self.values.items():
            self.values[name] = [v for v, keep in zip(column, kept, strict=True) if keep]


def nearly(name, names):
    """Return in a sentence which name differs in spaces or capitals only, if there is one."""
    plain = str(name).strip().casefold()
    found = next((n for n in names if n != name and str(n).strip().casefold() == plain), None)
    return "" if found is None else f" {found!r} differs in spaces or capitals only."


def _is_action(name):
    return isinstance(name, str) and (name == _ACTIONS[0] or name.startswith(_ACTIONS[1]))


def _names_of(entry):
    """Return the names of an entry of a list."""
    names = (entry.get("name"), entry.get("key")) if isinstance(entry, Mapping) else ()
    return [name for name in names if name is not None]
