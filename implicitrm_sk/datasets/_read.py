"""Logs in the form in which products export them, read as `FeedbackData`."""

import math
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .._keys import as_rounded, codes_of, in_two_forms, is_absent, key_of, rounded_id, two_forms
from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ._columns import GUESSES, RESPONSE_IDS, TEXT, Columns
from ._records import LISTS_IN_CSV, Records
from ._summary import LogSummary, is_action, of_signals, sizes
from ._times import as_real, as_times, is_unknown, windows_open, with_zone
from ._turns import (
    is_blank,
    is_json,
    split_alone,
    split_chat,
    split_pair,
    turn_named,
    unknown_roles,
)

if TYPE_CHECKING:
    from ._data import FeedbackData

_EXPECTED = "Expected 1 (acted), 0 (did not), true, false, or nothing (not logged)"


def read_feedback_log(
    source: Any,
    *,
    signals: Mapping[str, Any] | Sequence[str] | None = None,
    messages: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    embedding: str | None = None,
    turn: str = "last",
    user_id: str | None = None,
    prompt_id: str | None = None,
    conversation_id: str | None = None,
    time: str | None = None,
    response_id: str | None = None,
    exposures: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
    window: float | str | timedelta | None = None,
    now: float | str | datetime | None = None,
    null_is_silent: Sequence[str] | Mapping[str, str | None] | None = None,
) -> "FeedbackData":
    """Return the contents of a log: text or vectors, actions, users, prompts and times.

    Rows keep their order. A row is left out only if its chat has no assistant turn, and the summary
    counts these rows. A value that cannot be read raises an error that names file and line.

    Parameters
    ----------
    source : path, table or list of dict
        A file: JSON Lines or one JSON array (``.jsonl``, ``.ndjson``, ``.json``), ``.csv``,
        ``.tsv`` (all also with ``.gz`` or ``.zst``), ``.parquet``, ``.arrow``, ``.feather``. A
        folder of such files, read in the order of their names; names that begin with a dot or an
        underscore are left out. Or a DataFrame of pandas or polars, a LazyFrame, an Arrow table, a
        Hugging Face Dataset, or any iterable of dicts.
    signals : dict or list of str, default=None
        Columns of actions. A dict gives the preference that each shows, as in the parameter
        `signals` of the estimator; the columns of a list are positive. None: ``action`` and
        ``action_*``.
    messages : str, default=None
        Column of chats: lists of messages, or JSON of such. None: ``messages`` or
        ``conversations``.
    prompt, response : str, default=None
        Columns of text or messages, in place of `messages`. None: ``prompt``, and one of
        ``response``, ``answer`` and ``completion``. A response without a prompt is allowed.
    embedding : str, default=None
        Column of vectors, one list of numbers in each row. None: ``embedding``.
    turn : str, default="last"
        The turn of a chat that the actions of its row belong to. It is the last assistant turn, or
        the name of a column. The column holds its position in the chat (an integer, from 0) or the
        ``id`` of its message. The chat is cut after this turn and the tool calls that follow.
    user_id, prompt_id, conversation_id, time : str, default=None
        Columns of ids and of times. None: columns of these names, for times also ``timestamp`` and
        ``created_at``. Times are dates, ISO 8601 text or numbers, all of one kind; those with a
        time zone come back in UTC.
    response_id : str, default=None
        Column of ids of responses. It is never guessed, because equal ids are one response in
        `fit`.
    exposures : str or list of str, default=None
        Column of how often each response was shown, or one column for each of `signals`. Actions
        are then counts: how often users acted.
    keep : list of str, default=()
        Further columns; each becomes an attribute of the result.
    window : float, str or timedelta, default=None
        How long after `time` an action is waited for, such as ``"24h"``. All actions of a row whose
        window is still open at `now` are NaN, even those that happened. Rows that are logged only
        if users acted would make users look eager.
    now : float, str or datetime, default=None
        The time of the export, needed with `window`.
    null_is_silent : list of str or dict, default=None
        Columns of a `Choice` in which a row without a value means that users chose nothing. Such
        rows get the label `silent` of the `Choice`, before `window` is applied. A dict limits this
        to rows where another column is 1 or true, ``{"thumb": "in_view"}``; None in its place means
        all rows. In all other columns, and in rows that the other column excludes, a row without a
        value is not logged. None means that this is not stated. A `Choice` is then refused if some
        rows have no value, and none has the label `silent`. An empty list states that the widget
        was not offered in such rows.

    Returns
    -------
    data : FeedbackData
        ``X`` is the vectors, or else a DataFrame of ``prompt`` and ``response`` (of ``text`` if
        there is no prompt). ``actions`` is a DataFrame of float, and ``signals`` gives what its
        columns show. ``groups`` numbers the prompts: equal ids, or else equal texts. ``summary`` is
        a `LogSummary`, and ``row`` the position of each row in the source. ``user_id``,
        ``prompt_id``, ``conversation_id``, ``response_id``, ``time``, ``exposures`` and those of
        `keep` exist if their columns do.

    Raises
    ------
    ValueError, TypeError
        If something cannot be read. The message names the place, the problem and the remedy.
    ImportError
        If pandas (extra ``data``) is not installed.

    See Also
    --------
    actions_from_events : Makes actions from a table of events.

    Notes
    -----
    A dot in the name of a column leads into nested records. ``"output.message"`` is the field
    ``message`` of the column ``output``, and ``"choices.0"`` the first entry of a list.
    ``"scores.thumbs"`` is the value of one entry of a list of scores, the one whose ``name`` or
    ``key`` is ``thumbs``. JSON as text is read like the record that it holds. A path that no row
    holds is an error.

    An empty cell of a CSV file is missing. A column is read as numbers if each of its other cells
    is written as JSON writes a number. Also, cells that differ have to be different numbers, except
    for pairs such as 1 and 1.0. An exponent counts only as Python writes it (``1e-05``). A column
    of ``true`` and ``false`` is booleans. All other columns are text, such as ids with leading
    zeros. Columns of actions, exposures and degrees hold numbers in any usual form (``1E-05``,
    ``-0.0``).

    Examples
    --------
    >>> from implicitrm_sk.datasets import read_feedback_log
    >>> chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    >>> rows = [
    ...     {"messages": chat, "user_id": "ann", "copied": 1, "regenerated": 0},
    ...     {"messages": chat[:1], "user_id": "bob", "copied": 0, "regenerated": 0},
    ... ]
    >>> data = read_feedback_log(rows, signals={"copied": "positive", "regenerated": "negative"})
    >>> data.X.response.tolist(), data.actions.to_numpy().tolist()
    (['4'], [[1.0, 0.0]])
    >>> data.summary.left_out
    {'chats without an assistant turn (the first: row 1 of the list)': 1}
    """
    return read_log(
        source,
        signals,
        {
            "messages": messages,
            "prompt": prompt,
            "response": response,
            "embedding": embedding,
            "turn": None if turn == "last" else turn,
            "user_id": user_id,
            "prompt_id": prompt_id,
            "conversation_id": conversation_id,
            "response_id": response_id,
            "time": time,
        },
        keep,
        window,
        now,
        exposures=exposures,
        nulls=_nulls(null_is_silent, signals),
    )


