"""Actions from a table of events, which has one row for each thing that a user did."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np

from .._keys import WRITTEN, as_rounded, as_text, codes_of, in_two_forms, rounded_id, two_forms
from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ._by_role import ByRole
from ._data import FeedbackData
from ._summary import LogSummary, of_signals, sizes
from ._times import as_times, as_window, check_kinds, column_times, is_unknown, with_zone

NEXT_TURN = "next_turn"
OF_RESPONSES = (
    "response_id",
    "conversation_id",
    "user_id",
    "time",
    "prompt_id",
    "parent_id",
    "client",
    "response",
)
OF_EVENTS = ("response_id", "conversation_id", "user_id", "time", "kind")
#: Reasons to leave out events.
_IGNORED, _STRANGE = "events of ignored kinds", "events of no response in the log"
_SIDES = ("left", "right")
_OTHER_USER = "events whose user has no row of the response"
_IN_DOUBT = "actions that are not known because the user of an event or of its row is missing"
_RULES = ("regenerate", "edit")


def actions_from_events(
    responses: Any,
    events: Any,
    kinds: Mapping[str, Any],
    *,
    window: float | str | timedelta | tuple | None = None,
    now: float | str | datetime | None = None,
    tracked: Mapping[str, Iterable[Any]] | None = None,
    infer: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> FeedbackData:
    """Return the responses with one column of actions for each kind of event.

    An event belongs to the row of its response. Without one, it belongs to the response that its
    conversation had shown last. If users are known, it belongs to a row of its own user. Events
    that do not belong to a row are left out, and the summary reports their number and the reason.
    If only one of event and row has a user, they may belong together: the action is then NaN.

    Parameters
    ----------
    responses : FeedbackData or table of n rows
        The result of `read_feedback_log`, or a table (pandas, polars, Arrow, list of dicts). A
        table has the columns ``response_id`` or ``conversation_id`` and, if known, ``user_id``,
        ``time``, ``prompt_id``, ``parent_id``, ``client`` and ``response`` (its text, which only
        `infer` reads). Other columns are ignored.
    events : path, table, list of dict, or None
        One row for each event, with ``kind``, ``response_id`` or ``conversation_id`` and, if known,
        ``user_id`` and ``time``. If both ids are given, that of the response counts. None: no
        events, so that all actions are those of `infer`.
    kinds : dict
        The preference that each kind of event shows: ``"positive"``, ``"negative"``, a `Signal`, or
        None for events to leave out. Every kind of `events` must be named.
    window : float, str, timedelta, "next_turn" or tuple, default=None
        How long after its response an event counts. It is a duration such as ``"24h"``, the next
        response of the conversation, or both in ``("next_turn", "24h")``, where the first to come
        counts. All actions of a row whose window is open at `now` are NaN. None means no limit.
    now : float, str or datetime, default=None
        The time of the export, needed with a duration.
    tracked : dict, default=None
        Clients on which a kind is tracked, ``{"shared": ["web"]}``. The action is NaN in rows with
        any other ``client``. A kind that is not named is tracked everywhere.
    infer : dict, default=None
        Kinds that also follow from what was shown, ``{"regenerated": "regenerate"}``. With
        "regenerate", the same user later got another response to the same prompt (``prompt_id``, or
        equal prompts in data that were read). A response that is shown again is not another one:
        ``response_id`` distinguishes responses, or else their text. With "edit", the same user
        later sent another prompt after the same ``parent_id``, the response before the prompt.
    columns : dict, default=None
        The columns of `events` that have other names, ``{"kind": "event", "response_id":
        "properties.message_id"}``. A dot leads into nested records of a file or a list.

    Returns
    -------
    data : FeedbackData
        ``actions`` is a DataFrame of n rows, in their order, with a column for each kind. It is 1
        if there was an event, however often, 0 if there was none, and NaN if that is not known.
        ``signals`` gives the preference that each column shows. Data that were read keep their
        attributes, including earlier actions. A table gives ``user_id``, ``time`` and ``groups``
        (numbers of the prompts).

    Raises
    ------
    ValueError, TypeError
        If a column is missing or cannot be read, a kind is not named, or the row of an event is not
        known.
    ImportError
        If pandas (extra ``data``) is not installed.

    See Also
    --------
    read_feedback_log : Reads the responses.

    Examples
    --------
    >>> from implicitrm_sk.datasets import actions_from_events
    >>> responses = [
    ...     {"response_id": "a", "user_id": "ann", "time": "2026-01-01T10:00"},
    ...     {"response_id": "a", "user_id": "bob", "time": "2026-01-01T11:00"},
    ...     {"response_id": "b", "user_id": "bob", "time": "2026-01-03T12:00"},
    ... ]
    >>> events = [
    ...     {"response_id": "a", "user_id": "ann", "kind": "copy", "time": "2026-01-01T10:01"},
    ...     {"response_id": "a", "user_id": "ann", "kind": "copy", "time": "2026-01-01T10:02"},
    ...     {"response_id": "z", "user_id": "ann", "kind": "copy", "time": "2026-01-01T10:03"},
    ... ]
    >>> data = actions_from_events(
    ...     responses, events, {"copy": "positive"}, window="24h", now="2026-01-03T13:00"
    ... )
    >>> data.actions["copy"].tolist()
    [1.0, 0.0, nan]
    >>> data.summary.left_out
    {'events of no response in the log': 1}
    """
    pandas = import_optional("pandas", "data", "Making actions of events")
    if events is None:
        unknown = [name for name in kinds if kinds[name] is not None and name not in (infer or {})]
        if unknown:
            raise ImplicitRMError(
                f"events is None, but kinds names {unknown[0]!r}, which infer does not make. Pass "
                f"the events, or leave {unknown[0]!r} out."
            )
        events = pandas.DataFrame({"kind": []})
    return actions_of_tables(
        ByRole(responses, OF_RESPONSES, "responses", pandas),
        ByRole(events, OF_EVENTS, "events", pandas, columns),
        kinds,
        window=window,
        now=now,
        tracked=tracked,
        infer=infer,
    )


def actions_of_tables(shown, done, kinds, *, window=None, now=None, tracked=None, infer=None):
    """Return what `actions_from_events` does, whose messages have the names of the tables.

    Parameters
    ----------
    shown, done : ByRole
        The responses and the events.
    kinds, window, now, tracked, infer
        As there.
    """
    pandas = shown.pandas
    kinds = _check_kinds_of(kinds, infer, tracked)
    names = [name for name, kind in kinds.items() if kind is not None]
    job = _Matching(shown, done, window, now)
    kind = _kind_codes(done, kinds, names, pandas)
    left_out, found = {}, {}
    row, (doubtful, rows_in_doubt) = job.rows_of_events(left_out, ignored=kind < 0)
    acted = np.zeros((shown.n, len(names)))
    used = row >= 0
    place = row[used] * len(names) + kind[used]
    acted.ravel()[place] = 1
    found["events that repeat another one"] = len(place) - int(acted.sum())
    for name, rule in (infer or {}).items():
        rows = job.inferred(rule)
        found[f"rows with {name} inferred"] = int((acted[rows, names.index(name)] == 0).sum())
        acted[rows, names.index(name)] = 1
    cells = np.unique(rows_in_doubt * len(names) + kind[doubtful])
    cells = cells[acted.ravel()[cells] == 0]
    acted.ravel()[cells] = np.nan
    if len(cells):
        found[_IN_DOUBT] = len(cells)
    is_open = job.is_open()
    limits = window if isinstance(window, tuple | list) else (window,)
    what = f"rows whose window of {' or '.join(map(str, limits))} is not closed"
    found[what] = int(is_open.sum())
    acted[is_open] = np.nan
    for name, clients in (tracked or {}).items():
        clients = [clients] if isinstance(clients, str) else list(clients)
        elsewhere = ~shown.need("client", "tracked=").isin(clients).to_numpy()
        lost = elsewhere & (acted[:, names.index(name)] == 1)
        left_out[f"actions {name} of clients that do not track it"] = int(lost.sum())
        acted[elsewhere, names.index(name)] = np.nan
    left_out = {reason: n for reason, n in left_out.items() if n}
    counted = done.n - left_out.get(_IGNORED, 0)
    strangers = left_out.get(_STRANGE, 0) + left_out.get(_OTHER_USER, 0)
    none_fits = 0 < strangers == counted
    actions = dict(zip(names, acted.T.copy(), strict=True))
    return _with_actions(shown, actions, kinds, left_out, found, done, pandas, none_fits)


def _check_kinds_of(kinds, infer, tracked):
    if not isinstance(kinds, Mapping) or not kinds:
        raise TypeError(
            f"kinds is {kinds!r}; expected a dict from each kind of event to 'positive', "
            "'negative', an object of implicitrm_sk.signals, or None (left out). Pass a dict."
        )
    for name, kind in kinds.items():
        if kind not in ("positive", "negative", None) and not hasattr(kind, "shows"):
            raise ImplicitRMError(
                f"kinds[{name!r}] is {kind!r}; expected 'positive', 'negative', an object of "
                "implicitrm_sk.signals, or None (left out). Correct it."
            )
        if hasattr(kind, "shows") and not isinstance(kind, Action):
            raise ImplicitRMError(
                f"kinds[{name!r}] is a {type(kind).__name__}, but an event happens or does not "
                "happen, and has no value. Expected 'positive', 'negative' or an Action. Put "
                "values (a thumb, a time) into a column of responses, and name it in signals."
            )
    if all(kind is None for kind in kinds.values()):
        raise ImplicitRMError(
            "kinds leaves out every kind of event; expected at least one that shows a preference. "
            "Name it."
        )
    for argument, given in (("infer", infer or {}), ("tracked", tracked or {})):
        for name in given:
            if kinds.get(name) is None:
                raise ImplicitRMError(
                    f"{argument} names {name!r}, but kinds lacks it. Add {name!r}: 'positive' or "
                    "'negative' to kinds."
                )
    for name, rule in (infer or {}).items():
        if rule not in _RULES:
            raise ImplicitRMError(
                f"infer[{name!r}] is {rule!r}; expected one of {_RULES}. Correct it."
            )
    return dict(kinds)


def _factorized(column, pandas):
    """Return codes of a Series, -1 where missing, and their number; values may be chats."""
    try:
        codes, values = pandas.factorize(column)
    except TypeError:  # unhashable
        codes = codes_of(column.tolist())
        return codes, int(codes.max(initial=-1)) + 1
    return codes, len(values)


def _shared(columns, pandas):
    """Return codes of one id in two columns, and the number of values.

    Raises if an id is a number in one place and text in another: it would match nothing there.

    Parameters
    ----------
    columns : list of two (ByRole, str)
        The table of each column, and its role.
    pandas : module
    """
    a, b = (table.columns[role] for table, role in columns)
    places = [f"{table.of(role)} of {table.argument}" for table, role in columns]
    kinds = [pandas.api.types.infer_dtype(column, skipna=True) for column in (a, b)]
    text, number = (
        [kind.startswith(starts) for kind in kinds]
        for starts in (("string", "categorical"), ("integer", "floating", "mixed-integer-float"))
    )
    if len(a) and len(b) and ((text[0] and number[1]) or (number[0] and text[1])):
        if not text[0]:
            places.reverse()
        raise ImplicitRMError(
            f"{places[0]} holds text and {places[1]} numbers, so they would never match. Convert "
            "one of the two columns."
        )
    for column, place in zip((a, b), places, strict=True):
        if column.dtype in (object, float) and (rounded := rounded_id(column)) is not None:
            raise ImplicitRMError(as_rounded(f"{place} has ids", rounded))
    if a.dtype != b.dtype:  # pandas would turn two kinds of integers into floats
        a, b = a.astype(object), b.astype(object)
    codes, n = _factorized(pandas.concat([a, b], ignore_index=True), pandas)
    if a.dtype == object and (mixed := two_forms(chain(a, b))):
        forms = {as_text(number) for number in mixed}
        n_rows = sum(isinstance(v, WRITTEN) and as_text(v) in forms for v in b)
        raise ImplicitRMError(
            in_two_forms(f"{' and '.join(places)} have ids", len(mixed), mixed[0])
            + f" {n_rows:,} of {len(b):,} rows of {columns[1][0].argument} have such an id."
        )
    return codes[: len(a)], codes[len(a) :], n


def _kind_codes(done, kinds, names, pandas):
    """Return the number of each event's kind, -1 for kinds to leave out."""
    column = done.need("kind", "making actions")
    done.check_complete("kind", "making actions")
    try:
        codes, values = pandas.factorize(column)
    except TypeError as error:
        raise TypeError(
            f"{done.argument} holds kinds that are not names ({error}); expected text in "
            f"{done.of('kind')}. Convert them."
        ) from None
    unknown = [value for value in values if value not in kinds]
    if unknown:
        counts = np.bincount(codes, minlength=len(values))
        shown = ", ".join(
            f"{value!r} ({counts[i]:,})" for i, value in enumerate(values) if value in unknown[:10]
        )
        raise ImplicitRMError(
            f"{done.argument} has {len(unknown)} kind{'s' * (len(unknown) > 1)} that kinds does "
            f"not name: {shown}. Name the "
            f"preference that each shows, or leave it out with {unknown[0]!r}: None."
        )
    number = [names.index(v) if kinds[v] is not None else -1 for v in values]
    return np.asarray(number, dtype=np.int64)[codes] if len(codes) else np.zeros(0, dtype=np.int64)


