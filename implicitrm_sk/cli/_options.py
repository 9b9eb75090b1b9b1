"""Options that commands share, each declared once, and what their values say."""

import argparse
import math
import re
from pathlib import Path
from typing import NamedTuple

from ..exceptions import ImplicitRMError
from ._terminal import listing

#: What a value of a widget shows, by the word for it.
MEANINGS = {"positive": 1, "negative": 0, "neither": None}
#: Stands for rows in which the widget is empty, in --choice and in y.
NULL = "null"
#: What empty rows of a widget may mean.
SILENT, UNLOGGED = "silent", "unlogged"
#: Stands in --choice for the share of users who chose by mistake.
FALSE_RATE = "false_rate"
#: The window that the next response of the conversation ends.
NEXT_TURN = "next_turn"
#: Options that name columns of what `fit` takes beside X and y, but for groups and times.
SIDE = ("labels", "weight", "response_id", "exposures", "user")
#: Options that name the columns with the vectors or texts of responses.
READ = ("embedding", "messages", "prompt", "response", "turn")
#: What the columns of a file of events may be.
ROLES = ("kind", "response_id", "conversation_id", "user_id", "time")
#: Options that say what the columns of y are, and when they count.
EVENTS = ("events", "event_columns", "id", "ignore", "infer", "conversation", "tracked", "client")
WHEN = ("time", "window", "now")
ACTIONS = ("actions", "negative", "choice", "graded", "late", "correlated", *EVENTS, *WHEN)


class Widget(NamedTuple):
    """The meaning of a column, as --choice gives it.

    `null` is the meaning of empty rows, SILENT or UNLOGGED; None if --choice does not say it. They
    are silent only where the column `view` is 1, if there is one. `false_rate` is as in `Choice`.
    """

    outcomes: dict
    silent: str
    null: str | None
    view: str | None = None
    false_rate: float = 0.0

    @property
    def nulls(self):
        """The empty rows that are silent, as `read_log` takes it; None if not said."""
        return None if self.null is None else self.null == SILENT and (self.view or True)


class Grades(NamedTuple):
    """The preference that high values of a column show, and its bins, as --graded gives them."""

    target: int
    bins: int | tuple


