"""The command `implicitrm`: from a log of user actions to a reward, without writing Python.

Commands:
  fit       learn a reward from a log, save it
  predict   give every response of a file its reward
  report    what the log tells about the reward; how far other responses are from it
  export    a transformers model, a preference data set, or the hub

A log is a parquet or JSONL file with one row per response that was shown: what the users did (1, 0,
or empty where it was not logged; one column per kind of action), and either an embedding or the
columns prompt and response, which --embedder turns into one.

Try:
  implicitrm fit log.parquet --actions copied,shared -o reward
  implicitrm fit log.jsonl --actions copied,shared --embedder org/model -o reward
  implicitrm predict reward new.parquet -o scored.parquet
  implicitrm report reward log.parquet --new new.parquet
  implicitrm export reward rm --as transformers

The exit code is 0 if done, 2 for wrong usage, files or data, 130 if interrupted.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np

from . import __version__
from ._estimator import ImplicitRewardEstimator
from ._optional import import_optional
from .inspection import identification_report, shift_report
from .objectives import OBJECTIVES

EMBEDDING = "embedding"
#: Taken for prompts where --groups names no column; the first one found.
GROUPS = ("prompt_id", "prompt")
#: Options that name columns of what `fit` takes beside X and y.
SIDE = ("preference", "weight", "response_id", "exposures")
#: Endings of files that somebody might want instead of a folder; model-1.0 is none.
_FILE_KINDS = (".bin", ".joblib", ".json", ".jsonl", ".parquet", ".pickle", ".pkl", ".pt")


def main(argv=None):
    """Run the command with these arguments (None: those of the process), return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda text, *_, **__: _note(f"note: {text}")
            args.run(args)
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:  # without its number
            text = error.strerror + ("" if error.filename is None else f": {error.filename}")
        text = " ".join(text.split()) or type(error).__name__
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _note(text):
    print(textwrap.fill(" ".join(str(text).split()), 100), file=sys.stderr)


def _say(text):
    print(text, flush=True)


# ---------------------------------------------------------------------- commands


def fit(args):
    """Learn a reward from a log and save it."""
    out = Path(args.out)
    _check_writable(out)
    settings = dict(map(_setting, args.set))
    settings = {
        "objective": args.objective,
        "preference_rate": _interval(args.preference_rate),
        "random_state": args.seed,
        "device": args.device,
    } | settings
    known = ImplicitRewardEstimator().get_params()
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"--set {unknown[0]}=...: there is no such setting. There are {', '.join(known)}."
        )
    table = _Table(args.log)
    actions = table.action_columns(args.actions)
    y = table.numbers(actions)
    X = table.features(args)
    side = table.side_information(args)
    _say(table.describe(y, args.embedder, X))
    if args.embedder is not None:
        from .embedding import LLMEmbedder

        settings["embedder"] = LLMEmbedder(args.embedder, pooling=args.pooling, verbose=True)
    est = ImplicitRewardEstimator(**settings)
    _add_progress(est)
    began = time.monotonic()
    est.fit(X, y if y.shape[1] > 1 else y.iloc[:, 0].to_numpy(), **side)
    est.signal_names_in_ = np.asarray(actions, dtype=object)  # an array of one action has none
    _say(f"Fitted in {est.n_iter_} epochs, {time.monotonic() - began:.0f} s.")
    losses = [record["valid_loss"] for record in est.history_ if "valid_loss" in record]
    if losses:
        best = np.mean(np.nanmin(np.asarray(losses, dtype=float), axis=0))
        unit = " nats per row" if est.objective_.models_actions else ""
        _say(f"Held-out criterion: {best:.4f}{unit} (lower is better).")
    _say(f"The reward is {est.identification_}: {est.identification_.reason}")
    for advice in est.identification_.advice:
        _say(textwrap.fill(advice, 98, initial_indent="- ", subsequent_indent="  "))
    est.save(out)
    _say(f"Saved: {out} (README.md in it is the model card).")
    objective = est.objective_
    if (
        est.identification_.level == "identified"
        and objective.models_propensity
        and not objective.single_signal
    ):
        options = {name: getattr(args, name) for name in ("embedding", "groups", *SIDE)}
        options = [
            part
            for name, column in options.items()
            if column is not None
            for part in (f"--{name.replace('_', '-')}", column)
        ]
        command = shlex.join(["implicitrm", "report", args.out, args.log, *options])
        _say(f"Whether this log is large enough to show it: {command}")