def read_log(
    source,
    signals,
    given,
    keep=(),
    window=None,
    now=None,
    *,
    exposures=None,
    nulls=None,
    needs_features=True,
    label_of=None,
    compared=(),
):
    """Return what `read_feedback_log` does.

    Parameters
    ----------
    source, signals, keep, window, now, exposures
        As there.
    given : dict
        The columns that arguments name, by role; None are not named.
    nulls : dict of bool or str
        For columns of a `Choice`, whether rows without a value are silent, or the column that says
        where they are; else they are not logged. A column is left out if its user has not said it.
    needs_features : bool
        Whether a log without text and vectors is refused.
    label_of : callable, default=None
        Returns the label of a value in a column of labels; None: the value is the label.
    compared : sequence of str
        Further columns in which rows may differ that are not duplicates.
    """
    texts = [name for role in TEXT for name in (given.get(role), *GUESSES[role])]
    records = Records(source, texts)
    pandas = import_optional("pandas", "data", "Reading a log")
    if window is not None and now is None:
        raise ImplicitRMError(
            f"window={window!r} is given without now=, the time of the export, which decides which "
            "windows are closed. Pass now."
        )
    signals = _as_signals(signals)
    keep = _names(keep, "keep")
    taken = [name for name in keep if name in (*GUESSES, *_RESULTS)]
    if taken:
        raise ImplicitRMError(
            f"keep names {taken[0]!r}, which the result holds anyway or under another meaning. "
            "Leave it out, or rename the column."
        )
    views = [view for view in (nulls or {}).values() if isinstance(view, str)]
    exposures = None if exposures is None else _names(exposures, "exposures")
    log = _Log(
        records, given, signals, [*keep, *views, *(exposures or ())], needs_features, compared
    )
    left_out = log.read_texts()
    found, columns = log.found, {name: log.ids(name) for name in _IDS if name in log.roles}
    groups = codes_of(log.prompt_keys()) if "prompt_id" in log.roles or log.has_text else None
    users = codes_of(columns["user_id"]) if "user_id" in columns else None
    if users is not None:
        found |= _of_busy_users(users)
    times, kind = None, None
    if "time" in log.roles:
        times, kind = as_times(log.column("time"), log.place, log.of("time"))
        found["rows without a time"] = int(np.count_nonzero(is_unknown(times)))
    X, prompts, responses = log.X(pandas)
    shown = None if exposures is None else log.exposures(exposures)
    actions = log.actions(nulls or {}, label_of, counted=shown is not None)
    if window is not None:
        is_open = windows_open(times, kind, window, now)
        found[f"rows whose window of {window} is not closed"] = int(is_open.sum())
        for column in actions.values():
            column[is_open] = None if column.dtype == object else np.nan
    if X is not None:
        found |= log.duplicates(pandas, X)
    about = of_signals(actions, log.signals, users if users is not None else groups, shown)
    about["warnings"] = about["warnings"] + log.odd_ids()
    summary = LogSummary(
        log.records.name,
        log.n_read,
        len(log.rows),
        log.described() | ({} if exposures is None else {"exposures": ", ".join(exposures)}),
        left_out,
        found,
        None if users is None else sizes(users),
        None if groups is None else sizes(groups),
        **about,
    )
    from ._data import FeedbackData  # with scikit-learn, which takes a second to import

    return FeedbackData(
        X,
        pandas.DataFrame(_series(actions, pandas)) if actions else None,
        signals=log.signals or None,
        prompt=prompts,
        response=responses,
        groups=groups,
        time=with_zone(times, kind),
        exposures=shown,
        row=log.positions,
        summary=summary,
        **columns,
        **{name: _objects(log.column(name)) for name in keep},
    )


