"""Options that commands share, each declared once, and what their values say."""

import argparse
import re
from typing import NamedTuple

from ..exceptions import ImplicitRMError

#: What a value of a widget shows, by the word for it.
MEANINGS = {"positive": 1, "negative": 0, "neither": None}
#: Stands for rows in which the widget is empty, in --choice and in y.
NULL = "null"
#: What empty rows of a widget may mean.
SILENT, UNLOGGED = "silent", "unlogged"
#: Options that name columns of what `fit` takes beside X and y, but for groups and times.
SIDE = ("labels", "weight", "response_id", "exposures", "user")
#: Options that say what the columns of y are, and when they count.
ACTIONS = ("actions", "negative", "choice", "graded", "late", "time", "window", "now")


class Widget(NamedTuple):
    """The meaning of a column, as --choice gives it.

    `null` is the meaning of empty rows, SILENT or UNLOGGED; None if --choice does not say it. They
    are silent only where the column `view` is 1, if there is one.
    """

    outcomes: dict
    silent: str
    null: str | None
    view: str | None = None

    @classmethod
    def of(cls, choice):
        """Return the widget of a fitted `Choice`, whose label for silence may say what null is."""
        null, at, view = str(choice.silent).partition("@")
        if null != NULL:
            return cls(choice.outcomes, choice.silent, UNLOGGED)
        return cls(choice.outcomes, choice.silent, SILENT, view if at else None)

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
        ("time", "COLUMN", "when a row was shown (default: time, timestamp or created_at)"),
        (
            "window",
            "DURATION",
            "how long an action is waited for (24h, 7d; a number if times are numbers). Actions "
            "of rows whose window is open at --now are not logged",
        ),
        ("now", "TIME", "the time of the export, needed by --window and --late"),
    ):
        actions.add_argument(f"--{name}", metavar=metavar, help=text)
    actions.add_argument(
        "--choice",
        action="append",
        metavar="COLUMN:VALUE=MEANING,...",
        help="a widget with exclusive values: thumb:up=positive,down=negative,none=silent. A "
        "MEANING is positive, negative, neither or silent (offered, and nothing chosen). "
        "null=silent says that empty rows are silent, null=silent@SEEN that they are where the "
        "column SEEN is 1, null=unlogged that the widget was not offered there. May be repeated",
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


def used(args, names):
    """Return the options among these names that are given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name, None)]


def check_options(args):
    """Raise if options contradict each other or cannot be read, before any file is read."""
    if not hasattr(args, "choice"):
        return
    choices(args.choice)
    grades(args.graded)
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
            silent = NULL if view is None else f"{NULL}@{view}"
        if silent is None:
            raise ImplicitRMError(
                f"--choice {text}: no value means that the widget was offered and users chose "
                "nothing. Add it, for example none=silent, or null=silent if it is empty there."
            )
        found[column] = Widget(outcomes, silent, null, view)
    return found


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


def signal_of(kind, column, late):
    """Return what a column of y shows, as the estimator takes it.

    Parameters
    ----------
    kind : {"positive", "negative"}, Widget or Grades
    column : str
    late : dict
        As `late_columns` returns it.
    """
    if isinstance(kind, Widget):
        from ..signals import Choice

        return Choice(kind.outcomes, silent=kind.silent)
    if isinstance(kind, Grades):
        from ..signals import Graded

        return Graded(kind.target, kind.bins)
    if column in late:
        from ..signals import Action

        return Action(int(kind == "positive"), delay="exponential")
    return kind


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


#: An argument of Python in a message.
ARGUMENT = re.compile(r"(?<![\w.])([a-z]\w*)=(?=(\S?))")
