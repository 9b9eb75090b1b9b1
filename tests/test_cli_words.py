"""Messages that surface through the command line name its options, not arguments of Python."""

import ast
import re
from pathlib import Path

import pytest

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._identification import ADVICE
from implicitrm_sk.cli._words import COMMANDS, OPTIONS, in_own_words

PACKAGE = Path(__file__).parents[1] / "implicitrm_sk"
#: Modules whose errors and warnings the commands show.
SHOWN = (
    "_activity _assumptions _features _fit _held_out _identification _labels _log _prediction "
    "_side_columns _waits datasets/_columns datasets/_read inspection/_grouped "
    "inspection/_interval inspection/_queue inspection/_refits integrations/_datasets "
    "integrations/_fine_tune measurement/_choice measurement/_graded training/_data "
    "training/_preliminary"
).split()
#: What no command does.
OF_PYTHON = re.compile(
    r"partial_fit|warm_start|Checkpoint|callable|propensity\b(?!_)|predict_examination|null_is_silent"
    r"|\best\b.*(Pipeline|ImplicitRewardEstimator)|is a X, which holds"
)
SETTINGS = [name for name in ImplicitRewardEstimator().get_params() if "_" in name]
#: Names that a reader of a command does not know.
UNKNOWN = re.compile(
    r"(?<![\w.'\"])(?<!--set )("
    + "|".join([*SETTINGS, *COMMANDS, *(name for name in OPTIONS if "_" in name)])
    + r")\b(?!['\"])|decision_function|read_feedback_log|actions_from_events|filterwarnings"
    r"|\b(a|one|to) (Choice|Graded)\b|(?<![\w.-])(?<!--set )(signals|labels|user_id)="
)


def text_of(node):
    """Return the text of a message, X in place of its values; None if it is not a text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "X"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return text_of(node.body) if isinstance(node, ast.IfExp) else "X"


def messages():
    yield from ADVICE.items()
    for name in SHOWN:
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if getattr(called, "id", None) in ("ImplicitRMError", "TypeError", "warn"):
                text = text_of(node.args[0])
                if not OF_PYTHON.search(text):
                    yield f"{name}.py:{node.lineno}", text


def test_messages_are_in_the_words_of_the_command():
    found = {where: in_own_words(text) for where, text in messages()}
    assert len(found) > 100
    wrong = {where: text for where, text in found.items() if UNKNOWN.search(text)}
    assert not wrong, "\n".join(f"{where}: {text}" for where, text in wrong.items())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (ADVICE["exclusion"], "name them in --set propensity_features=...."),
        (ADVICE["users"], "pass --user or put session columns into --set propensity_features=...:"),
        (ADVICE["examined"], "state it: --set shared_examination=False. Signals"),
        (ADVICE["negative"], "and name it in --negative COLUMN: with"),
        (ADVICE["signs"], "Name negative ones in --negative COLUMN, describe a widget of several"),
        ("Set preference_rate (a number).", "Pass --preference-rate (a number)."),
        (
            "Increase max_epochs or learning_rate_init.",
            "Pass --set max_epochs=... or --set learning",
        ),
        ("'7' is not a group of by, which has 0.", "'7' is not a group of --by, which has 0."),
        (
            "The 'preference_rate' parameter of ImplicitRewardEstimator must be 1.",
            "--preference-rat",
        ),
        ("Action(target=1, delay='exponential') needs age=.", "delay='exponential') needs --late"),
        (
            "Pass them as a column of y, described by a Choice in signals=.",
            "Describe their column by --choice.",
        ),
        (
            "at a row, see bounds(X); without the error of the\nfit, which reward_interval adds",
            "at a row, without the error of the\nfit, which the command interval adds",
        ),
        # Columns of the log keep their names.
        ("x has no column 'user_id'. Its columns are user_id, response_id, label.",) * 2,
        ("x has no column 'a'. Its columns are response_id.",) * 2,
        ("Name it by --event-columns user_id=COLUMN.",) * 2,
        ("--set max_epochs=3 is given twice.",) * 2,
        (
            "exposures is not available for it. Leave exposures out, or leave delay out.",
            "--exposures is not available for it. Leave --exposures out, or leave --late out.",
        ),
    ],
)
def test_words(said, shown):
    assert shown in in_own_words(said)