#: Further names of what a log becomes.
_RESULTS = ("X", "actions", "signals", "groups", "exposures", "true_preference", "row", "summary",
            "response_id")  # fmt: skip
_IDS = ("user_id", "prompt_id", "conversation_id", "response_id")


def _as_signals(signals):
    """Return what each column of actions shows by its name, None where that is to be guessed."""
    if signals is None:
        return None
    if not isinstance(signals, Mapping):
        signals = dict.fromkeys(_names(signals, "signals"), "positive")
    for name, kind in signals.items():
        if kind not in ("positive", "negative") and not hasattr(kind, "shows"):
            raise ImplicitRMError(
                f"signals[{name!r}] is {kind!r}; expected 'positive', 'negative' or an object of "
                "implicitrm_sk.signals. Correct it."
            )
    return dict(signals)


def _nulls(null_is_silent, signals):
    """Return for each widget where rows without a value are silent, as `read_log` takes it."""
    if null_is_silent is None:
        return {}
    signals = _as_signals(signals) or {}
    is_limited = isinstance(null_is_silent, Mapping)
    silent = null_is_silent if is_limited else _names(null_is_silent, "null_is_silent")
    views = dict(null_is_silent) if is_limited else {}
    for name in silent:
        if getattr(signals.get(name), "silent", None) is None:
            given = repr(signals[name]) if name in signals else "not named in signals"
            raise ImplicitRMError(
                f"null_is_silent names {name!r}, which is {given}; expected a column that signals "
                "describes by a Choice with silent=. Correct it."
            )
        if not isinstance(views.get(name), str | None):
            raise ImplicitRMError(
                f"null_is_silent[{name!r}] is {views[name]!r}; expected the name of a column that "
                "is 1 where the widget was in view, or None for all rows. Correct it."
            )
    return {name: views.get(name) or name in silent for name in signals}


