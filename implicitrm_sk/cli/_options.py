"""Options that commands share, each declared once, and what their values say."""

import argparse
import re

from ..exceptions import ImplicitRMError

#: What a value of a widget shows, by the word for it.
MEANINGS = {"positive": 1, "negative": 0, "neither": None}
#: Stands for rows in which the widget is empty, in --choice and in y.
NULL = "null"
#: Options that name columns of what `fit` takes beside X and y, but for groups and times.
SIDE = ("labels", "weight", "response_id", "exposures", "user")
#: Options that say what the columns of y are, and when they count.
ACTIONS = ("actions", "negative", "choice", "late", "time", "window", "now")


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
        "MEANING is positive, negative, neither or silent (offered, and nothing chosen). With "
        "null=silent empty rows are silent, else they are not logged. May be repeated",
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


def choices(texts):
    """Return {column: (outcomes, silent)} of the values of --choice."""
    found = {}
    for text in texts or ():
        column, colon, rest = text.partition(":")
        column, outcomes, silent = column.strip(), {}, None
        if not colon or not column:
            raise ImplicitRMError(_expected(text))
        if column in found:
            raise ImplicitRMError(
                f"--choice describes the column {column!r} twice. Describe it once."
            )
        for part in rest.split(","):
            value, equals, meaning = (each.strip() for each in part.rpartition("="))
            if not equals or not value or meaning not in (*MEANINGS, "silent"):
                raise ImplicitRMError(_expected(text))
            if value in outcomes or value == silent or (meaning == "silent" and silent):
                raise ImplicitRMError(
                    f"--choice {text}: {value!r} or 'silent' stands there twice. Give each value "
                    "one meaning, and one value the meaning silent."
                )
            if meaning == "silent":
                silent = value
            else:
                outcomes[value] = MEANINGS[meaning]
        if NULL in outcomes:
            raise ImplicitRMError(
                f"--choice {text}: rows that are empty cannot show a preference. Write null=silent "
                "if users chose nothing there, or leave null out."
            )
        if silent is None:
            raise ImplicitRMError(
                f"--choice {text}: no value means that the widget was offered and users chose "
                "nothing. Add it, for example none=silent, or null=silent if it is empty there."
            )
        found[column] = outcomes, silent
    return found


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
    kind : {"positive", "negative"} or (dict, str or None)
        The pair is an entry of `choices`.
    column : str
    late : dict
        As `late_columns` returns it.
    """
    if isinstance(kind, tuple):
        from ..signals import Choice

        outcomes, silent = kind
        return Choice(outcomes, silent=silent)
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
