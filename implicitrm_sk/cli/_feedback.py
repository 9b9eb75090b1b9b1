"""The actions of users on the rows of a log: y, and what `fit` takes beside it."""

import contextlib

from ..datasets._times import as_times, check_kinds, windows_open
from ..exceptions import ImplicitRMError
from ._events import Events, check_turn
from ._options import (
    SIDE,
    SILENT,
    UNLOGGED,
    Grades,
    Widget,
    correlated_columns,
    default_actions,
    ends_by_turn,
    has_labels,
    kinds_of,
    late_columns,
    signal_of,
    split_names,
)
from ._terminal import listing, note

#: Columns of times if --time does not name one; the first one found is used.
TIMES = ("time", "timestamp", "created_at")
#: What columns of numbers are expected to hold, and what to do where they have text.
ACTED = (
    "numbers (1 acted, 0 did not, or a degree), or nothing (null, NaN)",
    "Convert it, or describe the outcomes of a widget by --choice.",
)
LABELS = ("1 (preferred), 0 (not preferred), or nothing (not known)", "Convert it.")
WEIGHTS = ("a number of at least 0 in each row", "Convert it.")
COUNTS = ("counts (0, 1, 2, ...), or nothing", "Convert it.")


class Feedback:
    """The actions of a log as options name them, and what is known of its rows.

    Parameters
    ----------
    table : Table
        Its text is read, if it has any: rows without a response are left out then.
    args : Namespace
    """

    def __init__(self, table, args):
        self.table, self.args, self._acted = table, args, {}

    def action_columns(self, given):
        """Return the names of the columns of actions."""
        if given is not None:
            return split_names(given)
        found = default_actions(self.table.columns)
        if not found:
            raise ImplicitRMError(
                "which columns are actions? Pass --actions NAME,NAME (for example copied,shared). "
                f"The columns of {self.table.name} are {listing(self.table.columns)}."
            )
        return found

    def signed_columns(self):
        """Return the names of all columns of actions, and what each shows, as options say it."""
        kinds = kinds_of(self.args, lambda: self.table.columns)
        return dict.fromkeys(self.action_columns(None), "positive") if kinds is None else kinds

    def named(self):
        """Return y, what its columns show as signals, and what `fit` takes beside them.

        The signals are None where all are positive actions.
        """
        kinds = self.signed_columns()
        late = late_columns(self.args.late)
        wrong = [name for name in late if isinstance(kinds.get(name), tuple)]
        if wrong:
            raise ImplicitRMError(
                f"--late names {wrong[0]!r}, which --choice or --graded describes. Only actions "
                "may come late: name it by --actions or --negative."
            )
        names = list(kinds)
        self._read_events(kinds)
        y = self._labelled(names, {k: kind for k, kind in kinds.items() if has_labels(kind)})
        side = self.side_information() | self._waits(names)
        y = self._without_open(y)
        correlated = correlated_columns(self.args, kinds)
        if not late and not correlated and all(kind == "positive" for kind in kinds.values()):
            return y, None, side
        signals = [signal_of(kind, name, late, correlated) for name, kind in kinds.items()]
        return y, signals, side

    def _read_events(self, kinds, *, known=False):
        """Make the actions that are kinds of events or are inferred, if there are such.

        Parameters
        ----------
        kinds : dict
            The preference that each column of actions shows, as options say it.
        known : bool, default=False
            As in `Events.kinds`.
        """
        if self.args.events is None and self.args.infer is None:
            return
        wanted = {
            name: kind if isinstance(kind, str) else "positive"
            for name, kind in kinds.items()
            if name not in self.table.columns and not isinstance(kind, Widget | Grades)
        }
        columns, name = self.table.columns, self.table.name
        events = Events(self.args)
        kinds = events.kinds(wanted, columns, name, known=known)
        found = events.actions(self._shown(events), kinds)
        self._acted = {name: found.actions[name].to_numpy() for name in found.actions}
        events.report(found.summary)

    def _shown(self, events):
        """Return the columns of the log that events are matched with, by role."""
        import pandas

        from ..datasets._by_role import ByRole
        from ..datasets._events import OF_RESPONSES

        args, columns, name = self.args, self.table.columns, self.table.name
        roles = {"user_id": args.user or "user_id", "time": args.time}
        roles["conversation_id"] = args.conversation or "conversation_id"
        if args.time is None:
            found = [name for name in TIMES if name in columns]
            roles["time"] = found[0] if len(found) == 1 else None
        if args.tracked is not None:
            roles["client"] = args.client or "client"
        for role, given in (
            ("user_id", args.user),
            ("conversation_id", args.conversation),
            ("client", args.client),
        ):
            if given is None and role not in columns:
                roles.pop(role, None)
        roles |= events.id_of(columns, name)
        values = {role: self.table.ids(each) for role, each in roles.items() if each is not None}
        if args.infer is not None:
            values["prompt_id"] = self.table.groups(args)
            if getattr(args, "response_id", None) is not None:
                values.setdefault("response_id", self.table.ids(args.response_id))
            values["response"] = self.table.responses(args)
        values = {k: pandas.Series(v, dtype=object) for k, v in values.items() if v is not None}
        if not values:
            raise ImplicitRMError("--infer needs the time of each row: name its column by --time.")
        shown = ByRole(pandas.DataFrame(values), OF_RESPONSES, name, pandas)
        shown.called = roles
        return shown

    def _without_open(self, y):
        """Return y without the actions of rows whose window is open; those of events lack them."""
        window, now = self.args.window, self.args.now
        if window is None:
            return y
        if ends_by_turn(window):
            check_turn(window, [name for name in y if name not in self._acted], self.table.name)
            return y
        times, kind = self._times(f"--window {window}")
        is_open = windows_open(times, kind, window, now)
        y[is_open] = None
        note(f"{is_open.sum():,} rows whose window of {window} is not closed: not logged.")
        return y.astype({name: float for name in y if y[name].dtype != object})

    def _numbers(self, names, *args, **options):
        """Return columns as `Table.numbers` does; actions that were made of events are ready."""
        read = self.table.numbers(
            [name for name in names if name not in self._acted], *args, **options
        )
        return read.assign(**self._acted)[list(names)] if self._acted else read

    def _labelled(self, names, kinds, others=()):
        """Return y, whose columns of widgets and categories are objects of text.

        Columns of `others` are returned as they are.
        """
        y = self._numbers(names, [*kinds, *others], ACTED)
        for name, kind in kinds.items():
            y[name] = self._labels(name, y[name], kind)
        return y

    def _labels(self, name, values, kind):
        """Return labels as objects of text, missing where nothing was logged."""
        import numpy as np
        import pandas

        from .._validation import is_missing

        is_widget = isinstance(kind, Widget)
        option = "--choice" if is_widget else "--graded"
        known = {*kind.outcomes, kind.silent} if is_widget else set(kind.bins)
        missing = is_missing(np.asarray(values, dtype=object))
        found = np.full(len(values), None, dtype=object)
        if is_widget and kind.null == SILENT:
            in_view = self._in_view(kind.view)
            found[missing & in_view] = kind.silent
            if (odd := ~missing & ~in_view).any():
                note(f"note: {odd.sum():,} rows have {name!r} although {kind.view!r} is not 1.")
        for row, value in enumerate(values):
            if missing[row]:
                continue
            text = as_label(value)
            if text not in known:
                raise ImplicitRMError(
                    f"column {name!r} of {self.table.name} holds {text[:40]!r} in "
                    f"{self.table.place(row)}, which has no meaning; expected one of "
                    f"{listing(sorted(filter(None, known)))}. Correct it, or add it to {option}."
                )
            found[row] = text
        if is_widget and kind.null is None and missing.any() and kind.silent not in found:
            raise ImplicitRMError(
                f"column {name!r} of {self.table.name} is empty in {missing.sum():,} of "
                f"{len(found):,} rows (the first: {self.table.place(missing.argmax())}), and no "
                f"row holds {kind.silent!r}, its value for silence. Add null=silent to --choice "
                "if users chose nothing there, or null=unlogged if the widget was not offered."
            )
        return pandas.Series(found, dtype=object)

    def _in_view(self, name):
        """Return where a column says that a widget was in view; everywhere without one."""
        import numpy as np

        if name is None:
            return np.ones(self.table.n_rows, dtype=bool)
        seen = self._numbers([name])[name].to_numpy()
        wrong = ~np.isnan(seen) & (seen != 0) & (seen != 1)
        if wrong.any():
            row = wrong.argmax()
            raise ImplicitRMError(
                f"column {name!r} of {self.table.name} holds {seen[row]:g} in "
                f"{self.table.place(row)}; expected 1 where the widget was in view, else 0 or "
                "nothing. Convert it, or name another column behind null=silent@."
            )
        return seen == 1

    def actions_of(self, est):
        """Return y for a fitted estimator: the columns given, else those of its fit.

        The name of a column decides which signal it is, not its position.
        """
        known = getattr(est, "signal_names_in_", None)
        kinds = {}
        if any(getattr(self.args, name, None) for name in ("negative", "choice", "graded")):
            kinds = self.signed_columns()
            names = list(kinds)
        elif self.args.actions or known is None:
            names = self.action_columns(self.args.actions)
        else:
            names = list(known)
        if len(names) != est.n_signals_:
            fitted = "" if known is None else f" ({listing(known)})"
            raise ImplicitRMError(
                f"the model was fitted with {est.n_signals_} columns of actions{fitted}, but here "
                f"are {len(names)}: {listing(names)}. Name the columns of its fit by --actions."
            )
        if known is not None and set(names) == set(known):
            names = list(known)
        from ..signals import Action, Choice, Graded, Signal

        signals = dict(zip(names, est.signals_, strict=True))
        asked = est.signals if isinstance(est.signals, dict) else {}
        if isinstance(est.signals, list | tuple):
            asked = dict(zip(names if known is None else known, est.signals, strict=True))
        for name, kind in kinds.items():
            shown = signal_of(kind, name, {})
            # The bins of grades are settled by fit.
            is_same = shown in (signals[name], asked.get(name))
            if isinstance(kind, str):
                target = int(kind == "positive")
                is_same = getattr(signals[name], "target", None) == target
            if not is_same:
                raise ImplicitRMError(
                    f"{name!r} is {kind if isinstance(kind, str) else shown!r} here, but the model "
                    f"was fitted with {signals[name]!r}. Name it as in fit, or fit anew."
                )
        unsaid, nulls = [], getattr(est, "null_is_silent_", None)
        for name, signal in signals.items():
            if isinstance(signal, Choice) and all(isinstance(o, str) for o in signal.outcomes):
                said = kinds.get(name)
                if said is None and nulls is None and not signal.given_reaction:
                    unsaid.append(name)
                if said is None or (said.null is None and nulls is not None):
                    null = SILENT if name in (nulls or ()) else UNLOGGED
                    view = (nulls or {}).get(name)
                    kinds[name] = Widget(
                        signal.outcomes, signal.silent, null, view, signal.false_rate
                    )
            elif isinstance(signal, Graded):
                kinds[name] = Grades(signal.target, signal.bins)
        signs = {
            name: "positive" if signal.shows == (1,) else "negative"
            for name, signal in signals.items()
            if isinstance(signal, Action)
        }
        self._read_events(signs, known=True)
        labelled = {k: kind for k, kind in kinds.items() if has_labels(kind)}
        others = [k for k, s in signals.items() if type(s).encode is not Signal.encode]
        y = self._labelled(names, labelled, [name for name in others if name not in kinds])
        for name in unsaid:
            if kinds[name].null == UNLOGGED and y[name].isna().any():
                note(
                    f"note: {name!r} is empty in {y[name].isna().sum():,} rows, which are not "
                    "logged. If fit had null=silent, pass the same --choice."
                )
        return self._without_open(y)

    def of(self, est):
        """Return y and what `fit` takes beside it, for a fitted estimator."""
        y = self.actions_of(est)
        late = late_columns(self.args.late)
        for name, signal in zip(y, est.signals_, strict=True):
            if ("age" in signal.takes) != (name in late):
                raise ImplicitRMError(
                    f"{name!r} was fitted {'with' if name not in late else 'without'} --late, but "
                    f"here it is the other way round. {'Add' if name not in late else 'Leave out'} "
                    f"--late {name}, as in fit."
                )
        side = self.side_information() | self._waits(list(y))
        return (y.iloc[:, 0].to_numpy() if est.one_dimensional_ else y), side

    def _times(self, option):
        """Return the time of each row, and what it is in words."""
        names = [name for name in TIMES if name in self.table.columns]
        names = [self.args.time] if self.args.time else names
        if len(names) != 1:
            raise ImplicitRMError(
                f"{option} needs the time of each row: name its column by --time. "
                f"The columns of {self.table.name} are {listing(self.table.columns)}."
            )
        return as_times(self.table.ids(names[0]), lambda row: f"row {row}", names[0])

    def _waits(self, names):
        """Return `age` and `delay` of `fit` where actions may come late."""
        late = late_columns(self.args.late)
        if not late:
            return {}
        unknown = [name for name in late if name not in names]
        if unknown:
            raise ImplicitRMError(
                f"--late names {listing(unknown)}, which is not among --actions and --negative. "
                "Name it there too."
            )
        waits = {"age": self.ages(f"--late {self.args.late}")}
        columns = [name for name in late.values() if name is not None]
        if columns:
            delays = self._numbers(columns)
            waits["delay"] = self._blank(names)
            for name, column in late.items():
                if column is not None:
                    waits["delay"][:, names.index(name)] = delays[column]
        return waits

    def ages(self, option):
        """Return how long before --now each row was shown; `option` needs it."""
        times, kind = self._times(option)
        now = self.args.now
        if kind == "numbers":
            with contextlib.suppress(ValueError):
                now = float(now)
        moment, kind_of_now = as_times([now], lambda _: "now", "--now")
        name = "the time of a row"
        check_kinds({name: kind, "--now": kind_of_now}, {name: times, "--now": moment})
        return moment[0] - times

    def _blank(self, names):
        import numpy as np

        return np.full((self.table.n_rows, len(names)), np.nan)

    def side_information(self):
        """Return the arguments of `fit` other than X and y."""
        side = {}
        given = {name: getattr(self.args, name, None) for name in SIDE}
        for name, column, what in (
            ("labels", given["labels"], LABELS),
            ("sample_weight", given["weight"], WEIGHTS),
        ):
            if column is not None:
                values = self._numbers([column], what=what)
                if name == "sample_weight":
                    self.table.check_finite(values, ", the weight", "Leave these rows out.")
                side[name] = values[column].to_numpy()
        if given["exposures"] is not None:
            columns = split_names(given["exposures"])
            side["exposures"] = self._numbers(columns, what=COUNTS).to_numpy()
            if side["exposures"].shape[1] == 1:
                side["exposures"] = side["exposures"][:, 0]
        if given["response_id"] is not None:
            side["response_id"] = self.table.ids(given["response_id"])
        if given["user"] is not None:
            side["user_id"] = self.table.ids(given["user"])
        if self.args.groups or given["response_id"] is None:
            side["groups"] = self.table.groups(self.args)
        return side

    def describe(self, y, signals, X):
        """Describe what was read, in words."""
        log = self.table
        lines = [f"{log.name}: {log.n_rows:,} rows, embeddings of {X.shape[1]} columns"]
        if log.files[1:]:
            lines.append(f"  files: {len(log.files)}, in the order of their names")
        if self.args.embedder is not None:
            lines = [str(log.summary), f"  text for {self.args.embedder}"]
        signs = ["positive"] * y.shape[1] if signals is None else signals
        for (name, column), sign in zip(y.items(), signs, strict=True):
            logged = column.notna()
            if column.dtype == object:  # a widget, or categories
                counts = column[logged].value_counts()
                shown = ", ".join(f"{value} {n / logged.sum():.1%}" for value, n in counts.items())
                what = "logged" if hasattr(sign, "bins") else "offered"
                lines.append(f"  {name}: {what} in {logged.sum():,} rows: {shown}")
                continue
            if hasattr(sign, "bins"):
                low, median, high = column.quantile([0, 0.5, 1])
                shown = f"from {low:g} to {high:g}, median {median:g}"
                lines.append(f"  {name} (graded): logged in {logged.sum():,} rows, {shown}")
                continue
            rate = column[logged].mean() if logged.any() else float("nan")
            acted = f"acted in {rate:.1%} of them" if rate <= 1 else f"{column.sum():,.0f} actions"
            target = getattr(sign, "target", 0 if sign == "negative" else 1)
            sign = " (negative)" if target == 0 else ""
            lines.append(f"  {name}{sign}: logged in {logged.sum():,} rows, {acted}")
        return "\n".join(lines)


def as_label(value):
    """Return a value of a widget as it is written in --choice."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
