"""The command `implicitrm`: from a log of user actions to a reward, without writing Python.

Commands:
  inspect      what a log holds and what it would identify, without a model
  fit          learn a reward from a log, save it
  predict      give every response of a file its reward
  compare      which group of responses users prefer: models, prompt versions, days
  interval     give every response its reward with an interval, from the log
  report       what the log identifies of the reward; how far other responses are from it
  sensitivity  how the reward and a comparison change if an assumption is broken
  label-queue  the responses whose labels would narrow the reward most
  fine-tune    train the language model of a reward together with its heads
  export       a transformers model, a preference data set, or the hub

A log is a parquet, JSONL or CSV file with one row per response that was shown. One column per kind
of action holds what the users did: 1, 0, or empty where it was not logged. The row also has an
embedding, or text that --embedder turns into one. Text is a column of chats (messages), or prompt
and response. Name actions of users who like a response (copy, share) by --actions. Name actions of
users who do not (regenerate, thumbs down) by --negative. --choice describes a widget of several
values.

Try:
  implicitrm inspect log.jsonl --actions copied,shared --negative regenerated
  implicitrm fit log.parquet --actions copied,shared --negative regenerated -o reward
  implicitrm fit log.jsonl --actions copied,shared --embedder org/model -o reward
  implicitrm fit log.jsonl --choice thumb:up=positive,down=negative,null=silent -o reward
  implicitrm predict reward new.parquet -o scored.parquet
  implicitrm report reward log.parquet --new new.parquet
  implicitrm compare log.parquet --by model --actions copied,shared --negative regenerated
  implicitrm export reward rm --as transformers
  implicitrm fine-tune reward log.jsonl -o tuned --run run

The exit code is 0 if done, 2 for wrong usage, files or data, 130 if interrupted.
"""

import argparse
import sys
import warnings

from .. import __version__
from ._commands import (
    compare,
    export,
    fine_tune,
    fit,
    inspect,
    interval,
    label_queue,
    predict,
    report,
    sensitivity,
)
from ._options import Once, add_events, add_features, add_reading, check_options
from ._terminal import note
from ._words import in_own_words

#: The names of implicitrm_sk.objectives.OBJECTIVES, which takes seconds to import.
OBJECTIVES = (
    "stratified",
    "naive",
    "balanced",
    "root-naive",
    "up-down",
    "ips",
    "dr",
    "mtips",
    "mtdr",
    "sdr",
    "rmf",
    "ncrmf",
    "upu",
    "nnpu",
    "elkan-noto",
    "sar-em",
    "recrec-i",
    "recrec-f",
    "bpr",
    "ubpr",
    "cubpr",
    "uprl",
    "counterif",
)


