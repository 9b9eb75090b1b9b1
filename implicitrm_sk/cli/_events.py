"""Actions from a table of events beside the log: what --events and the options with it say."""

from .._optional import import_optional
from ..exceptions import ImplicitRMError
from ._options import role_columns, split_names
from ._terminal import listing, note

#: What may be matched with the id of an event; the first one that both tables have is used.
IDS = ("response_id", "conversation_id")


class Events:
    """The events of a file, as options say where they stand.

    Parameters
    ----------
    args : Namespace

    Attributes
    ----------
    name : str
        Name of the file.
    table : ByRole
    """

    def __init__(self, args):
        from ..datasets._by_role import ByRole
        from ..datasets._events import OF_EVENTS
        from ..datasets._records import Records
        from ..datasets._times import column_times, with_zone

        self.args, self.name = args, Records(args.events).name
        self.pandas = import_optional("pandas", "data", "Reading events")
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
        """Return the role of the id that events and rows share, and its column in the log.

        Parameters
        ----------
        columns : list of str
            The columns of the log.
        log : str
            Name of the log.
        """
        roles = [role for role in IDS if role in self.table]
        if self.args.id is not None:
            return roles[0], self.args.id
        given = {"response_id": getattr(self.args, "response_id", None)}
        for role in roles:
            column = given.get(role) or role
            if column in columns:
                return role, column
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
        missing = [] if known else [name for name in wanted if name not in found]
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

    def actions(self, responses, role, kinds):
        """Return what `actions_from_events` does.

        Parameters
        ----------
        responses : FeedbackData or DataFrame
            The rows of the log, whose column `role` is the id.
        role : str
        kinds : dict
            As `kinds` returns it.
        """
        from ..datasets import actions_from_events

        table = {name: values for name, values in self.table.columns.items() if name not in IDS}
        table[role] = self.table.columns[next(name for name in IDS if name in self.table)]
        if role in self.table:
            table[role] = self.table.columns[role]
        has_users = responses.get("user_id") is not None
        if "user_id" in table and not has_users:
            raise ImplicitRMError(
                f"{self.name} says who acted, but the log does not, so several users of one "
                "response cannot be separated. Name the column of the log by --user, or write "
                "--event-columns user_id= to leave out that of the events."
            )
        times = responses.get("time")
        if self.args.window is not None and times is None:
            raise ImplicitRMError(
                f"--window {self.args.window} needs the time of each row: name its column by "
                "--time."
            )
        as_number = times is not None and self.pandas.api.types.is_numeric_dtype(
            self.pandas.Series(times).infer_objects()
        )
        limits = [self.args.window, self.args.now]
        if as_number:
            limits = [_number(limit) for limit in limits]
        return actions_from_events(
            responses,
            self.pandas.DataFrame(table),
            kinds,
            window=limits[0],
            now=limits[1],
        )

    def report(self, summary):
        """Print how many events were read and left out, and what is odd."""
        left_out = [
            f"{n:,} {what}" for what, n in summary.left_out.items() if n and "event" in what
        ]
        text = f"{self.name}: {self.table.n:,} events"
        if left_out:
            text += f"; left out: {', '.join(left_out)}"
        note(f"{text}.")
        for warning in summary.warnings:
            note(f"note: {warning}")


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