class Once(argparse.Action):
    """An option that stands once; one that names columns adds up."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = getattr(namespace, "given", ())
        before = getattr(namespace, self.dest)
        if option_string is not None and self.option_strings[-1] in given:
            if self.metavar != "COLUMNS":
                parser.error(
                    f"{option_string} is given twice: {before} and {values}. Give it once."
                )
            values = f"{before},{values}"
        namespace.given = (*given, self.option_strings[-1]) if self.option_strings else given
        setattr(namespace, self.dest, values)


def add_reading(sub, *, fitted=False, side=SIDE):
    """Declare how a log is read: actions, text or vectors, groups, users, times, labels.

    Parameters
    ----------
    sub : ArgumentParser
    fitted : bool
        Whether a fitted model says what its columns are, where options do not.
    side : sequence of str
        Those of `SIDE` that the command takes.
    """
    actions = sub.add_argument_group("what users did")
    default = "those of fit" if fitted else "action, action_*"
    for name, metavar, text in (
        (
            "actions",
            "COLUMNS",
            "what users do because they like a response: columns with 1, 0 or nothing (not "
            f"logged), separated by commas (default: {default})",
        ),
        (
            "negative",
            "COLUMNS",
            "further columns, of what users do because they do not like a response (regenerate, "
            "thumbs down)",
        ),
        (
            "late",
            "COLUMNS",
            "those of --actions and --negative that may come late; COLUMN=DELAY names the column "
            "that says after how long. A row counts as far as its age at --now allows",
        ),
    ):
        actions.add_argument(f"--{name}", metavar=metavar, help=text)
    add_events(actions)
    actions.add_argument(
        "--choice",
        action="append",
        metavar="COLUMN:VALUE=MEANING,...",
        help="a widget with exclusive values: thumb:up=positive,down=negative,none=silent. A "
        "MEANING is positive, negative, neither or silent (offered, and nothing chosen). "
        "With null=silent, empty rows are silent. With null=silent@SEEN, they are silent where the "
        "column SEEN is 1. With null=unlogged, the widget was not offered there. "
        "false_rate=0.01 is the share of users who choose by mistake. May be repeated",
    )
    actions.add_argument(
        "--graded",
        action="append",
        metavar="COLUMN[:SIGN[:BINS]]",
        help="a column with a degree: dwell, or edited:negative if high values show dislike. BINS "
        "is a number of bins (default: 5), edges (dwell:positive:0,2,10,inf) or categories, the "
        "lowest first (tone:positive:cold,fair,warm). Empty rows are not logged. May be repeated",
    )
    add_features(sub)
    rows = sub.add_argument_group("what is known of the rows")
    rows.add_argument(
        "--groups",
        metavar="COLUMN",
        help="rows of one group (prompt, user) are kept together when some are held out "
        "(default: prompt_id, else equal prompts); empty is a group of its own",
    )
    for name, metavar, text in (
        (
            "user",
            "COLUMN",
            "who acted: users then differ in how readily they act; may be empty in some rows",
        ),
        (
            "labels",
            "COLUMN",
            "labels of some rows, if there are: 1 preferred, 0 not, empty unknown",
        ),
        ("weight", "COLUMN", "weight of each row"),
        ("response_id", "COLUMN", "rows of one id are one response shown repeatedly"),
        ("exposures", "COLUMNS", "how often each row was shown; actions are then counts"),
    ):
        if name in side:
            rows.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    if "exposures" in side and not fitted:
        rows.add_argument(
            "--correlated",
            metavar="COLUMNS",
            help="those of --actions and --negative whose counts over --exposures vary more than "
            "independent exposures do",
        )


def add_events(group):
    """Declare how actions are read from events, and when actions count."""
    for name, metavar, text in (
        (
            "events",
            "FILE",
            "a file with one row for each thing that a user did: the columns kind, response_id or "
            "conversation_id and, if known, user_id and time. Names of actions that are not "
            "columns of the log are then kinds of events",
        ),
        (
            "event-columns",
            "COLUMNS",
            "columns of the events that have other names, NAME=COLUMN: kind=event,time=sent_at. "
            "NAME= leaves one out",
        ),
        (
            "id",
            "COLUMN",
            "the column of the log that holds the id of the events (default: response_id, "
            "conversation_id)",
        ),
        ("ignore", "COLUMNS", "kinds of events to leave out. Every other kind must be named"),
        (
            "infer",
            "COLUMNS",
            "those of --actions and --negative that mean regenerate. They also follow from the "
            "log: the same user was later shown another response to the same prompt",
        ),
        (
            "conversation",
            "COLUMN",
            "the conversation of a row, for --infer and --window next_turn (default: "
            "conversation_id)",
        ),
        (
            "tracked",
            "COLUMNS",
            "kinds of events that only some clients send, KIND@CLIENT: accepted@ide,thumb@web. "
            "They are not logged in rows of other clients, where they would be 0",
        ),
        ("client", "COLUMN", "the client of a row, for --tracked (default: client)"),
        ("time", "COLUMN", "when a row was shown (default: time, timestamp or created_at)"),
        (
            "window",
            "DURATION",
            "how long an action is waited for (24h, 7d; a number if times are numbers). Actions "
            "of rows whose window is open at --now are not logged. For events it may be next_turn, "
            "until the next response of the conversation, or next_turn,24h",
        ),
        ("now", "TIME", "the time of the export, needed by --window and --late"),
    ):
        group.add_argument(f"--{name}", metavar=metavar, help=text)


def add_features(sub):
    """Declare which columns hold what a response is: vectors, or text."""
    features = sub.add_argument_group("what the responses are")
    features.add_argument(
        "--embedding",
        metavar="COLUMN",
        help="column with a list of numbers in each row, or PREFIX* for columns of numbers "
        "(default: embedding, or embedding_*)",
    )
    for name, text in (
        ("messages", "column of chats (default: messages or conversations)"),
        ("prompt", "column of prompts (default: prompt)"),
        ("response", "column of responses (default: response, answer or completion)"),
        ("turn", "column with the position or id of the turn that users acted on (default: last)"),
    ):
        features.add_argument(f"--{name}", metavar="COLUMN", help=text)


def ends_by_turn(window):
    """Return whether the next turn ends the window that --window gives."""
    return NEXT_TURN in split_names(window)


def used(args, names):
    """Return the options among these names that are given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name, None)]