def main(argv=None):
    """Run the command with these arguments (None: those of the process), return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":  # a name that a terminal cannot print
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _note_warning
            check_options(args)
            args.run(args)
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:  # without its number
            text = error.strerror + ("" if error.filename is None else f": {error.filename}")
        elif isinstance(error, ValueError | TypeError):
            text = in_own_words(text)
        text = " ".join(text.split()) or type(error).__name__
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _note_warning(text, category, *_, **__):
    if category.__name__ != "IdentificationWarning":  # the command prints this itself
        note(f"note: {in_own_words(str(text))}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="implicitrm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_inspect(commands)
    _add_fit(commands)
    _add_predict(commands)
    _add_report(commands)
    _add_interval(commands)
    _add_compare(commands)
    _add_sensitivity(commands)
    _add_label_queue(commands)
    _add_fine_tune(commands)
    _add_export(commands)
    return parser


def _command(commands, run, example):
    text = run.__doc__
    sub = commands.add_parser(
        run.__name__.replace("_", "-"),
        help=text,
        description=text,
        epilog=f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.register("action", None, Once)
    sub.set_defaults(run=run, given=())
    return sub


def _add_inspect(commands):
    sub = _command(
        commands,
        inspect,
        "implicitrm inspect log.jsonl --actions copied,shared --negative regenerated",
    )
    _add_log(sub)
    add_reading(sub)
    _add_settings(sub)


def _add_fit(commands):
    sub = _command(
        commands,
        fit,
        "implicitrm fit log.parquet --actions copied,shared --negative regenerated -o reward",
    )
    _add_log(sub)
    sub.add_argument(
        "-o", "--out", required=True, metavar="PATH", help="where to save: a folder, or FILE.zip"
    )
    add_reading(sub)
    sub.add_argument(
        "--keep-users",
        action="store_true",
        help="save the ids of --user and how readily each acts, which predict --user then knows",
    )
    _add_embedder(sub)
    _add_settings(sub)
    _add_force(sub)


def _add_predict(commands):
    sub = _command(commands, predict, "implicitrm predict reward new.parquet -o scored.parquet")
    sub.add_argument("model", metavar="MODEL", help="what fit saved")
    sub.add_argument("data", metavar="DATA", help="a file or folder as for fit")
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FILE",
        help=".parquet or .jsonl file to write: the columns of DATA without the embedding, reward, "
        "and reward_std (spread over the members)",
    )
    add_features(sub)
    sub.add_argument(
        "--actions",
        metavar="COLUMNS",
        help="also write what is known after these actions, those of --actions and --negative of "
        "fit: p_preferred, and p_PA, p_NA, p_PP, p_NP (preferred or not, active or passive)",
    )
    _add_who_and_when(sub)
    _add_force(sub)


def _add_report(commands):
    sub = _command(commands, report, "implicitrm report reward log.parquet --new policy.parquet")
    sub.add_argument("model", metavar="MODEL", help="what fit saved")
    _add_log(sub)
    sub.add_argument(
        "--new",
        metavar="FILE",
        help="responses to compare with the log: does the reward extrapolate there?",
    )
    sub.add_argument(
        "--n-starts",
        type=int,
        default=8,
        metavar="N",
        help="fits from different starts, side by side; fewer take less time (default: 8)",
    )
    add_reading(sub, fitted=True)


def _add_interval(commands):
    sub = _command(
        commands,
        interval,
        "implicitrm interval reward log.parquet --new new.parquet -o out.parquet",
    )
    sub.add_argument("model", metavar="MODEL", help="what fit saved: its settings are fitted anew")
    _add_log(sub)
    sub.add_argument(
        "--new", metavar="FILE", help="the responses to reward (default: those of the log)"
    )
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FILE",
        help=".parquet or .jsonl file to write: the columns of FILE without the embedding, reward, "
        "reward_low and reward_high",
    )
    sub.add_argument(
        "--confidence", type=float, default=0.9, metavar="C", help="of the intervals (default: 0.9)"
    )
    sub.add_argument(
        "--replicates",
        type=int,
        default=50,
        metavar="N",
        help="fits with other weights of the rows, side by side (default: 50)",
    )
    add_reading(sub, fitted=True)
    _add_force(sub)


def _add_fine_tune(commands):
    sub = _command(commands, fine_tune, "implicitrm fine-tune reward log.jsonl -o tuned --run run")
    sub.add_argument("model", metavar="MODEL", help="what fit saved, of text (--embedder)")
    _add_log(sub)
    sub.add_argument(
        "-o", "--out", required=True, metavar="PATH", help="where to save: a folder, or FILE.zip"
    )
    sub.add_argument(
        "--run",
        dest="folder",
        required=True,
        metavar="FOLDER",
        help="new folder for checkpoints and tuned weights",
    )
    sub.add_argument("--resume", action="store_true", help="continue the interrupted run in FOLDER")
    sub.add_argument(
        "--full",
        action="store_true",
        help="train all weights, not a low-rank change of them (LoRA)",
    )
    sub.add_argument(
        "--eval-fraction",
        type=float,
        metavar="SHARE",
        help="share of the groups to hold out (default: as in fit)",
    )
    add_reading(sub, fitted=True)
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of transformers' TrainingArguments, for example num_train_epochs=2 or "
        "learning_rate=1e-4; may be repeated",
    )
    _add_force(sub)


def _add_compare(commands):
    sub = _command(
        commands,
        compare,
        "implicitrm compare log.parquet --by model --actions copied,shared "
        "--set shared_examination=False",
    )
    _add_log(sub)
    _add_groups_to_compare(sub, required=True)
    sub.add_argument(
        "--same-prompts",
        action="store_true",
        help="compare on the prompts that have responses of every group (see --groups)",
    )
    sub.add_argument(
        "--confidence", type=float, default=0.9, metavar="C", help="of the intervals (default: 0.9)"
    )
    sub.add_argument("-o", "--out", metavar="FILE", help="also write a table, .parquet or .jsonl")
    add_reading(sub, side=("labels", "weight", "user"))
    _add_embedder(sub)
    _add_settings(sub)
    _add_force(sub)


def _add_sensitivity(commands):
    sub = _command(
        commands,
        sensitivity,
        "implicitrm sensitivity reward log.parquet --violation not_looked_at=0.1,0.3",
    )
    sub.add_argument("model", metavar="MODEL", help="what fit saved: its settings are fitted anew")
    _add_log(sub)
    _add_groups_to_compare(sub, required=False)
    sub.add_argument(
        "--violation",
        action="append",
        default=[],
        metavar="KIND=AMOUNTS",
        help="amounts to try: numbers for false_positive, false_negative, not_looked_at, ratio and "
        "preference_rate, columns for left_out and sign (default: all that are possible). May be "
        "repeated",
    )
    sub.add_argument("-o", "--out", metavar="FILE", help="also write a table, .parquet or .jsonl")
    add_reading(sub, fitted=True, side=("labels", "weight", "user"))
    _add_force(sub)


def _add_label_queue(commands):
    sub = _command(
        commands, label_queue, "implicitrm label-queue reward log.parquet -n 50 -o queue.jsonl"
    )
    sub.add_argument("model", metavar="MODEL", help="what fit saved: its settings are fitted anew")
    _add_log(sub)
    sub.add_argument(
        "-n", "--number", type=int, required=True, metavar="N", help="responses to ask about"
    )
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FILE",
        help=".parquet or .jsonl file to write: the columns of LOG without the embedding, and row, "
        "the position in LOG from 0",
    )
    add_reading(sub, fitted=True, side=("labels", "weight", "user"))
    _add_force(sub)


def _add_groups_to_compare(sub, *, required):
    sub.add_argument(
        "--by", required=required, metavar="COLUMN", help="the group of each row, such as its model"
    )
    sub.add_argument(
        "--reference", metavar="GROUP", help="what to compare with (default: the largest group)"
    )
    sub.add_argument(
        "--n-folds",
        type=int,
        default=5,
        metavar="N",
        help="parts of the log, each scored by a fit to the others; fewer take less time "
        "(default: 5)",
    )


def _add_export(commands):
    sub = _command(commands, export, "implicitrm export reward rm --as transformers")
    sub.add_argument("model", metavar="MODEL", help="what fit saved")
    sub.add_argument(
        "out", metavar="OUT", help="folder, .parquet or .jsonl file, or USER/NAME on the hub"
    )
    sub.add_argument(
        "--as",
        dest="kind",
        required=True,
        choices=("transformers", "unpaired", "paired", "hub"),
        help="transformers: a reward model folder; unpaired, paired: preference data (KTO, DPO) "
        "from --log; hub: upload, private",
    )
    sub.add_argument(
        "--base-model",
        metavar="MODEL",
        help="for --as transformers: the language model (hub name or folder) that made the "
        "embeddings. Needed if MODEL was fitted on vectors, or if the language model moved",
    )
    sub.add_argument(
        "--no-custom-code",
        action="store_true",
        help="fail where the transformers model needs a class of its own (trust_remote_code)",
    )
    sub.add_argument("--log", metavar="FILE", help="log with prompt and response")
    sub.add_argument(
        "--actions",
        metavar="COLUMNS",
        help="of the log: use what users did, too (those of --actions and --negative of fit)",
    )
    _add_who_and_when(sub)
    add_features(sub)
    sub.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="leave out what is below"
    )
    sub.add_argument(
        "--min-margin", type=float, default=0.0, metavar="GAP", help="least reward gap of a pair"
    )
    _add_force(sub)


def _add_who_and_when(sub):
    """Declare what belongs to the actions of a command that does not fit."""
    sub.add_argument("--user", metavar="COLUMN", help="who acted, if fit had --user")
    add_events(sub)


def _add_log(sub):
    sub.add_argument(
        "log",
        metavar="LOG",
        help=".jsonl, .json, .csv or .tsv (also .gz, .zst), .parquet or .arrow file, or a folder "
        "of such; one row per response",
    )


def _add_settings(sub):
    sub.add_argument(
        "--preference-rate",
        metavar="RATE",
        help="overall share of preferred responses, if it is known: a number, or LOW,HIGH",
    )
    sub.add_argument(
        "--objective",
        default="stratified",
        choices=OBJECTIVES,
        metavar="NAME",
        help=f"how to learn (default: stratified); one of {', '.join(OBJECTIVES)}",
    )
    sub.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all random choices (default: 0)"
    )
    sub.add_argument("--device", default="auto", help="torch device (default: auto)")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of ImplicitRewardEstimator, for example max_epochs=100 or "
        "hidden_layer_sizes=[128,64], in the form of Python or JSON; may be repeated",
    )


def _add_embedder(sub):
    sub.add_argument(
        "--embedder",
        metavar="MODEL",
        help="language model (hub name or folder) that turns the columns prompt and response into "
        "embeddings",
    )
    sub.add_argument(
        "--pooling",
        default="auto",
        choices=("auto", "mean", "last", "cls"),
        help="of the embedder (default: auto)",
    )


def _add_force(sub):
    sub.add_argument("--force", action="store_true", help="replace what is there already")