def _names(names, argument):
    names = [names] if isinstance(names, str) else list(names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ImplicitRMError(f"{argument} names the column {twice!r} twice. Name it once.")
    return names


def _objects(values):
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _series(columns, pandas):
    """Return columns of a DataFrame that keep their type: pandas copies strings to one of its."""
    return {name: pandas.Series(values, dtype=values.dtype) for name, values in columns.items()}


class _Log(Columns):
    """A log with known columns: its texts, ids and actions."""

    # ------------------------------------------------------------------ text

    def read_texts(self):
        """Read prompts and responses, and leave out rows of chats without an assistant turn.

        Returns
        -------
        left_out : dict
            Number of rows by reason.
        """
        self.prompts = self.responses = None
        if not self.has_text:
            return {}
        n, without, n_cut, first = self.n_read, [], 0, ""
        prompts, responses = [], []
        chats = "messages" in self.roles
        for row in range(n):
            where = self.place(row)
            if chats:
                found, cut = self._of_chat(row, where) or (None, False)
                n_cut += cut
            else:
                found = self._of_pair(row, where)
            if found is None:
                if not without:
                    value = self.values[self.roles["messages"]][row]
                    roles = ", ".join(map(repr, unknown_roles(value, where)))
                    first = f"{where}{f', which has turns of {roles}' * bool(roles)}"
                without.append(row)
            else:
                prompts.append(found[0])
                responses.append(found[1])
        self.prompts, self.responses = prompts, responses
        for name in self._only_text():  # the text is there, as it was read
            self.values[name] = _same(self.values[name]).tolist()
        left_out = {}
        if without:
            reason = f"chats without an assistant turn (the first: {first})"
            left_out[reason] = len(without)
            self.drop(without)
            if not self.rows:
                raise ImplicitRMError(
                    f"{self.records.name} has {n:,} rows, but none of its chats has an assistant "
                    f"turn ({first}). Check the roles: responses are those of 'assistant'."
                )
        self.found["chats cut after the turn acted on"] = n_cut
        self.found["empty responses"] = sum(map(is_blank, responses))
        self.found[JSON_TEXT.format("responses")] = sum(map(is_json, responses))
        self.found[JSON_TEXT.format("prompts")] = sum(map(is_json, prompts))
        self.found["responses that begin with the text of their prompt"] = sum(
            isinstance(p, str) and isinstance(r, str) and p.strip() != "" and r.startswith(p)
            for p, r in zip(prompts, responses, strict=True)
        )
        return left_out

    def _only_text(self):
        """Return the columns of text that have no other role, as prompts may be ids too."""
        others = {name for role, name in self.roles.items() if role not in TEXT}
        return {self.roles[role] for role in TEXT if role in self.roles} - others

    def _of_chat(self, row, where):
        """Return ((prompt, response), whether something was cut off), None for no response."""
        column = self.values[self.roles["messages"]]
        where = f"{where}, {self.of('messages')},"
        value = column[row]
        turn_of = None
        if "turn" in self.roles:
            given, name = self.column("turn")[row], self.of("turn")
            turn_of = partial(turn_named, given, value, where=where, name=name)
        found = split_chat(value, where, turn_of)
        if found is not None and self.roles["messages"] in self._only_text():
            column[row] = key_of([value])  # what was read need not be kept twice
        return found

    def _of_pair(self, row, where):
        response = self.column("response")[row]
        if is_absent(response):
            raise ImplicitRMError(
                f"{where} has no {self.of('response')}. Leave such rows out. If the response is "
                'known to be empty, write "", which a JSON lines or parquet file can hold.'
            )
        if "prompt" not in self.roles:
            return None, split_alone(response, f"{where}, {self.of('response')},")
        place = f"{where}, columns {self.roles['prompt']!r} and {self.roles['response']!r},"
        return split_pair(self.column("prompt")[row], response, place)

    def prompt_keys(self):
        return self.column("prompt_id") if "prompt_id" in self.roles else self.prompts

    def X(self, pandas):
        """Return X, prompts and responses."""
        prompts = responses = None
        if self.responses is not None:
            responses = _objects(self.responses)
            prompts = None if self.prompts[:1] == [None] else _objects(self.prompts)
        if "embedding" in self.roles:
            return self._vectors(), prompts, responses
        if responses is None:
            return None, None, None
        if prompts is None:
            return pandas.DataFrame(_series({"text": responses}, pandas)), None, responses
        X = {"prompt": prompts, "response": responses}
        return pandas.DataFrame(_series(X, pandas)), prompts, responses

    def _vectors(self):
        column, name = self.column("embedding"), self.of("embedding")
        width = None
        rows = []
        for row, value in enumerate(column):
            try:
                vector = np.asarray(value)
            except ValueError:  # lists of several lengths
                vector = np.zeros(0)
            if vector.dtype.kind not in "iuf":
                vector = np.zeros(0)
            if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
                remedy = "Compute this embedding again, or leave the row out."
                if isinstance(value, str | Real) and self.records.is_csv:
                    remedy = LISTS_IN_CSV
                raise ImplicitRMError(
                    f"{self.place(row)} holds {str(value)[:40]!r} in {name}; expected a list of "
                    f"finite numbers. {remedy}"
                )
            width = width or len(vector)
            if len(vector) != width:
                raise ImplicitRMError(
                    f"{self.place(row)} holds {len(vector)} numbers in {name}, but the rows before "
                    f"hold {width}; expected equal lengths. Compute the embeddings with one model."
                )
            rows.append(vector.astype(np.float64))
        return np.stack(rows)

    # ------------------------------------------------------------------ what users did

    def ids(self, role):
        """Return ids as they are, None where they are missing."""
        column = [None if is_absent(value) else value for value in self.column(role)]
        absent = sum(value is None for value in column)
        self.found[f"rows without {role}"] = absent
        self.found[
            f"rows whose {role} is blank text, taken for one id; if not known, write null"
        ] = sum(isinstance(value, str) and not value.strip() for value in column)
        if role == "response_id" and absent:
            row = column.index(None)
            raise ImplicitRMError(
                f"{self.place(row)} has no {self.of(role)}; every response needs an id. Leave "
                "such rows out, or do not name this column."
            )
        return _objects(column)

    def exposures(self, names):
        """Return how often each row was shown: one number for all signals, or one for each."""
        if len(names) not in (1, len(self.signals)):
            raise ImplicitRMError(
                f"exposures names {len(names)} columns; expected one, or one for each of the "
                f"{len(self.signals)} signals. Correct it."
            )
        columns = [
            [self._action(value, row, name, True) for row, value in enumerate(self.values[name])]
            for name in names
        ]
        return np.array(columns[0]) if len(names) == 1 else np.column_stack(columns)

    def actions(self, nulls, label_of, counted=False):
        """Return the actions by name: floats, or objects of kinds that have labels."""
        found = {}
        for name, kind in self.signals.items():
            values = self.values[name]
            if is_action(kind):
                found[name] = np.array(
                    [self._action(value, row, name, counted) for row, value in enumerate(values)]
                )
                continue
            values = [None if is_absent(value) else value for value in values]
            if hasattr(kind, "outcomes"):
                values = self._labels(values, name, [*kind.outcomes, kind.silent], label_of)
                values = self._with_silence(values, name, kind, nulls.get(name))
            elif hasattr(kind, "bins"):
                if not isinstance(kind.bins, Integral) and isinstance(kind.bins[0], str):
                    values = self._labels(values, name, kind.bins, label_of)
                else:
                    found[name] = self._degrees(values, name, kind.bins)
                    continue
            found[name] = _objects(values)
        return found

    def _labels(self, values, name, known, label_of):
        """Return the labels of values, or raise if one is not known."""
        known = [label for label in known if label is not None]
        for row, value in enumerate(values):
            if value is None:
                continue
            label = value if label_of is None else label_of(value)
            if not isinstance(label, Hashable) or label not in known:
                raise ImplicitRMError(
                    f"{self.place(row)} holds {str(value)[:40]!r} ({type(value).__name__}) in "
                    f"column {name!r}, which has no meaning; expected one of "
                    f"{', '.join(map(repr, known))}. Correct it, or add it to those that are known."
                )
            values[row] = label
        return values

    def _with_silence(self, values, name, kind, is_silent):
        """Return the labels of a widget, with those of rows in which users chose nothing."""
        empty = [row for row, value in enumerate(values) if value is None]
        if kind.silent is None or kind.given_reaction:
            return values
        if is_silent is None and empty and kind.silent not in values:
            raise ImplicitRMError(
                f"{len(empty):,} of {len(values):,} rows have no value in column {name!r} (the "
                f"first: {self.place(empty[0])}), and no row holds {kind.silent!r}, its label for "
                f"silence. If users chose nothing there, pass null_is_silent=[{name!r}]. If the "
                "widget was not offered there, pass null_is_silent=[]."
            )
        if isinstance(is_silent, str):
            seen = enumerate(self.values[is_silent])
            in_view = [self._view(value, row, is_silent) for row, value in seen]
            unseen = [row for row in empty if not in_view[row]]
            empty = [row for row in empty if in_view[row]]
            self.found[f"rows without {name} where {is_silent} is not 1, not logged"] = len(unseen)
            self.found[f"rows with {name} although {is_silent} is not 1"] = sum(
                value is not None and not there
                for value, there in zip(values, in_view, strict=True)
            )
        if is_silent:
            for row in empty:
                values[row] = kind.silent
            self.found[f"rows without {name}, read as {kind.silent!r}"] = len(empty)
        return values

    def _view(self, value, row, name):
        """Return whether a widget was in view, as a column says it."""
        value = self.records.number(value)
        if is_absent(value):
            return False
        if isinstance(value, Real | Decimal | np.bool_) and value in (0, 1):
            return bool(value)
        raise ImplicitRMError(
            f"{self.place(row)} holds {str(value)[:40]!r} ({type(value).__name__}) in column "
            f"{name!r}; expected 1 or true (the widget was in view), 0, false or nothing. Convert "
            f"it, or name another column.{self.records.why_text(name, self.place(row))}"
        )

    def _degrees(self, values, name, bins):
        """Return values of a signal with a degree as floats, NaN where they are not logged."""
        low, high = (-math.inf, math.inf) if isinstance(bins, Integral) else (bins[0], bins[-1])
        found = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            if value is None:
                continue
            value = self.records.number(value)
            if isinstance(value, Real | Decimal) and not isinstance(value, bool | np.bool_):
                found[row] = as_real(value)
            if not (math.isfinite(found[row]) and low <= found[row] <= high):
                among = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
                raise ImplicitRMError(
                    f"{self.place(row)} holds {str(value)[:40]!r} ({type(value).__name__}) in "
                    f"column {name!r}; expected a finite number{among}, or nothing (not logged). "
                    f"Convert it, or widen the bins.{self.records.why_text(name, self.place(row))}"
                )
        return found

    def _action(self, value, row, name, counted):
        """Return 0, 1 or how often users acted, NaN if it is not known."""
        value = self.records.number(value)
        if value is None or is_absent(value):
            return math.nan
        is_number = isinstance(value, Real | Decimal | np.bool_)
        if is_number and value in (0, 1):
            return float(value)
        if counted:
            if is_number and math.isfinite(value) and value > 0 and value == math.floor(value):
                return float(value)
            raise ImplicitRMError(
                f"{self.place(row)} holds {str(value)[:40]!r} ({type(value).__name__}) in column "
                f"{name!r}; expected a count (0, 1, 2, ...), or nothing (not logged). Correct it, "
                "or name another column."
            )
        more = ""
        if isinstance(value, Real | Decimal):
            more = (
                " Turn ratings into actions first, by a threshold of your scale, name the "
                "exposures of counts by exposures="
            )
        raise ImplicitRMError(
            f"{self.place(row)} holds {str(value)[:40]!r} ({type(value).__name__}) in column "
            f"{name!r}. {_EXPECTED}.{more or ' Convert it first'}, or name another column."
            + self.records.why_text(name, self.place(row))
        )

    def odd_ids(self):
        """Return a warning for each column of ids that holds one id in two forms, or rounded."""
        found = []
        for role in _IDS:
            if role not in self.roles:
                continue
            column, what = self.column(role), f"{self.of(role)} has ids ({role})"
            if others := two_forms(column):
                found.append(in_two_forms(what, len(others), others[0]))
            if (rounded := rounded_id(column)) is not None:
                found.append(as_rounded(what, rounded))
        return found

    def duplicates(self, pandas, X):
        """Return the findings about rows that repeat an earlier one, or only its id.

        Rows are equal if all columns that were read are, where nothing equals nothing.
        """
        names = dict.fromkeys([*self.roles.values(), *self.signals, *self.keep, *self.compared])
        parts = {
            f"column {name}": _same(self.values[name])
            for name in names
            if name in self.values and name != self.roles.get("embedding")
        }
        if "embedding" in self.roles:
            parts["X"] = _same([row.tobytes() for row in X])
        repeated = pandas.DataFrame(parts).duplicated().to_numpy()
        found = {DUPLICATES: int(repeated.sum())}
        name = self.roles.get("response_id") or next(
            (name for name in RESPONSE_IDS if name in self.values), None
        )
        if name is not None:
            ids = parts[f"column {name}"]
            if "user_id" in self.roles:  # another user's row is another showing
                users = parts[f"column {self.roles['user_id']}"]
                ids = np.where(ids > 0, ids * (users.max() + 1) + users, 0)
            counts = np.unique(ids[~repeated & (ids > 0)], return_counts=True)[1]
            found[DIFFERING.format(name)] = int((counts > 1).sum())
        return found


#: More than so many times the median number of rows of a user, and more rows than these, are seldom
#: those of a person.
BUSY, BUSY_ROWS = 20, 50


def _of_busy_users(users):
    """Return the finding about users with far more rows than others, who may be bots."""
    n_rows = np.bincount(users)
    busy = n_rows > max(BUSY * np.median(n_rows), BUSY_ROWS) if len(n_rows) else n_rows
    who = f"{np.count_nonzero(busy)} users with more than {BUSY} times the rows of the median user"
    return {f"rows of {who}, kept; leave bots out": int(n_rows @ busy)}


#: The text after their numbers in a summary.
JSON_TEXT = (
    "{} that are an object or array of JSON, read as text; if they hold messages, parse them"
)
DUPLICATES = (
    "exact duplicates of an earlier row, kept; if exported twice, read "
    "df[~df.astype(str).duplicated()]"
)
DIFFERING = (
    "ids in {!r} whose rows differ for one user, kept; if not shown twice, keep one row of each"
)


def _same(values):
    """Return a number for each value, 0 where there is none; equal values have the same."""
    codes = {None: 0}
    found = np.empty(len(values), dtype=int)
    for row, value in enumerate(values):
        key = None if is_absent(value) else (type(value) is str, key_of(value))
        try:
            found[row] = codes.setdefault(key, len(codes))
        except TypeError:  # such as a set
            found[row] = codes.setdefault((True, repr(value)), len(codes))
    return found