def check_options(args):
    """Raise if options contradict each other or cannot be read, before any file is read."""
    if not hasattr(args, "events"):
        return
    if getattr(args, "keep_users", False) and args.user is None:
        raise ImplicitRMError("--keep-users needs --user, the column of user ids. Give both.")
    if hasattr(args, "choice"):
        choices(args.choice)
        grades(args.graded)
        _check_late(args)
    else:
        unused = used(args, (*EVENTS, *WHEN, "user"))
        if unused and args.actions is None:
            raise ImplicitRMError(
                f"{unused[0]} has no effect without --actions. Name the actions, or leave "
                f"{unused[0]} out."
            )
    _check_events(args)
    late = getattr(args, "late", None)
    for name, value in (("window", args.window), ("late", late)):
        if value not in (None, NEXT_TURN) and args.now is None:
            raise ImplicitRMError(f"--{name} {value} needs --now, the time of the export. Add it.")
    made = args.events is not None or args.infer is not None
    if args.now is not None and hasattr(args, "late") and args.window is late is None and not made:
        raise ImplicitRMError(
            "--now has no effect without --window, --late or --events. Add one, or leave --now out."
        )
    if args.window is not None and ends_by_turn(args.window) and not made:
        raise ImplicitRMError(
            f"--window {args.window} is for actions of --events or --infer. Give a duration such "
            "as 24h."
        )


def _check_events(args):
    if args.events is None:
        alone = () if args.infer is None else ("infer", "conversation")
        unused = used(args, [name for name in EVENTS if name not in alone])
        if unused:
            raise ImplicitRMError(
                f"{unused[0]} has no effect without --events. Name the file of events, or leave "
                f"{unused[0]} out."
            )
    if getattr(args, "exposures", None) is not None and (args.events or args.infer):
        option = "--infer" if args.events is None else "--events"
        raise ImplicitRMError(
            f"--exposures and {option} cannot be combined: actions of events are 1 or 0, and "
            "those of --exposures are counts. Leave one of them out."
        )
    if args.events is None:
        return
    role_columns(args.event_columns)
    if args.client is not None and args.tracked is None:
        raise ImplicitRMError(
            "--client has no effect without --tracked. Say which kinds of events the clients send, "
            "or leave --client out."
        )
    clients_of(args.tracked)
    named = {
        name
        for option in ("actions", "negative")
        if getattr(args, option, None)
        for name in split_names(getattr(args, option))
    }
    both = [name for name in split_names(args.ignore) if name in named] if args.ignore else []
    if both:
        raise ImplicitRMError(
            f"--ignore leaves out {both[0]!r}, which --actions or --negative names. Name it once."
        )
    log = getattr(args, "log", None) or getattr(args, "data", None)
    if log is not None and Path(args.events).absolute() == Path(log).absolute():
        raise ImplicitRMError(
            f"--events names {args.events}, which is the log. Name the file with one row for each "
            "event."
        )


def clients_of(text):
    """Return {kind: clients} of the value of --tracked, None without one."""
    if text is None:
        return None
    found = {}
    for part in split_names(text):
        kind, at, client = (each.strip() for each in part.rpartition("@"))
        if not (kind and at and client):
            raise ImplicitRMError(
                f"--tracked {text}: expected KIND@CLIENT,KIND@CLIENT. Correct {part!r}."
            )
        found.setdefault(kind, []).append(client)
    return found


def role_columns(text):
    """Return {role: column or None} of the value of --event-columns."""
    found = {}
    for part in [] if text is None else split_names(text):
        role, equals, column = (each.strip() for each in part.partition("="))
        if not equals or role not in ROLES or role in found:
            raise ImplicitRMError(
                f"--event-columns {text}: expected NAME=COLUMN,NAME=COLUMN, each NAME once and one "
                f"of {', '.join(ROLES)}. Correct {part!r}."
            )
        found[role] = column or None
    return found


def _check_late(args):
    if not late_columns(args.late):
        return
    for name, why in (
        ("user", "a link between activity and delay is not modelled"),
        ("response_id", "rows of one response are compared as if all actions had come"),
        ("window", "both say how long an action is waited for"),
    ):
        (option,) = used(args, [name]) or [None]
        if option is not None:
            remedy = (
                "Give --late alone: rows then count as far as their age allows"
                if name == "window"
                else f"Leave {option} out. Or leave --late out, and give --window"
            )
            raise ImplicitRMError(f"{option} and --late cannot be combined: {why}. {remedy}.")