def predict(args):
    """Give every response of a file its reward."""
    out = Path(args.out)
    _check_writable(out, kinds=(".parquet", ".jsonl"))
    est = ImplicitRewardEstimator.load(args.model)
    table = _Table(args.data)
    X = table.features(args, est)
    reward, std = est.predict(X, return_std=True)
    found = {"reward": reward.astype(float), "reward_std": std.astype(float)}
    if args.actions is not None:
        y = table.actions_of(est, args.actions)
        groups = est.predict_proba(X, y).astype(float)
        for name, column in zip(est.group_names_, groups.T, strict=True):
            found[f"p_{name}"] = column
        found["p_preferred"] = found["p_PA"] + found["p_PP"]
    table.write(out, found, leave_out=table.feature_columns(args, est))
    _say(f"{len(reward):,} rewards, mean {reward.mean():.3f}, mean spread {std.mean():.3f}: {out}")


def report(args):
    """Say what a log tells about the reward, and how far other responses are from it."""
    est = ImplicitRewardEstimator.load(args.model)
    table = _Table(args.log)
    X = table.features(args, est)
    X = _vectors(est, X)
    if args.new is None:
        y = table.actions_of(est, args.actions)
        _say(str(identification_report(est, X, y, **table.side_information(args))))
        return
    unused = [name for name in ("actions", *SIDE) if getattr(args, name) is not None]
    if unused:
        raise ValueError(
            f"--{unused[0].replace('_', '-')} has no use with --new, which compares responses, not "
            "what users did. Leave out one of them."
        )
    groups = table.groups(args)
    new = _Table(args.new)
    X_new = _vectors(est, new.features(args, est))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says it
        _say(
            str(
                shift_report(
                    est,
                    X_new,
                    X,
                    groups_new=new.groups(args),
                    groups_log=groups,
                )
            )
        )


def export(args):
    """Make of a saved reward what other tools read."""
    est = ImplicitRewardEstimator.load(args.model)
    out = Path(args.out)
    if args.kind == "transformers":
        from .integrations import to_transformers

        if args.base_model is None and getattr(est, "embedder_", None) is None:
            raise ValueError(
                f"{args.model} was fitted on vectors: pass --base-model MODEL, the language model "
                "(hub name or folder) that made them."
            )
        found = to_transformers(
            est, args.base_model, out, custom_code=False if args.no_custom_code else None
        )
        _say(f"Written: {found}")
    elif args.kind == "hub":
        _say(f"Uploaded: {est.push_to_hub(args.out, private=True)}")
    else:
        from .integrations import to_preference_dataset

        if args.log is None:
            raise ValueError(f"--as {args.kind} needs --log FILE, the log to take responses from.")
        _check_writable(out, kinds=(".parquet", ".jsonl"))
        table = _Table(args.log)
        texts = table.texts(with_id=True)
        actions = None
        if args.actions is not None:
            actions = table.actions_of(est, args.actions)
        found = to_preference_dataset(
            est,
            texts,
            form=args.kind,
            X=None if getattr(est, "embedder_", None) is not None else table.features(args, est),
            actions=actions,
            min_confidence=args.min_confidence,
            min_margin=args.min_margin,
            output="pandas",
        )
        _write_frame(out, found)
        _say(f"{len(found):,} {'pairs' if args.kind == 'paired' else 'rows'}: {out}")
        if found.empty:
            _note(f"note: {out} is empty. {_why_empty(args, texts)}")


