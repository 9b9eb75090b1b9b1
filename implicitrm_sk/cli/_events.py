"""Actions that are not columns of the log: what --events, --infer and the options with them say."""

from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ._options import clients_of, ends_by_turn, role_columns, split_names
from ._terminal import listing, note

#: What may be matched with the id of an event; the first one that both tables have is used.
IDS = ("response_id", "conversation_id")


class Events:
    """The events of a file, as options say where they stand; none without --events.

    Parameters
    ----------
    args : Namespace

    Attributes
    ----------
    name : str
        Name of the file.
    table : ByRole
    inferred : list of str
        The actions that also follow from what was shown later.
    """

    def __init__(self, args):
        from ..datasets._by_role import ByRole
        from ..datasets._events import OF_EVENTS
        from ..datasets._records import Records
        from ..datasets._times import column_times, with_zone

        self.args, self.name = args, "events"
        self.inferred = [] if args.infer is None else split_names(args.infer)
        self.pandas = import_optional("pandas", "data", "Reading events")
        if args.events is None:
            none = self.pandas.DataFrame({"kind": []})
            self.table = ByRole(none, OF_EVENTS, self.name, self.pandas)
            return
        self.name = Records(args.events).name
        renamed = role_columns(args.event_columns)
        left_out = [role for role, column in renamed.items() if column is None]
        names = [name for name in OF_EVENTS if name not in left_out]
        given = {role: column for role, column in renamed.items() if column is not None}
        # Unlike in Python, it is not known by its argument.
        self.table = ByRole(args.events, names, self.name, self.pandas, given)
        if "kind" in self.table:  # options give kinds as text
            kinds = self.table.columns["kind"].astype(object)
            self.table.columns["kind"] = kinds.where(kinds.isna(), kinds.map(str))
        for roles in (("kind",), IDS):
            if not any(role in self.table for role in roles):
                raise ImplicitRMError(self._lacks(" or ".join(map(repr, roles)), roles[0]))
        if "time" in self.table:  # while places are known: they are not those of a table
            times = column_times(
                self.table.columns["time"], self.table.place, self.table.of("time")
            )
            self.table.columns["time"] = self.pandas.Series(with_zone(*times))
        if args.window is not None and "time" not in self.table:
            raise ImplicitRMError(f"--window {args.window}: {self._lacks(repr('time'), 'time')}")

    def _lacks(self, what, role):
        return (
            f"{self.name} has no column {what}. Name it by --event-columns {role}=COLUMN. Its "
            f"columns are {listing(self.table.seen)}."
        )

    def id_of(self, columns, log):
        """Return the id that events and rows share by its role, as its column in the log.

        Parameters
        ----------
        columns : list of str
            The columns of the log.
        log : str
            Name of the log.
        """
        roles = [role for role in IDS if role in self.table]
        if not roles:
            return {}
        if self.args.id is not None:
            return {roles[0]: self.args.id}
        given = {"response_id": getattr(self.args, "response_id", None)}
        for role in roles:
            column = given.get(role) or role
            if column in columns:
                return {role: column}
        raise ImplicitRMError(
            f"{log} has no column {' or '.join(map(repr, roles))} to match with that of "
            f"{self.name}. Name the column of the log by --id. Its columns are {listing(columns)}."
        )

    def kinds(self, wanted, columns, log, *, known=False):
        """Return what each kind shows, as `actions_from_events` takes it; check the names.

        Parameters
        ----------
        wanted : dict of str
            For each kind that is an action, the preference that it shows.
        columns : list of str
            The columns of the log.
        log : str
            Name of the log.
        known : bool, default=False
            Whether the names are those of a fitted model, so that a kind may be absent.
        """
        unknown = [name for name in self.inferred if name not in wanted]
        if unknown:
            what = f"is a column of {log}" if unknown[0] in columns else "no option names"
            raise ImplicitRMError(
                f"--infer names {unknown[0]!r}, which {what}. Name in --actions or --negative, and "
                "in --infer, an action that the log does not hold."
            )
        if self.args.events is None:
            return {name: wanted[name] for name in self.inferred}
        self.table.check_complete("kind", "making actions")
        codes, values = self.pandas.factorize(self.table.columns["kind"])
        found = list(values)
        ignored = [] if self.args.ignore is None else split_names(self.args.ignore)
        both = [name for name in found if name in columns and name in _named(self.args)]
        if both:
            raise ImplicitRMError(
                f"{both[0]!r} is a column of {log} and a kind of event in {self.name}, so its "
                "actions are not known. Rename one of them."
            )
        missing = [name for name in wanted if name not in (*found, *self.inferred)]
        missing = [] if known else missing
        if missing:
            raise ImplicitRMError(
                f"{missing[0]!r} is neither a column of {log} nor a kind of event in {self.name}. "
                f"The kinds are {listing(found)}. Correct the name."
            )
        unknown = [name for name in found if name not in wanted and name not in ignored]
        if unknown:
            counts = [(codes == found.index(name)).sum() for name in unknown[:10]]
            shown = ", ".join(f"{k!r} ({n:,})" for k, n in zip(unknown, counts, strict=False))
            plural = "s" * (len(unknown) > 1)
            raise ImplicitRMError(
                f"{self.name} has {len(unknown)} kind{plural} of events that no option names: "
                f"{shown}. Name them in --actions or --negative, or leave them out by --ignore "
                f"{','.join(unknown[:10])}."
            )
        return wanted | dict.fromkeys(ignored)

    def actions(self, shown, kinds):
        """Return what `actions_from_events` does.

        Parameters
        ----------
        shown : ByRole
            The rows of the log.
        kinds : dict
            As `kinds` returns it.
        """
        from ..datasets._events import actions_of_tables

        window = self.args.window
        if "user_id" in self.table and "user_id" not in shown:
            raise ImplicitRMError(
                f"{self.name} says who acted, but the log does not, so several users of one "
                "response cannot be separated. Name the column of the log by --user, or write "
                "--event-columns user_id= to leave out that of the events."
            )
        if window is not None and "time" not in shown:
            raise ImplicitRMError(
                f"--window {window} needs the time of each row: name its column by --time."
            )
        if window is not None and ends_by_turn(window) and "conversation_id" not in shown:
            raise ImplicitRMError(
                f"--window {window} needs the conversation of each row: name its column by "
                "--conversation."
            )
        for roles, what, options in (
            (("time",), "time", "--time"),
            (("prompt_id",), "prompt", "--groups"),
            (("user_id", "conversation_id"), "user or conversation", "--user or --conversation"),
        ):
            if self.inferred and not any(role in shown for role in roles):
                raise ImplicitRMError(
                    f"--infer needs the {what} of each row: name its column by {options}."
                )
        tracked = clients_of(self.args.tracked)
        self._check_tracked(tracked or {}, shown, kinds)
        limits = [*([None] if window is None else split_names(window)), self.args.now]
        if "time" in shown and self.pandas.api.types.is_numeric_dtype(
            shown.columns["time"].infer_objects()
        ):
            limits = [_number(limit) for limit in limits]
        *windows, now = limits
        return actions_of_tables(
            shown,
            self.table,
            kinds,
            window=windows[0] if len(windows) == 1 else tuple(windows),
            now=now,
            tracked=tracked,
            infer=dict.fromkeys(self.inferred, "regenerate"),
        )

    def _check_tracked(self, tracked, shown, kinds):
        """Raise if --tracked names what is not known; make clients text, as options give them."""
        if not tracked:
            return
        wrong = [name for name in tracked if kinds.get(name) is None]
        if wrong:
            known = [name for name, kind in kinds.items() if kind is not None]
            raise ImplicitRMError(
                f"--tracked names {wrong[0]!r}, which is not a kind of event with an action. "
                f"These are {listing(known)}. Correct the name."
            )
        if "client" not in shown:
            raise ImplicitRMError(
                "--tracked needs the client of each row: name its column by --client."
            )
        column = shown.columns["client"]
        column = shown.columns["client"] = column.where(column.isna(), column.map(str))
        seen = column.dropna().unique().tolist()
        absent = [one for clients in tracked.values() for one in clients if one not in seen]
        if absent:
            raise ImplicitRMError(
                f"--tracked names the client {absent[0]!r}, which no row has. The clients are "
                f"{listing(seen)}. Correct the name."
            )

    def report(self, summary):
        """Print how many events were read and left out, and what is odd."""
        left_out = [
            f"{n:,} {what}" for what, n in summary.left_out.items() if n and "event" in what
        ]
        if self.args.events is not None:
            text = f"{self.name}: {self.table.n:,} events"
            note(f"{text}{'; left out: ' * bool(left_out)}{', '.join(left_out)}.")
        for name in self.inferred:
            note(f"{summary.found[f'rows with {name} inferred']:,} rows with {name} inferred.")
        for warning in summary.warnings:
            note(f"note: {warning}")


def check_turn(window, others, log):
    """Raise if the next turn ends the window of actions that are columns of the log.

    Parameters
    ----------
    window : str or None
        The value of --window.
    others : list of str
        These columns.
    log : str
        Name of the log.
    """
    if others and window is not None and ends_by_turn(window):
        raise ImplicitRMError(
            f"--window {window} is for events, but {others[0]!r} is a column of {log}. Give a "
            f"duration such as 24h, or put {others[0]!r} into the events."
        )


def _named(args):
    """Return the names in --actions and --negative."""
    given = (getattr(args, name, None) for name in ("actions", "negative"))
    return [name for text in given if text is not None for name in split_names(text)]


def _number(text):
    """Return a number if a text is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