def choices(texts):
    """Return {column: Widget} of the values of --choice."""
    found = {}
    for text in texts or ():
        column, colon, rest = text.partition(":")
        column, outcomes, silent, null, view = column.strip(), {}, None, None, None
        false_rate = None
        if not colon or not column:
            raise ImplicitRMError(_expected(text))
        if column in found:
            raise ImplicitRMError(
                f"--choice describes the column {column!r} twice. Describe it once."
            )
        for part in rest.split(","):
            value, equals, meaning = (each.strip() for each in part.rpartition("="))
            what, at, where = meaning.partition("@")
            if value == NULL and null is None and bool(at) == bool(where):
                if what == SILENT or meaning == UNLOGGED:
                    null, view = what, where or None
                    continue
            if value == FALSE_RATE and meaning not in (*MEANINGS, SILENT) and false_rate is None:
                false_rate = _rate(text, meaning)
                continue
            if not equals or not value or meaning not in (*MEANINGS, SILENT):
                raise ImplicitRMError(_expected(text))
            again = value == NULL and null is not None
            if again or value in outcomes or value == silent or (meaning == SILENT and silent):
                raise ImplicitRMError(
                    f"--choice {text}: {value!r} or 'silent' stands there twice. Give each value "
                    "one meaning, and one value the meaning silent."
                )
            if meaning == SILENT:
                silent = value
            else:
                outcomes[value] = MEANINGS[meaning]
        if NULL in outcomes:
            raise ImplicitRMError(
                f"--choice {text}: rows that are empty cannot show a preference. Write null=silent "
                "if users chose nothing there, or null=unlogged."
            )
        if silent is None and null == SILENT:
            silent = NULL
        if silent is None:
            raise ImplicitRMError(
                f"--choice {text}: no value means that the widget was offered and users chose "
                "nothing. Add it, for example none=silent, or null=silent if it is empty there."
            )
        found[column] = Widget(outcomes, silent, null, view, false_rate or 0.0)
    return found


def _rate(text, value):
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < 1:
        raise ImplicitRMError(
            f"--choice {text}: {FALSE_RATE} is {value!r}; expected a number from 0 to below 1, the "
            "probability of an outcome that shows the other preference."
        )
    return rate


def grades(texts):
    """Return {column: Grades} of the values of --graded."""
    found = {}
    for text in texts or ():
        column, *parts = (part.strip() for part in text.split(":"))
        defaults = ["positive", "5"]
        sign, bins, *more = parts + defaults[len(parts) :]
        if not column or more or not bins or MEANINGS.get(sign) is None:
            raise ImplicitRMError(
                f"--graded {text}: expected COLUMN, COLUMN:SIGN or COLUMN:SIGN:BINS, where SIGN is "
                "positive or negative. Write for example dwell:positive:0,2,10,inf."
            )
        if column in found:
            raise ImplicitRMError(
                f"--graded describes the column {column!r} twice. Describe it once."
            )
        found[column] = Grades(MEANINGS[sign], _bins(bins))
    return found


def _bins(text):
    """Return a number of bins, their edges, or categories."""
    parts = [part.strip() for part in text.split(",")]
    try:
        edges = tuple(float(part) for part in parts)
    except ValueError:
        return tuple(parts)
    return int(edges[0]) if len(edges) == 1 and edges[0].is_integer() else edges


def _expected(text):
    return (
        f"--choice {text}: expected COLUMN:VALUE=MEANING,VALUE=MEANING, where a MEANING is "
        f"{', '.join(MEANINGS)} or silent. Write for example "
        "thumb:up=positive,down=negative,null=silent."
    )


def late_columns(text):
    """Return {column: column of its delays or None} of the value of --late."""
    found = {}
    for part in [] if text is None else split_names(text):
        column, equals, delay = (each.strip() for each in part.partition("="))
        if not column or (equals and not delay):
            raise ImplicitRMError(
                f"--late {text}: expected COLUMN or COLUMN=DELAY. Correct {part!r}."
            )
        found[column] = delay or None
    return found