def _why_empty(args, texts):
    limits = f"--min-confidence {args.min_confidence:g}"
    if args.kind == "unpaired":
        return f"No response reaches {limits}; lower it."
    limits += f" and --min-margin {args.min_margin:g}"
    sizes = texts["prompt_id" if "prompt_id" in texts else "prompt"].astype(str).value_counts()
    several = (sizes > 1).sum()
    if not several:
        return f"A pair needs a prompt with two or more responses; all {len(sizes):,} have one."
    return (
        f"Of the {several:,} prompts with two or more responses none has two whose rewards differ "
        f"as {limits} ask; lower them."
    )


def _vectors(est, X):
    """Return text as vectors, so that it is embedded once."""
    embedder = getattr(est, "embedder_", None)
    return X if embedder is None or isinstance(X, np.ndarray) else embedder.transform(X)


# ---------------------------------------------------------------------- files


class _Table:
    """A parquet or JSONL file, of which columns are read as they are needed."""

    def __init__(self, path):
        self.path = Path(path)
        self.name = self.path.name
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} {what}. Expected is a .parquet or .jsonl file.")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{self.name} is empty (0 bytes).")
        arrow = import_optional("pyarrow", "data", "Reading a log")
        self._parquet = import_optional("pyarrow.parquet", "data", "Reading a log")
        kind = self.path.suffix.lower()
        try:
            if kind == ".parquet":
                file = self._parquet.ParquetFile(self.path)
                self.columns, self.n_rows = list(file.schema_arrow.names), file.metadata.num_rows
                self._table = None
            elif kind in (".jsonl", ".ndjson", ".json"):
                reader = import_optional("pyarrow.json", "data", "Reading a log")
                options = reader.ReadOptions(block_size=2**26)
                self._table = reader.read_json(self.path, read_options=options)
                self.columns, self.n_rows = self._table.column_names, self._table.num_rows
            else:
                raise ValueError(
                    f"{self.name} ends with {kind or 'nothing'!r}; expected is .parquet or .jsonl"
                    + (
                        ": pandas.read_csv(LOG).to_parquet(...) makes one of a table."
                        if kind in (".csv", ".tsv")
                        else "."
                    )
                )
        except arrow.ArrowException as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"{self.name} cannot be read as {kind[1:]}: {first}") from error
        if self.n_rows == 0:
            raise ValueError(f"{self.name} has no rows.")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{self.name} has two columns of one name.")

    def _read(self, names):
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ValueError(
                f"{self.name} has no column {', '.join(map(repr, missing))}. Its columns are "
                f"{_listing(self.columns)}."
            )
        if self._table is not None:
            return self._table.select(names)
        import pyarrow

        try:
            return self._parquet.read_table(self.path, columns=names)
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"{self.name} cannot be read as parquet: {first}") from error

    def values(self, name):
        """Return a column of any type as an array, none of it missing."""
        column = self._read([name]).column(name)
        if column.null_count:
            raise ValueError(
                f"column {name!r} of {self.name} is empty in {column.null_count:,} rows; every row "
                "needs a value there."
            )
        return column.to_pandas().to_numpy()

    def numbers(self, names):
        """Return columns of numbers as a DataFrame of floats, NaN where they are empty."""
        import pandas
        import pyarrow

        table = self._read(names)
        columns = {}
        for name in names:
            column = table.column(name)
            kind = column.type
            if pyarrow.types.is_boolean(kind):
                column = column.cast(pyarrow.int8())
            elif not (
                pyarrow.types.is_integer(kind)
                or pyarrow.types.is_floating(kind)
                or pyarrow.types.is_decimal(kind)
                or pyarrow.types.is_null(kind)
            ):
                example = next((value for value in column.to_pylist() if value is not None), None)
                raise ValueError(
                    f"column {name!r} of {self.name} holds {kind} ({str(example)[:40]!r}), but "
                    "expected are numbers: 1 acted, 0 did not, empty (null or NaN) not logged."
                )
            columns[name] = column.to_pandas().astype(float).to_numpy()
        return pandas.DataFrame(columns)

    def action_columns(self, given):
        """Return the names of the columns of actions."""
        if given is not None:
            return _names(given)
        found = [name for name in self.columns if name == "action" or name.startswith("action_")]
        if not found:
            raise ValueError(
                "which columns are actions? Pass --actions NAME,NAME (for example copied,shared). "
                f"The columns of {self.name} are {_listing(self.columns)}."
            )
        return found

    def actions_of(self, est, given):
        """Return y for a fitted estimator: the columns given, else those of its fit."""
        names = getattr(est, "signal_names_in_", None)
        names = self.action_columns(given) if given or names is None else list(names)
        if len(names) != est.n_signals_:
            raise ValueError(
                f"the model was fitted with {est.n_signals_} columns of actions, but here are "
                f"{len(names)}: {_listing(names)}. Name the columns of its fit by --actions."
            )
        y = self.numbers(names)
        return y.iloc[:, 0].to_numpy() if est.one_dimensional_ else y

    def groups(self, args):
        """Return which prompt each row belongs to, None if no column says it."""
        name = args.groups or next((name for name in GROUPS if name in self.columns), None)
        return None if name is None else self.values(name)

    def side_information(self, args):
        """Return what `fit` takes beside X and y."""
        side = {}
        for name, column in (("preference", args.preference), ("sample_weight", args.weight)):
            if column is not None:
                side[name] = self.numbers([column])[column].to_numpy()
        if args.exposures is not None:
            side["exposures"] = self.numbers(_names(args.exposures)).to_numpy()
            if side["exposures"].shape[1] == 1:
                side["exposures"] = side["exposures"][:, 0]
        if args.response_id is not None:
            side["response_id"] = self.values(args.response_id)
        if args.groups or args.response_id is None:
            side["groups"] = self.groups(args)
        return side

    def feature_columns(self, args, est=None):
        """Return the names of the columns that X is made of; none of them if it is text."""
        names = getattr(est, "feature_names_in_", None)
        if names is not None:
            return list(map(str, names))
        if getattr(est, "embedder_", None) is not None and args.embedding is None:
            return []
        name = args.embedding or EMBEDDING
        if name.endswith("*"):
            found = [column for column in self.columns if column.startswith(name[:-1])]
            if not found:
                raise ValueError(
                    f"{self.name} has no columns {name}. Its columns are {_listing(self.columns)}."
                )
            return found
        if name not in self.columns:
            found = [column for column in self.columns if column.startswith(f"{EMBEDDING}_")]
            if args.embedding is None and found:
                return found
            raise ValueError(
                f"{self.name} has no column {name!r} with embeddings. Name it by --embedding (a "
                "column of lists, or PREFIX* for columns of numbers)"
                + ("" if est is not None else ", or pass --embedder MODEL to make them of the text")
                + f". Its columns are {_listing(self.columns)}."
            )
        return [name]

    def features(self, args, est=None):
        """Return X: vectors, or prompts and responses."""
        if getattr(args, "embedder", None) is not None:
            if args.embedding is not None:
                raise ValueError("--embedder and --embedding both say what X is. Give one of them.")
            return self.texts()
        names = self.feature_columns(args, est)
        if not names:
            return self.texts()
        if len(names) == 1 and getattr(est, "feature_names_in_", None) is None:
            return self._lists(names[0])
        X = self.numbers(names)
        return X if getattr(est, "feature_names_in_", None) is not None else X.to_numpy()

    def _lists(self, name):
        import pyarrow

        column = self._read([name]).column(name).combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):
            column = pyarrow.concat_arrays(column.chunks)
        kind = column.type
        is_list = (
            pyarrow.types.is_list(kind)
            or pyarrow.types.is_large_list(kind)
            or pyarrow.types.is_fixed_size_list(kind)
        )
        if not is_list or not (
            pyarrow.types.is_floating(kind.value_type) or pyarrow.types.is_integer(kind.value_type)
        ):
            raise ValueError(
                f"column {name!r} of {self.name} holds {kind}, but expected is a list of numbers "
                "in each row: the embedding."
            )
        if column.null_count:
            raise ValueError(
                f"column {name!r} of {self.name} is empty in {column.null_count:,} of "
                f"{self.n_rows:,} rows; every row needs its embedding."
            )
        lengths = np.unique(np.asarray(column.value_lengths()))
        if len(lengths) > 1:
            raise ValueError(
                f"the lists in column {name!r} of {self.name} have different lengths, from "
                f"{lengths[0]} to {lengths[-1]}; all embeddings must come from one model."
            )
        values = column.flatten().to_numpy(zero_copy_only=False)  # NaN where there is nothing
        X = values.reshape(self.n_rows, -1)
        bad = ~np.isfinite(X).all(axis=1)
        if bad.any():
            raise ValueError(
                f"column {name!r} of {self.name} holds NaN or infinity in {bad.sum():,} rows, the "
                f"first in row {bad.argmax()}. Compute these embeddings again."
            )
        return X

    def texts(self, with_id=False):
        """Return prompts and responses."""
        response = "response" if "response" in self.columns else "completion"
        names = ["prompt", response]
        if with_id and "prompt_id" in self.columns:
            names.append("prompt_id")
        table = self._read(names)
        for name in names:
            if table.column(name).null_count:
                raise ValueError(
                    f"column {name!r} of {self.name} is empty in "
                    f"{table.column(name).null_count:,} rows."
                )
        return table.to_pandas()

    def describe(self, y, embedder, X):
        """Return what was read, in words."""
        what = f"embeddings of {X.shape[1]} columns" if embedder is None else f"text for {embedder}"
        lines = [f"{self.name}: {self.n_rows:,} rows, {what}"]
        for name, column in y.items():
            logged = column.notna()
            rate = column[logged].mean() if logged.any() else float("nan")
            acted = f"acted in {rate:.1%} of them" if rate <= 1 else f"{column.sum():,.0f} actions"
            lines.append(f"  {name}: logged in {logged.sum():,} rows, {acted}")
        return "\n".join(lines)

    def write(self, path, found, leave_out):
        """Write the columns of the file, but some, and new ones."""
        taken = sorted(set(found) & set(self.columns))
        if taken:
            raise ValueError(f"{self.name} has a column {taken[0]!r} already; rename it first.")
        frame = self._read([name for name in self.columns if name not in leave_out]).to_pandas()
        _write_frame(path, frame.assign(**found))


