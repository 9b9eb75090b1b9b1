"""Messages of the package in the words of the command: options instead of arguments of Python."""

import re
import sys

from ._options import ARGUMENT

#: Options by the names that arguments have in Python.
OPTIONS = {
    "actions": "--actions",
    "age": "--late",
    "base_model": "--base-model",
    "by": "--by",
    "confidence": "--confidence",
    "delay": "--late",
    "device": "--device",
    "embedder": "--embedder",
    "embedding": "--embedding",
    "eval_fraction": "--eval-fraction",
    "exposures": "--exposures",
    "groups": "--groups",
    "labels": "--labels",
    "messages": "--messages",
    "min_confidence": "--min-confidence",
    "min_margin": "--min-margin",
    "n": "--number",
    "n_bootstrap": "--replicates",
    "n_folds": "--n-folds",
    "n_starts": "--n-starts",
    "now": "--now",
    "objective": "--objective",
    "pooling": "--pooling",
    "preference_rate": "--preference-rate",
    "prompt": "--prompt",
    "random_state": "--seed",
    "reference": "--reference",
    "response": "--response",
    "response_id": "--response-id",
    "same_prompts": "--same-prompts",
    "sample_weight": "--weight",
    "time": "--time",
    "turn": "--turn",
    "user_id": "--user",
    "violations": "--violation",
    "window": "--window",
}
#: Functions by the command that calls them.
COMMANDS = {
    "compare_groups": "compare",
    "fine_tune": "fine-tune",
    "identification_report": "report",
    "label_queue": "label-queue",
    "reward_interval": "interval",
    "sensitivity_report": "sensitivity",
    "to_preference_dataset": "export",
}
#: What has no such form, and what stands in its place; in this order.
PHRASES = [
    (r" ?To silence this: warnings\.filterwarnings\(.*?\)\.", ""),
    (r"null_is_silent=\[\]", "--choice with null=unlogged"),
    (r"null_is_silent=\[[^\]]+\]", "--choice with null=silent"),
    (
        r"Pass them as a column of y, described by a Choice in signals=",
        "Describe their column by --choice",
    ),
    (r"The '(\w+)' parameter of ImplicitRewardEstimator must be", r"\1= must be"),
    (r"Pass propensity=, or log more", "Log more"),
    (r"^n must be", "--number must be"),
    (r"\bby \('(.*?)'\)", r"--by \1"),
    (r"^(confidence|reference) must", r"--\1 must"),
    (r"violations\['(\w+)'\]", r"--violation \1"),
    (r"('.*?') is not a group of by,", r"\1 is not a group of --by,"),
    (r"^group ('.*?') of by ", r"group \1 of --by "),
    (r", for example with pandas\.to_datetime\(column, utc=True\)", ""),
    (r", '30min' or a datetime\.timedelta", " or '30min'"),
    (
        r"Save it with users=True, or leave user_id out",
        "Fit it with --keep-users, or leave --user out",
    ),
    (r"or leave counts out", "or leave --correlated out"),
    (r"or leave delay out", "or leave --late out"),
    (r"^exposures (names|is not)", r"--exposures \1"),
    (r"Leave exposures out", "Leave --exposures out"),
    (
        r"Name the counts in signals= as Action\(counts='beta-binomial'\), which",
        "Name the counts by --correlated, which",
    ),
    (r"signals=\{'column': 'negative'\}|signals=(?=[,)]| *$)", "--negative COLUMN"),
    (r"correct signals=", "correct --negative, --choice or --graded"),
    (r"in signals=", "in --negative COLUMN"),
    (
        r"pass the outcomes of one widget as a Choice",
        "describe a widget of several values by --choice",
    ),
    (
        r"Pass them as signals \(a Choice, or a positive and a negative action\)",
        "Describe them by --choice, or name them in --actions and --negative",
    ),
    (r"pass one Choice", "describe one --choice"),
    (
        r"a LogisticRegression of the labels on decision_function\(X\)",
        "a logistic regression of the labels on the logit of the reward that predict writes",
    ),
    (r" \(given_reaction=False\)", ""),
    (r"Add the outcome to Choice", "Add the value to --choice"),
    (r"Add the category to bins of Graded", "Add the category to --graded"),
    (r"\bbins of Graded\b", "BINS of --graded"),
    (r"-np\.inf and np\.inf", "-inf and inf"),
    (r"or add it to those that are known", "or add it to --choice or --graded"),
    (
        r"Cut it there, for example with datasets\.read_feedback_log\(turn=\)",
        "Name the turn that users acted on by --turn",
    ),
    (r"see actions_from_events", "see --events"),
    (r", see bounds\(X\); without", ", without"),
    (r"which reward_interval adds", "which the command interval adds"),
    (r"Name them by columns=", "Name them by --event-columns"),
    (r"(O|o)nly predict and decision_function work", r"\1nly the command predict works"),
    (r"predict and decision_function also accept", "The command predict also accepts"),
    (
        r"X does not have column names\. Pass a DataFrame with string columns, or select by "
        r"position",
        "the embedding is one column of lists. Write its numbers as columns of their own, and name "
        "them by --embedding 'PREFIX*'",
    ),
    (r", 'negative' or (an object|a Signal) of implicitrm_sk\.signals", " or 'negative'"),
    (r" Check torch\.cuda\.is_available\(\)\.", ""),
    (r"lora=False writes", "--full writes"),
    (r"Use lora=False", "Use --full"),
    (r"Use lora=True", "Leave --full out"),
    (r"custom_code=False, but", "--no-custom-code is given, but"),
    (r"Use custom_code=None", "Leave it out"),
    (r"\bIncrease max_epochs or learning_rate_init\b", "Pass max_epochs= or learning_rate_init= "
     "with a larger number"),
    (r"Use label_mechanism", "Pass label_mechanism"),
    (r"\bset false_rate of the Choice \(a number\)", "add false_rate=0.01 to its --choice"),
    (r"\bfalse_rate of the Choice \(a number\)", "false_rate=0.01 in its --choice"),
]  # fmt: skip
_PHRASES = [(re.compile(pattern), text) for pattern, text in PHRASES]
#: A name of Python in a sentence: neither quoted, nor in a list of columns, nor after an option.
_BARE = r"(?<![\w.'\"`/-])(?<!--set )(?<!, )(?<!columns )(?<!are )({})(?![\w'\"`=(\[]|\.\w|, \w+,)"