def correlated_columns(args, kinds):
    """Return the columns that --correlated names, each one of the actions."""
    given = getattr(args, "correlated", None)
    names = [] if given is None else split_names(given)
    check_among_actions("--correlated", names, kinds)
    late = [name for name in late_columns(args.late) if name in names]
    if late:
        raise ImplicitRMError(
            f"--late and --correlated both name {listing(late)}, but exposures of late actions "
            "cannot be counted. Name it in one of them."
        )
    return names


def check_among_actions(option, names, kinds):
    """Raise unless the columns that an option names are actions."""
    wrong = [name for name in names if not isinstance(kinds.get(name), str)]
    if wrong:
        raise ImplicitRMError(
            f"{option} names {listing(wrong)}, which is not among --actions and --negative. Name "
            "it there too."
        )


def signal_of(kind, column, late, correlated=()):
    """Return what a column of y shows, as the estimator takes it.

    Parameters
    ----------
    kind : {"positive", "negative"}, Widget or Grades
    column : str
    late : dict
        As `late_columns` returns it.
    correlated : sequence of str
        The columns of --correlated.
    """
    if isinstance(kind, Widget):
        from ..signals import Choice

        return Choice(kind.outcomes, silent=kind.silent, false_rate=kind.false_rate)
    if isinstance(kind, Grades):
        from ..signals import Graded

        return Graded(kind.target, kind.bins)
    if column in late or column in correlated:
        from ..signals import Action

        return Action(
            int(kind == "positive"),
            delay="exponential" if column in late else None,
            counts="beta-binomial" if column in correlated else "binomial",
        )
    return kind


def default_actions(columns):
    """Return the columns that are actions by their names."""
    return [name for name in columns if name == "action" or name.startswith("action_")]


def has_labels(kind):
    """Return whether the values of a column are text."""
    return isinstance(kind, Widget) or (
        isinstance(kind, Grades)
        and not isinstance(kind.bins, int)
        and isinstance(kind.bins[0], str)
    )


def kinds_of(args, columns):
    """Return what each column of actions shows, as options say it; None if none of them is given.

    Parameters
    ----------
    args : Namespace
    columns : callable() -> list of str
        The columns of the log, which are searched for actions if --actions is not given.
    """
    widgets, degrees = choices(args.choice), grades(args.graded)
    both = [name for name in widgets if name in degrees]
    if both:
        raise ImplicitRMError(
            f"--choice and --graded both describe {listing(both)}. Describe it in one of them."
        )
    described = widgets | degrees
    if args.actions is None and args.negative is None and not described:
        return None
    positive, negative = (
        [] if given is None else split_names(given) for given in (args.actions, args.negative)
    )
    if args.actions is None:
        positive = [
            name
            for name in default_actions(columns())
            if name not in negative and name not in described
        ]
    _check_signs(positive, negative, described)
    kinds = dict.fromkeys(positive, "positive") | dict.fromkeys(negative, "negative")
    return kinds | described


def _check_signs(positive, negative, described):
    """Raise if a column is named as positive and as negative, or as an action and a widget."""
    both = [name for name in described if name in positive or name in negative]
    if both:
        option = "--choice" if isinstance(described[both[0]], Widget) else "--graded"
        raise ImplicitRMError(
            f"{option} describes {listing(both)}, which --actions or --negative names too. Name "
            "it in one of them."
        )
    twice = [name for name in negative if name in positive]
    if twice:
        raise ImplicitRMError(
            f"--actions and --negative both name {listing(twice)}. A column shows one "
            "preference: name it in one of them."
        )


def text_columns(args):
    """Return what names the columns of the text, as `read_feedback_log` takes it."""
    found = {name: getattr(args, name, None) for name in ("messages", "prompt", "response", "turn")}
    return {name: column for name, column in found.items() if column is not None}


def split_names(text):
    """Return the names in a list of columns, each once."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ImplicitRMError("a list of columns is empty. Write them as NAME,NAME.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ImplicitRMError(f"{text} names the column {twice!r} twice. Name it once.")
    return names


def named_columns(value):
    """Return the names of columns in a selection of features; none of other selections."""
    if isinstance(value, str):
        return [value]
    is_list = isinstance(value, list | tuple)
    return list(value) if is_list and all(isinstance(name, str) for name in value) else []


#: An argument of Python in a message; what comes after these options is in the command's words.
ARGUMENT = re.compile(r"(?<![\w.])(?<!--set )(?<!--event-columns )([a-z]\w*)=(?=(\S?))")