def _write_frame(path, frame):
    """Write a table beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_json(temporary, orient="records", lines=True, force_ascii=False)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _check_writable(path, kinds=None):
    """Find out before the work, not after it, that the result cannot be written."""
    if kinds is not None and path.suffix not in kinds:
        raise ValueError(f"{path} must end with {' or '.join(kinds)}.")
    if kinds is None and path.suffix.lower() in _FILE_KINDS:
        raise ValueError(f"{path}: expected is a folder, or a file that ends with .zip.")
    if path.is_dir() and (kinds is not None or path.suffix == ".zip"):
        raise ValueError(f"{path} is a folder.")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: no permission in {parent}.")


def _names(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError("a list of columns is empty. Write them as NAME,NAME.")
    return names


def _listing(names):
    """Return names in words, many that differ in their number only (embeddings) as one entry."""
    n_names, numbers = len(names), {}
    for name in names:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()
        if number:
            numbers.setdefault(stem, {})[name] = int(number)
    for series in numbers.values():
        if len(series) > 4:
            first, last = min(series, key=series.get), max(series, key=series.get)
            names = [name for name in names if name == first or name not in series]
            names[names.index(first)] = f"{first} ... {last}"
    found = ", ".join(names[:12])
    return found + (f", ... ({n_names} in all)" if len(names) > 12 else "")


def _setting(text):
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--set {text}: expected is NAME=VALUE.")
    try:
        value = json.loads(value)
    except ValueError:
        pass  # a string
    return name.strip(), tuple(value) if isinstance(value, list) else value


def _interval(text):
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 2):
        raise ValueError(f"--preference-rate {text}: expected is a number, or LOW,HIGH.")
    return values[0] if len(values) == 1 else values


def _add_progress(est):
    try:
        import_optional("rich", "progress", "A progress bar")
    except ImportError as error:
        _note(f"no progress bar: {error}")
        return
    from sklearn.callback import ProgressBar

    est.set_callbacks(ProgressBar())


# ---------------------------------------------------------------------- arguments


def _parser():
    parser = argparse.ArgumentParser(
        prog="implicitrm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(run, example):
        text = run.__doc__
        sub = commands.add_parser(
            run.__name__,
            help=text,
            description=text,
            epilog=f"Example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    def embedding(sub):
        sub.add_argument(
            "--embedding",
            metavar="COLUMN",
            help="column with a list of numbers in each row, or PREFIX* for columns of numbers "
            "(default: embedding, or embedding_*)",
        )

    def groups(sub):
        sub.add_argument(
            "--groups",
            metavar="COLUMN",
            help="rows of one group (prompt, user) are kept together when some are held out "
            "(default: prompt_id, else prompt, if there)",
        )

    def side_information(sub):
        sub.add_argument(
            "--preference",
            metavar="COLUMN",
            help="labels of some rows, if there are: 1 preferred, 0 not, empty unknown",
        )
        sub.add_argument("--weight", metavar="COLUMN", help="weight of each row")
        sub.add_argument(
            "--response-id",
            metavar="COLUMN",
            help="rows of one id are one response shown repeatedly",
        )
        sub.add_argument(
            "--exposures",
            metavar="COLUMNS",
            help="how often each row was shown; actions are then counts",
        )

    actions = (
        "what users did: columns with 1, 0 or nothing (not logged), separated by commas (default: "
    )

    sub = command(fit, "implicitrm fit log.parquet --actions copied,shared -o reward")
    sub.add_argument("log", metavar="LOG", help=".parquet or .jsonl file, one row per response")
    sub.add_argument(
        "-o", "--out", required=True, metavar="PATH", help="where to save: a folder, or FILE.zip"
    )
    sub.add_argument("--actions", metavar="COLUMNS", help=f"{actions}action, action_*)")
    embedding(sub)
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
    groups(sub)
    side_information(sub)
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
        "hidden_layer_sizes=[128,64]; may be repeated",
    )

    sub = command(predict, "implicitrm predict reward new.parquet -o scored.parquet")
    sub.add_argument("model", metavar="MODEL", help="what fit saved")
    sub.add_argument("data", metavar="DATA", help=".parquet or .jsonl file")
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FILE",
        help=".parquet or .jsonl file to write: the columns of DATA without the embedding, reward, "
        "and reward_std (spread over the members)",
    )
    embedding(sub)
    sub.add_argument(
        "--actions",
        metavar="COLUMNS",
        help="also write what is known after these actions: p_preferred, and p_PA, p_NA, p_PP, "
        "p_NP (preferred or not, active or passive)",
    )

    sub = command(report, "implicitrm report reward log.parquet --new policy.parquet")
    sub.add_argument("model", metavar="MODEL", help="what fit saved")
    sub.add_argument("log", metavar="LOG", help="the log it was fitted on (.parquet or .jsonl)")
    sub.add_argument(
        "--actions",
        metavar="COLUMNS",
        help=f"{actions}those of fit; action, action_* for a model that was fitted in Python on "
        "arrays)",
    )
    sub.add_argument(
        "--new",
        metavar="FILE",
        help="responses to compare with the log: does the reward extrapolate there?",
    )
    embedding(sub)
    groups(sub)
    side_information(sub)

    sub = command(export, "implicitrm export reward rm --as transformers")
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
        "embeddings, needed if MODEL was fitted on vectors; else where it is now, if it moved",
    )
    sub.add_argument(
        "--no-custom-code",
        action="store_true",
        help="fail where the transformers model needs a class of its own (trust_remote_code)",
    )
    sub.add_argument("--log", metavar="FILE", help="log with prompt and response")
    sub.add_argument("--actions", metavar="COLUMNS", help="of the log: use what users did, too")
    embedding(sub)
    sub.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="leave out what is below"
    )
    sub.add_argument(
        "--min-margin", type=float, default=0.0, metavar="GAP", help="least reward gap of a pair"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