class _Matching:
    """The row of each event, and the time until which events of a row count."""

    def __init__(self, shown, done, window, now):
        self.shown, self.done = shown, done
        self.by_turn, duration = _split_window(window)
        self.times = self.event_times = self.window = self.now = None
        kinds, times = {}, {}
        if "time" in shown and ("time" in done or window is not None or not done.n):
            shown.check_complete("time", "placing events")
            name = f"{shown.of('time')} of {shown.argument}"
            self.times, kinds[name] = column_times(
                shown.columns["time"], shown.place, shown.of("time")
            )
            times[name] = self.times
            if "time" in done:
                done.check_complete("time", "placing events")
                name = f"{done.of('time')} of {done.argument}"
                self.event_times, kinds[name] = column_times(
                    done.columns["time"], done.place, done.of("time")
                )
                times[name] = self.event_times
        if window is not None:
            for table in (shown, done):
                if table is shown or done.n:
                    table.need("time", f"window={window!r}")
        if now is not None:
            times["now"], kinds["now"] = as_times([now], lambda _: "now", "now")
            (self.now,) = times["now"]
            if kinds["now"] is None:
                raise ImplicitRMError(
                    f"now is {now!r}; expected the time of the export. Pass it, or leave now out."
                )
        check_kinds(kinds, times)
        if duration is not None:
            if now is None:
                raise ImplicitRMError(
                    f"window={window!r} is given without now=, the time of the export, which "
                    "decides which windows are closed. Pass now."
                )
            self.window = as_window(duration, self.times)
        if self.now is not None and self.event_times is not None and done.n:
            last = self.event_times.max()
            if last > self.now:
                raise ImplicitRMError(
                    f"now={now!r} is earlier than the last event ({last}, "
                    f"{done.place(self.event_times.argmax())}); expected the time of the export. "
                    "Correct it, or check the unit of the times."
                )
        self.end = None
        if self.by_turn:
            shown.need("conversation_id", f"window={window!r}")
            shown.check_complete("conversation_id", f"window={window!r}")
            self.end = self._next_time(self._own("conversation_id"))

    def _next_time(self, key, value=None):
        """Return when the next row with the same key was shown, NaT or NaN for the last one.

        With numbers of values, rows that show a value of their key again do not count.
        """
        steps, rank = np.unique(self.times, return_inverse=True)
        place = key * (len(steps) + 1) + rank
        order = place
        if value is not None:
            _, each = np.unique(key * (value.max() + 1) + value, return_inverse=True)
            order = np.full(each.max() + 1, place.max())
            np.minimum.at(order, each, place)
        order = np.unique(order)
        following = np.searchsorted(order, place, side="right")
        after = order[np.minimum(following, len(order) - 1)]
        there = (following < len(order)) & (after // (len(steps) + 1) == key)
        missing = np.datetime64("NaT") if self.times.dtype.kind == "M" else np.nan
        return np.where(there, steps[np.minimum(after % (len(steps) + 1), len(steps) - 1)], missing)

    def rows_of_events(self, left_out, ignored):
        """Return the row of each event, and pairs of event and row that may belong together.

        The row is -1 for events left out, which are counted by reason.
        """
        shown, done = self.shown, self.done
        if not done.n:
            none = np.zeros(0, dtype=np.int64)
            return none, (none, none)
        name = next(
            (n for n in ("response_id", "conversation_id") if n in shown and n in done), None
        )
        if name is None:
            raise ImplicitRMError(
                "events cannot be matched with responses; expected a column 'response_id' or "
                f"'conversation_id' in both. {shown.argument} has {shown.listing()}; "
                f"{done.argument} has {done.listing()}. Add or rename a column. "
                "read_feedback_log takes ids of responses only by name: response_id='COLUMN'."
            )
        shown.check_complete(name, "matching events")
        key, event_key, n = _shared([(shown, name), (done, name)], shown.pandas)
        unknown = event_key < 0
        of_any, event_of_any = key, event_key = key.astype(np.int64), event_key.astype(np.int64)
        key, event_key = self._with_users(key, event_key, n, name)
        row, early = self._last_row(key, event_key, name)
        row[unknown] = -1
        reasons = {
            _IGNORED: ignored,
            f"events without {done.name(name)}": unknown,
            _STRANGE: (row < 0) & ~early & ~np.isin(event_of_any, of_any),
            _OTHER_USER: (row < 0) & ~early,
            "events before the response was shown": early,
            "events after the window": self._is_late(row),
        }
        counted = np.zeros(done.n, dtype=bool)
        alone = np.zeros(0, dtype=np.int64)
        for reason, events in reasons.items():
            if reason == _OTHER_USER:
                alone = np.flatnonzero(events & ~counted)
            left_out[reason] = int((events & ~counted).sum())
            counted |= events
        return np.where(counted, -1, row), self._in_doubt(of_any, event_of_any, alone, name)

    def _in_doubt(self, key, event_key, events, name):
        """Return pairs of event and row of one key. Only one of the two has a user.

        Parameters
        ----------
        key, event_key : ndarray of int
            Numbers of the responses or conversations of rows and events, of any user.
        events : ndarray of int
            The events whose user has no row.
        name : str
            The role of the keys.
        """
        shown, done = self.shown, self.done
        if not len(events):
            return events, events
        users, event_users, _ = _shared([(shown, "user_id"), (done, "user_id")], shown.pandas)
        order = np.argsort(key, kind="stable")
        begin, end = (np.searchsorted(key[order], event_key[events], side) for side in _SIDES)
        event = np.repeat(events, end - begin)
        nth = np.arange(len(event)) - np.repeat(np.cumsum(end - begin) - (end - begin), end - begin)
        row = order[np.repeat(begin, end - begin) + nth]
        maybe = (event_users[event] < 0) != (users[row] < 0)
        if self.event_times is not None:
            maybe &= self.times[row] <= self.event_times[event]
        event, row = event[maybe], row[maybe]
        if self.event_times is None:
            return event, row
        if name == "conversation_id":
            # Of a conversation, the response shown last.
            rank = np.unique(self.times, return_inverse=True)[1][row]
            last = np.full(done.n, -1)
            np.maximum.at(last, event, rank)
            event, row = event[rank == last[event]], row[rank == last[event]]
        late = self._is_late(row, self.event_times[event])
        return event[~late], row[~late]

    def _with_users(self, key, event_key, n, name):
        """Separate the users of one response; events without a user belong to rows without one."""
        shown, done = self.shown, self.done
        if "user_id" in done and "user_id" not in shown:
            raise ImplicitRMError(
                f"{done.argument} has a {done.of('user_id')} but {shown.argument} does not, so "
                "several users of one response cannot be separated. Add it to "
                f"{shown.argument}, or leave it out of {done.argument}."
            )
        if "user_id" not in shown:
            return key, event_key
        if "user_id" not in done:
            users = _factorized(shown.columns["user_id"], shown.pandas)
            first = np.full(n, -2)
            first[key] = users[0]
            several = first[key] != users[0]
            if several.any():
                raise ImplicitRMError(
                    f"{done.argument} lacks the column 'user_id', but {shown.name(name)!r} "
                    f"{shown.columns[name].iloc[several.argmax()]!r} was shown to several users; "
                    "expected the user of each event. Add the column."
                )
            return key, event_key
        users, event_users, n_users = _shared([(shown, "user_id"), (done, "user_id")], shown.pandas)
        both = event_key * (n_users + 1) + event_users + 1
        return key * (n_users + 1) + users + 1, np.where(event_key < 0, -1, both)

    def _last_row(self, key, event_key, name):
        """Return the last row of the key shown before each event, and the events without one."""
        times, event_times = self.times, self.event_times
        values, codes = np.unique(key, return_inverse=True)
        place = np.minimum(np.searchsorted(values, event_key), len(values) - 1)
        known = values[place] == event_key
        if event_times is None:
            if len(values) < len(key):
                repeated = np.bincount(codes).max()
                raise ImplicitRMError(
                    f"one {self.shown.name(name)!r} occurs in up to {repeated} rows of "
                    f"{self.shown.argument}, and without times the row of an event is not known. "
                    "Add 'time' to both tables."
                )
            order = np.argsort(key)
            return np.where(known, order[place], -1), np.zeros(len(event_key), dtype=bool)
        steps = np.unique(times)
        rank = np.searchsorted(steps, times)
        # For each event, the number of times not after it, so that 0 is before all rows.
        event_rank = np.searchsorted(steps, event_times, side="right")
        scale = len(steps) + 1
        order = np.argsort(codes * scale + rank + 1, kind="stable")
        ordered = (codes * scale + rank + 1)[order]
        found = np.searchsorted(ordered, place * scale + event_rank, side="right") - 1
        row = order[np.maximum(found, 0)]
        hit = known & (found >= 0) & (codes[row] == place)
        tied = hit & (found > 0) & (ordered[np.maximum(found - 1, 0)] == ordered[found])
        if tied.any():
            one, what = row[tied.argmax()], self.shown.name(name)
            raise ImplicitRMError(
                f"{what!r} {self.shown.columns[name].iloc[one]!r} was shown in several rows of "
                f"{self.shown.argument} at the same time (one is {self.shown.place(one)}), so the "
                f"row of {tied.sum():,} events is not known. Keep one of these rows if they were "
                "exported twice"
                + (". " if name == "response_id" else ", or add 'response_id' to both tables. ")
                + "Else correct their times."
            )
        return np.where(hit, row, -1), known & ~hit

    def _is_late(self, row, times=None, inclusive=False):
        """Return which events come after the window of their row."""
        late = np.zeros(len(row), dtype=bool)
        times = self.event_times if times is None else times
        if times is None:
            return late
        if self.window is not None:
            late |= times - self.times[row] > self.window
        if self.end is not None:
            end = self.end[row]
            late |= (times > end) if inclusive else (times >= end)
        return late & (row >= 0)

    def is_open(self):
        """Return the rows whose window is open at `now`."""
        is_open = np.zeros(self.shown.n, dtype=bool)
        if self.end is not None:
            is_open |= is_unknown(self.end)
        if self.window is not None:
            too_young = ~(self.times + self.window <= self.now)
            is_open = is_open & too_young if self.end is not None else too_young
        return is_open

    def inferred(self, rule):
        """Return the rows with an action that follows from what was shown later."""
        shown = self.shown
        purpose = f"infer={rule!r}"
        shown.need("prompt_id", purpose)
        if self.times is None:
            shown.need("time", purpose)
            shown.check_complete("time", purpose)
            self.times, _ = column_times(shown.columns["time"], shown.place, shown.of("time"))
        if "user_id" not in shown and "conversation_id" not in shown:
            raise ImplicitRMError(
                f"{shown.argument} has neither 'user_id' nor 'conversation_id', but {purpose} "
                "needs one: another user with the same prompt does not regenerate. Add one of them."
            )
        if rule == "regenerate":
            after = self._next_time(self._own("prompt_id"), self._responses())
        else:
            shown.need("parent_id", purpose)
            if "response_id" in shown:
                self._check_parents()
            after = self._next_time(self._own("parent_id"), self._own("prompt_id"))
        rows = np.arange(shown.n)
        known = ~is_unknown(after) & (after > self.times)
        return rows[known & ~self._is_late(rows, after, inclusive=True)]

    def _own(self, name):
        """Return numbers of the values of a column within user and conversation.

        A missing value has a number of its own. A missing user has one only if the conversation is
        not known either.
        """
        key = np.zeros(self.shown.n, dtype=np.int64)
        for each in (name, "conversation_id", "user_id"):
            if each not in self.shown:
                continue
            codes = _factorized(self.shown.columns[each], self.shown.pandas)[0].astype(np.int64)
            if each != "user_id" or "conversation_id" not in self.shown:
                missing = codes < 0
                codes = np.where(missing, codes.max(initial=0) + np.cumsum(missing), codes)
            _, key = np.unique(key * (codes.max() + 2) + codes + 1, return_inverse=True)
        return key

    def _responses(self):
        """Return numbers of the responses, by id or text; of the rows if both are not known."""
        shown = self.shown
        if "response_id" in shown:
            return self._own("response_id")
        if "response" in shown:
            return codes_of(shown.columns["response"].tolist())
        return np.arange(shown.n)

    def _check_parents(self):
        """Raise if a response follows itself, or one that was shown later."""
        shown = self.shown
        ids, parents, n = _shared([(shown, "response_id"), (shown, "parent_id")], shown.pandas)
        row_of = np.full(n + 1, -1)
        row_of[ids] = np.arange(shown.n)  # the last row, because ids may be repeated
        parent = row_of[parents]
        wrong = (parents >= 0) & (parent >= 0)
        wrong &= (self.times[parent] > self.times) | (ids == parents)
        if wrong.any():
            row = wrong.argmax()
            raise ImplicitRMError(
                f"{shown.place(row)} follows the response "
                f"{shown.columns['parent_id'].iloc[row]!r} ({shown.name('parent_id')}), which was "
                f"not shown before it; this happens in {wrong.sum():,} rows; expected the response "
                f"before the prompt. Correct {shown.name('parent_id')}."
            )


def _split_window(window):
    """Return whether the next turn ends a window, and the duration after which it ends."""
    parts = window if isinstance(window, tuple | list) else (window,)
    by_turn = any(isinstance(part, str) and part == NEXT_TURN for part in parts)
    rest = [p for p in parts if not (isinstance(p, str) and p == NEXT_TURN) and p is not None]
    if len(rest) > 1 or len(parts) > 2 or (len(parts) == 2 and not (by_turn and rest)):
        raise ImplicitRMError(
            f"window={window!r}; expected a duration, {NEXT_TURN!r}, or both in a tuple. Correct "
            "it."
        )
    return by_turn, rest[0] if rest else None


def _with_actions(shown, actions, kinds, left_out, found, done, pandas, strangers):
    """Return the responses with their actions, and the summary of both.

    `strangers` says that no event belongs to a row.
    """
    signals = {name: kinds[name] for name in actions}
    data = shown.data
    users = _ids(shown, "user_id")
    clusters = None if users is None else codes_of(users)
    prompts = _ids(shown, "prompt_id")
    groups = None if prompts is None else codes_of(prompts)
    if data is not None:
        groups = data.groups
        if data.actions is not None:
            both = [name for name in actions if name in data.actions]
            if both:
                raise ImplicitRMError(
                    f"{shown.argument} already has the actions {', '.join(map(repr, both))}, which "
                    "kinds names too. Rename the kind of the events."
                )
            actions = {name: data.actions[name].to_numpy() for name in data.actions} | actions
            signals = dict(data.signals) | signals
    summary = LogSummary(
        "responses",
        shown.n,
        shown.n,
        users=None if clusters is None else sizes(clusters),
        prompts=None if groups is None else sizes(np.asarray(groups)),
    )
    if data is not None and isinstance(data.get("summary"), LogSummary):
        summary = data.summary
    empty = [n for n in kinds if n in actions and not (actions[n] == 1).any()]
    about = of_signals(actions, signals, clusters)
    about["warnings"] = about["warnings"] + [
        f"{name!r} has no event that counts. Check its name, and that its events have the id, the "
        "user and a time of a row."
        for name in empty
    ]
    if strangers:
        about["warnings"].append(
            "No event belongs to a row. Check that both tables hold the same ids, in one form, and "
            "the same users."
        )
    summary = replace(
        summary,
        columns=summary.columns | {"events": f"{done.n:,}"},
        left_out=summary.left_out | left_out,
        found=summary.found | found,
        **about,
    )
    table = pandas.DataFrame(actions)
    if data is not None:
        return FeedbackData(
            **(dict(data) | {"actions": table, "signals": signals, "summary": summary})
        )
    times = None
    if "time" in shown:
        times = with_zone(*column_times(shown.columns["time"], shown.place, shown.of("time")))
    return FeedbackData(
        actions=table, signals=signals, user_id=users, groups=groups, time=times, summary=summary
    )


def _ids(shown, name):
    """Return ids unchanged, None where they are missing."""
    if name not in shown:
        return None
    column = shown.columns[name].astype(object)
    return column.where(column.notna(), None).to_numpy()