#: Signals as Python prints them, which have no other form.
_SHOWN = re.compile(r"((?:Action|Choice|Graded)\([^()]*\))")


#: A message of scikit-learn about a parameter: its name, and what it has to be.
_RANGE = re.compile(
    r"(?<=^The ')(\w+)(' parameter of \w+ must be )(.*?)(?=\. Got .* instead\.$)", re.DOTALL
)
_ALTERNATIVES = re.compile(r", (?=an? |None\b)| or (?=an? |None\b)")
#: Types of Python among the alternatives, and their words; those without words are left out.
_TYPES = [
    (r"an instance of 'bool'", "true or false"),
    (r"an instance of 'numpy\.bool'", ""),
    (r"an int in the range (.*)", r"a whole number \1"),
    (r"a float in the range (.*)", r"a number \1"),
    (r"a str among \{([^,]*)\}", r"\1"),
    (r"a str among \{(.*)\}", r"one of \1"),
    (r"an instance of 'str'", "text"),
    (r"an instance of '(tuple|list)'|an array-like", "a list"),
    (r"an instance of 'dict'", "names with values"),
    (r"an instance of .*|a callable|an object .*", ""),
]
_NUMBER = r"(\d+)(?:\.0)?"
#: Ranges in the notation of mathematics, and in words.
_RANGES = [
    (rf"\[{_NUMBER}, inf\)", r"of at least \1"),
    (rf"\({_NUMBER}, inf\)", r"above \1"),
    (rf"\[{_NUMBER}, {_NUMBER}\]", r"from \1 to \2"),
    (rf"\[{_NUMBER}, {_NUMBER}\)", r"from \1 to below \2"),
    (rf"\({_NUMBER}, {_NUMBER}\)", r"between \1 and \2"),
]


def _without_types(found):
    """Return what a parameter has to be without the types of Python."""
    name, between, expected = found.groups()
    words = []
    for part in _ALTERNATIVES.split(expected):
        for pattern, text in _TYPES:
            if matched := re.fullmatch(pattern, part):
                part = matched.expand(text)
                break
        for pattern, text in _RANGES:
            part = re.sub(pattern, text, part)
        words.append(part)
    if name in OPTIONS:  # left out, it is not given
        words = [word for word in words if word != "None"]
    if name == "preference_rate":
        words = ["LOW,HIGH" if word == "a list" else word for word in words]
    *before, last = dict.fromkeys(filter(None, words))
    return name + between + (f"{', '.join(before)} or {last}" if before else last)


def in_own_words(text):
    """Return a message of the package with options instead of arguments of Python."""
    text = _RANGE.sub(_without_types, text)
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    parts = _SHOWN.split(text)
    parts[::2] = map(_with_options, parts[::2])
    return "".join(parts)


def _with_options(text):
    settings = ()
    if "torch" in sys.modules:  # otherwise the message is not from an estimator
        from .._estimator import ImplicitRewardEstimator

        settings = ImplicitRewardEstimator().get_params()

    def argument(found):
        name, after = found.groups()
        if name in OPTIONS:
            return OPTIONS[name] + " " * bool(re.match(r"[\w'\"(\[{-]", after))
        if name in settings:
            return f"--set {name}=" + "..." * (not re.match(r"[\w'\"(\[{-]", after))
        return found.group()

    def bare(found):
        name = found.group(1)
        return OPTIONS.get(name) or COMMANDS.get(name) or f"--set {name}=..."

    text = ARGUMENT.sub(argument, text)
    names = {name for name in (*OPTIONS, *COMMANDS, *settings) if "_" in name}
    text = re.sub(_BARE.format("|".join(sorted(names))), bare, text)
    return re.sub(r"\b([Ss])et (?=--)", lambda s: "Pass " if s[1] == "S" else "pass ", text)
