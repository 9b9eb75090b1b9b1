"""The commands: one public function for each, whose docstring is the help of the command."""

import ast
import json
import math
import os
import shlex
import sys
import time
import warnings
from inspect import signature

from .._paths import local_path
from ..exceptions import ImplicitRMError
from ._events import Events, check_turn
from ._feedback import LABELS, WEIGHTS, Feedback, as_label
from ._options import (
    ACTIONS,
    EVENTS,
    READ,
    SIDE,
    SILENT,
    WHEN,
    check_among_actions,
    choices,
    correlated_columns,
    default_actions,
    grades,
    kinds_of,
    late_columns,
    signal_of,
    split_names,
    text_columns,
    used,
)
from ._results import check_writable, write_frame
from ._table import Table, names_of
from ._terminal import add_progress, fitting, note, say, tell, working
from ._words import OPTIONS, in_own_words

# Slow imports come after the checks that a command can do without them.


def fit(args):
    """Learn a reward from a log and save it."""
    out = local_path(args.out)
    check_writable(out, force=args.force, read=[args.log])
    table = Table(args.log)
    settings = _settings(args)
    X = table.features(args, settings=settings)
    feedback = Feedback(table, args)
    y, signals, side = feedback.named()
    settings |= _signals(args, settings, signals)
    import numpy as np

    from .._estimator import ImplicitRewardEstimator

    _check_settings(settings, ImplicitRewardEstimator)
    say(feedback.describe(y, signals, X))
    _say_left_out(table, args, X)
    if args.embedder is not None:
        settings["embedder"] = _embedder(args, len(X))
    est = ImplicitRewardEstimator(**settings)
    add_progress(est)
    began = time.monotonic()
    est.fit(X, y if y.shape[1] > 1 else y.iloc[:, 0].to_numpy(), **side)
    est.signal_names_in_ = np.asarray(list(y), dtype=object)  # an array of one action has none
    if widgets := choices(args.choice):
        silent = {name: widget.view for name, widget in widgets.items() if widget.null == SILENT}
        est.null_is_silent_ = silent
    say(f"Fitted in {est.n_iter_} epochs, {time.monotonic() - began:.0f} s.")
    losses = [record["valid_loss"] for record in est.history_ if "valid_loss" in record]
    if losses:
        best = np.mean(np.nanmin(np.asarray(losses, dtype=float), axis=0))
        unit = " nats per row" if est.objective_.models_actions else ""
        say(f"Held-out criterion: {best:.4f}{unit} (lower is better).")
    _say_identification(est.identification_)
    est.save(out, users=args.keep_users)
    say(f"Saved: {out} (README.md in it is the model card).")
    objective = est.objective_
    if (
        est.identification_.level == "identified"
        and objective.models_propensity
        and not objective.single_signal
    ):
        names = (*READ, "groups", *SIDE, "late", *EVENTS, *WHEN)
        options = [
            part
            for name in names
            if getattr(args, name) is not None
            for part in (f"--{name.replace('_', '-')}", getattr(args, name))
        ]
        command = shlex.join(["implicitrm", "report", args.out, args.log, *options])
        say(f"Whether this log is large enough to show it: {command}")


def inspect(args):
    """Show what a log holds and what it would identify, without a model."""
    late, signals = late_columns(args.late), None
    names = names_of(args.log) if args.events is not None or args.infer is not None else None
    kinds = kinds_of(args, lambda: names_of(args.log) if names is None else names)
    if kinds is None and (late or args.correlated is not None):
        kinds = dict.fromkeys(default_actions(names_of(args.log)), "positive")
    if kinds is not None:
        check_among_actions("--late", late, kinds)
        correlated = correlated_columns(args, kinds)
        signals = {name: signal_of(kind, name, late, correlated) for name, kind in kinds.items()}
    settings = _settings(args)
    said = used(args, ("negative", "choice", "graded", "late", "correlated"))
    settings |= _signals(args, settings, list(signals.values()) if said else None)
    shown = settings.get("signals")
    if signals is not None and isinstance(shown, list) and len(shown) == len(signals):
        signals = dict(zip(signals, shown, strict=True))
    data = _read_to_inspect(args, signals, names)
    say(str(data.summary))
    if data.actions is None:
        note("note: no column is known to hold actions: name them by --actions and --negative.")
        return
    import numpy as np

    from .._estimator import ImplicitRewardEstimator
    from .._features import select_features
    from .._fit import expected_users, identify
    from .._identification import NOT_IDENTIFIED

    _check_settings(settings, ImplicitRewardEstimator)
    est = ImplicitRewardEstimator(**{"signals": data.signals} | settings)
    table = Table(args.log) if args.labels or args.weight or _is_csv(args.log) else None
    _note_vectors(table, args, data)
    named = (("labels", args.labels, LABELS), ("sample_weight", args.weight, WEIGHTS))
    side = {
        name: table.numbers([column], what=what)[column].to_numpy()[data.row]
        for name, column, what in named
        if column is not None
    }
    if args.user is not None:
        side["user_id"] = data.user_id
    for name in ("response_id", "exposures"):
        if data[name] is not None:
            side[name] = data[name]
    if late:
        # How old the rows are says nothing of what they identify.
        side["age"] = np.ones(len(data.actions))
    n = len(data.actions)
    select_features(est, np.zeros((n, 1)), reset=True)  # whatever the columns are
    log, _ = identify(est, n, data.actions, side)
    if log.user is not None:
        expected_users(est, log)
    _say_identification(est.identification_)
    if est.identification_.level != NOT_IDENTIFIED:
        tell("Nothing is fitted here. `fit` also tests the log, and may then say less.")


def _is_csv(path):
    from ..datasets._records import Records

    return Records(path).is_csv


def _note_vectors(table, args, data):
    """Say what is wrong with columns of numbers that fit takes as the embedding."""
    if table is None or data.X is not None:
        return
    try:
        names = table.feature_columns(args)
    except ImplicitRMError:  # a log without vectors can be inspected
        return
    try:
        if len(names) > 1:
            table.features(args)
    except ImplicitRMError as error:
        note(f"note: fit will refuse this: {error}")


def _read_to_inspect(args, signals, names):
    """Return the log with its actions; `names` are its columns if not all actions are of them."""
    from ..datasets._read import read_log

    nulls = {name: widget.nulls for name, widget in choices(args.choice).items()}
    nulls = {name: null for name, null in nulls.items() if null is not None}
    columns = {"embedding": args.embedding, "user_id": args.user, "prompt_id": args.groups}
    columns |= {"time": args.time, "conversation_id": args.conversation}
    if args.embedding is not None and args.embedding.endswith("*"):
        columns.pop("embedding")  # columns of numbers, which the summary does not look at
    columns |= text_columns(args) | {"response_id": args.response_id}
    kept = [name for name in (args.labels, args.weight) if name is not None]
    window, of_log, ids = args.window, signals, {}
    log = local_path(args.log).name
    if names is not None:
        events = Events(args)
        of_log = {name: kind for name, kind in (signals or {}).items() if name in names}
        made = {name: kind for name, kind in (signals or {}).items() if name not in names}
        check_turn(args.window, list(of_log), log)
        made = events.kinds(made, names, log)
        ids = events.id_of(names, log)
        # Else --response-id says which rows are exposures of one response.
        columns |= {role: name for role, name in ids.items() if columns.get(role) is None}
        window = args.window if of_log else None
    data = read_log(
        args.log,
        of_log,
        columns,
        kept,
        window,
        args.now,
        exposures=None if args.exposures is None else split_names(args.exposures),
        nulls=nulls,
        needs_features=False,
        label_of=as_label,
    )
    if names is None:
        return data
    client = args.client or "client"
    if args.tracked is not None and (args.client is not None or client in names):
        ids["client"] = client
    data = events.actions(_shown(data, args, log, columns, ids), made)
    data.actions, data.signals = data.actions[list(signals)], signals
    return data


def _shown(data, args, log, columns, ids):
    """Return the columns of a log that was read that events are matched with, by role."""
    import pandas

    from ..datasets._by_role import ByRole
    from ..datasets._events import OF_RESPONSES

    shown = ByRole(data, OF_RESPONSES, log, pandas)
    for role, name in ids.items():
        if columns.get(role) != name:
            values = pandas.Series(Table(args.log).ids(name), dtype=object)
            shown.columns[role] = values.iloc[data.row].reset_index(drop=True)
            shown.called[role] = name
    return shown


def predict(args):
    """Add the reward to every response of a file."""
    out = local_path(args.out)
    check_writable(out, kinds=(".parquet", ".jsonl"), force=args.force, read=[args.data])
    est = _load(args.model)
    table = Table(args.data)
    X = table.features(args, est)
    reward, std = est.predict(X, return_std=True)
    found = {"reward": reward.astype(float), "reward_std": std.astype(float)}
    if args.actions is not None:
        feedback = Feedback(table, args)
        y = feedback.actions_of(est)
        y = y.iloc[:, 0].to_numpy() if est.one_dimensional_ else y
        groups = est.predict_proba(X, y, **_known_of_rows(est, feedback)).astype(float)
        for name, column in zip(est.group_names_, groups.T, strict=True):
            found[f"p_{name}"] = column
        found["p_preferred"] = found["p_PA"] + found["p_PP"]
    table.write(out, found, leave_out=table.feature_columns(args, est))
    if table.kept is not None:
        n = table.summary.n_read - table.summary.n_rows
        what = (
            "row without an assistant turn is" if n == 1 else "rows without an assistant turn are"
        )
        note(f"note: {n:,} {what} left out.")
    spread = f"mean spread {std.mean():.3f}"
    if math.isnan(std.mean()):
        spread = "no spread, since the model has one member"
    say(f"{len(reward):,} rewards, mean {reward.mean():.3f}, {spread}: {out}")


def report(args):
    """Report what a log identifies of the reward, and how far other responses are from it."""
    from .. import inspection

    est = _load(args.model)
    table = Table(args.log)
    X = table.features(args, est)
    X = _vectors(est, X)
    if args.new is None:
        _check_users(est, args)
        y, side = Feedback(table, args).of(est)
        with fitting(est, f"Fitting the settings of {args.model} from {args.n_starts} starts"):
            found = inspection.identification_report(est, X, y, n_starts=args.n_starts, **side)
        say(in_own_words(str(found)))
        return
    unused = used(args, (*ACTIONS, *SIDE))
    unused += ["--n-starts"] * ("--n-starts" in args.given)
    if unused:
        raise ImplicitRMError(
            f"{unused[0]} has no effect with --new, which compares responses, not actions. Leave "
            "one of them out."
        )
    groups = table.groups(args)
    new = Table(args.new)
    X_new = _vectors(est, new.features(args, est))
    with warnings.catch_warnings(), working("Comparing the responses"):
        warnings.simplefilter("ignore")  # the report says it
        found = inspection.shift_report(
            est, X_new, X, groups_new=new.groups(args), groups_log=groups
        )
        say(str(found))


def interval(args):
    """Give every response its reward with an interval, by fits to a log with other weights."""
    out = local_path(args.out)
    read = [args.log, args.model, *([] if args.new is None else [args.new])]
    check_writable(out, kinds=(".parquet", ".jsonl"), force=args.force, read=read)
    est = _load(args.model)
    table = Table(args.log)
    _check_users(est, args)
    X = _vectors(est, table.features(args, est))
    y, side = Feedback(table, args).of(est)
    new = table if args.new is None else Table(args.new)
    X_new = X if args.new is None else _vectors(est, new.features(args, est))
    from ..inspection import reward_interval

    with fitting(est, f"Fitting the log, and {args.replicates} replicates side by side"):
        found = reward_interval(
            est, X, y, X_new, n_bootstrap=args.replicates, confidence=args.confidence, **side
        )
    columns = {"reward": found.reward, "reward_low": found.low, "reward_high": found.high}
    columns = {name: values.astype(float) for name, values in columns.items()}
    new.write(out, columns, leave_out=new.feature_columns(args, est))
    width = float((found.high - found.low).mean())
    tell(in_own_words(f"The reward is {found.identification}."))
    say(
        f"{len(found.reward):,} rewards, {args.confidence:.0%} intervals, mean width {width:.3f}: "
        f"{out}"
    )


def sensitivity(args):
    """Show how the reward, and a comparison of groups, change if an assumption is broken."""
    if args.out is not None:
        check_writable(
            local_path(args.out), (".parquet", ".jsonl"), force=args.force, read=[args.log]
        )
    violations = _violations(args.violation)
    if args.by is None and args.reference is not None:
        raise ImplicitRMError(
            "--reference names a group, but --by is missing. Pass --by COLUMN, the group of each "
            "row."
        )
    from ..inspection import sensitivity_report

    est, table, X, y, side = _log_of(args, sensitivity_report)
    by, reference = (None, None) if args.by is None else _compared(table, args, est)
    what = f"Fitting the settings of {args.model} to {args.n_folds} parts of the log"
    with fitting(est, f"{what}, and again under broken assumptions"):
        found = sensitivity_report(
            est,
            X,
            y,
            by,
            reference=reference,
            violations=violations,
            n_folds=args.n_folds,
            **side,
        )
    say(in_own_words(str(found)))
    if args.out is not None:
        frame = found.to_frame()
        out = local_path(args.out)
        # Some amounts are names, and a column of parquet has one type.
        if out.suffix == ".parquet" and frame["violation"].isin(["left_out", "sign"]).any():
            frame["amount"] = frame["amount"].astype(str)
        write_frame(out, frame)
        say(f"Written: {args.out}")


def label_queue(args):
    """Write the responses whose labels would narrow the reward most, to ask about."""
    out = local_path(args.out)
    check_writable(out, (".parquet", ".jsonl"), force=args.force, read=[args.log, args.model])
    from ..inspection import label_queue as queue

    est, table, X, y, side = _log_of(args, queue)
    with fitting(est, f"Fitting the settings of {args.model} from several starts"):
        rows = queue(est, X, y, args.number, **side)
    table.kept = rows if table.kept is None else table.kept[rows]
    table.write(out, {"row": table.kept}, leave_out=table.feature_columns(args, est))
    tell(
        f"{len(rows):,} responses to ask about, the most useful first: {out}. Ask about all of "
        "them, whatever you expect. In fit, name the column of answers by --labels and add --set "
        "label_mechanism='asked', since these rows were not chosen at random."
    )


def _log_of(args, function):
    """Return the model, the log and what a function takes of it, X, y and the arguments beside."""
    est = _load(args.model)
    table = Table(args.log)
    takes = signature(function).parameters
    if "user_id" in takes:
        _check_users(est, args)
    X = _vectors(est, table.features(args, est))
    y, side = Feedback(table, args).of(est)
    unknown = [name for name in side if name not in takes]
    if "user_id" not in takes and hasattr(est, "user_loading_"):
        unknown.append("user_id")
    if unknown:
        option = OPTIONS[unknown[0]]
        raise ImplicitRMError(
            f"{option} is not available with implicitrm {args.command}, which does not model it. "
            f"Leave it out, and use a model that was fitted without {option}."
        )
    return est, table, X, y, side


def _violations(texts):
    """Return the amounts to try by kind of violation, None for the default."""
    found = {}
    for text in texts:
        kind, equals, amounts = text.partition("=")
        if not equals or not amounts or kind in found:
            raise ImplicitRMError(
                f"--violation {text}: expected KIND=AMOUNT,AMOUNT, each KIND once. Write for "
                "example not_looked_at=0.1,0.3."
            )
        named = kind in ("left_out", "sign")
        try:
            found[kind] = [part if named else float(part) for part in amounts.split(",")]
        except ValueError:
            raise ImplicitRMError(
                f"--violation {text}: expected numbers after {kind}=. Correct it."
            ) from None
    return found or None


def _known_of_rows(est, feedback):
    """Return what a model takes beside the actions of rows: who acted, and how old the rows are."""
    known, args = {}, feedback.args
    if args.user is not None:
        known["user_id"] = feedback.table.ids(args.user)
    elif hasattr(est, "user_loading_"):
        note(
            f"note: {args.model} was fitted with --user. Without it, each user counts as one of "
            "average activity."
        )
    if any("age" in signal.takes for signal in est.signals_):
        option = "--actions of a model with --late"
        if args.now is None:
            raise ImplicitRMError(
                f"{option}: how old the rows are is not known. Add --now, the time of the export, "
                "or leave --actions out."
            )
        known["age"] = feedback.ages(option)
    return known


def _compared(table, args, est=None):
    """Return the group of each row, and the reference among the groups.

    `est` is the fitted model, which knows the names of its actions.
    """
    import pandas

    kinds = {name: getattr(args, name, None) for name in ("actions", "negative")}
    named = [name for given in kinds.values() if given for name in split_names(given)]
    described = [*choices(args.choice), *grades(args.graded)]
    if args.by in (*named, *described, *getattr(est, "signal_names_in_", ())):
        raise ImplicitRMError(
            f"--by {args.by} is one of the actions; expected groups of responses, such as the "
            "model that wrote them. Name another column."
        )
    by = pandas.Series(table.ids(args.by), name=args.by)
    missing = by.isna().to_numpy()
    if missing.any():
        n = int(missing.sum())
        raise ImplicitRMError(
            f"--by: column {args.by!r} of {table.name} is empty in {n:,} row{'s' * (n > 1)}; the "
            f"first is {table.place(missing.argmax())}. Leave these rows out, or give them a group "
            "of their own."
        )
    known = {str(label): label for label in by.unique()}
    return by, known.get(args.reference, args.reference)


def fine_tune(args):
    """Train the language model of a reward together with its heads, and save both."""
    out = local_path(args.out)
    check_writable(out, force=args.force, read=[args.model, args.log])
    settings = _given(args.set)
    if args.resume:
        settings["resume_from_checkpoint"] = True
    est = _load(args.model)
    table = Table(args.log)
    if getattr(est, "embedder_", None) is None:
        raise ImplicitRMError(
            f"{args.model} was fitted on vectors, so there is no language model to train. Fit it "
            "with --embedder MODEL."
        )
    X = table.texts(args, beside=getattr(est, "side_columns_", ()))
    y, side = Feedback(table, args).of(est)
    from ..integrations import fine_tune as tune

    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
    settings.setdefault("disable_tqdm", not is_first)
    began = time.monotonic()
    tuned = tune(
        est,
        X,
        y,
        output_dir=args.folder,
        lora=not args.full,
        args=settings,
        eval_fraction=args.eval_fraction,
        **side,
    )
    if not is_first:
        return
    if tuned is est:
        say("Not saved: the tuned model is not better than the one given.")
        return
    run = tuned.fine_tuning_
    say(
        f"Tuned in {run['steps']:,} steps, {time.monotonic() - began:.0f} s. Log-likelihood per "
        f"held-out response: {run['log_likelihood']:.4f}, before "
        f"{run['log_likelihood_frozen']:.4f}."
    )
    _say_identification(tuned.identification_)
    tuned.save(out)
    say(f"Saved: {out} (README.md in it is the model card).")


def compare(args):
    """Compare which group of responses users prefer: models, prompt versions, days."""
    if args.out is not None:
        check_writable(
            local_path(args.out), (".parquet", ".jsonl"), force=args.force, read=[args.log]
        )
    table = Table(args.log)
    settings = _settings(args)
    X = table.features(args, settings=settings)
    by, reference = _compared(table, args)
    y, signals, side = Feedback(table, args).named()
    settings |= _signals(args, settings, signals)
    if args.user is not None and args.groups is None:
        side["groups"] = None  # users are the independent parts, unless prompts are named too
    from .._estimator import ImplicitRewardEstimator
    from ..inspection import compare_groups

    _check_settings(settings, ImplicitRewardEstimator)
    if args.embedder is not None:
        settings["embedder"] = _embedder(args, len(X))
    est = ImplicitRewardEstimator(**settings)
    with fitting(est, f"Fitting {args.n_folds} parts of the log"):
        comparison = compare_groups(
            est,
            X,
            y,
            by,
            reference=reference,
            same_prompts=args.same_prompts,
            n_folds=args.n_folds,
            confidence=args.confidence,
            **side,
        )
    say(in_own_words(str(comparison)))
    if args.out is not None:
        write_frame(local_path(args.out), comparison.to_frame().reset_index())
        say(f"Written: {args.out}")


def export(args):
    """Convert a saved reward into a form that other tools read."""
    if args.kind != "hub":
        out = local_path(args.out)
        kinds = None if args.kind == "transformers" else (".parquet", ".jsonl")
        check_writable(out, kinds, force=args.force, read=[args.model, args.log or args.model])
    est = _load(args.model)
    if args.kind == "transformers":
        from ..integrations import to_transformers

        if args.base_model is None and getattr(est, "embedder_", None) is None:
            raise ImplicitRMError(
                f"{args.model} was fitted on vectors, but --base-model is missing. Pass "
                "--base-model MODEL, the language model (hub name or folder) that made them."
            )
        found = to_transformers(
            est, args.base_model, out, custom_code=False if args.no_custom_code else None
        )
        say(f"Written: {found}")
    elif args.kind == "hub":
        say(f"Uploaded: {est.push_to_hub(args.out, private=True)}")
    else:
        from ..integrations import to_preference_dataset

        if args.log is None:
            raise ImplicitRMError(
                f"--as {args.kind} needs --log FILE, the log to take responses from. Give both."
            )
        table = Table(args.log)
        texts = table.texts(args, with_id=True)
        actions, known = None, {}
        if args.actions is not None:
            feedback = Feedback(table, args)
            actions = feedback.actions_of(est)
            actions = actions.iloc[:, 0].to_numpy() if est.one_dimensional_ else actions
            known = _known_of_rows(est, feedback)
        found = to_preference_dataset(
            est,
            texts,
            form=args.kind,
            X=None if getattr(est, "embedder_", None) is not None else table.features(args, est),
            actions=actions,
            **known,
            min_confidence=args.min_confidence,
            min_margin=args.min_margin,
            output="pandas",
        )
        write_frame(out, found)
        say(f"{len(found):,} {'pairs' if args.kind == 'paired' else 'rows'}: {out}")
        if found.empty:
            note(f"note: {out} is empty. {_why_empty(args, texts)}")


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
        f"None of the {several:,} prompts with two or more responses has two different ones whose "
        f"rewards differ as {limits} ask. Lower them."
    )


def _vectors(est, X):
    """Return text as vectors, so that it is embedded once; with columns beside it, as it is."""
    from .._tables import is_numeric

    embedder = getattr(est, "embedder_", None)
    if embedder is None or getattr(est, "side_columns_", ()) or is_numeric(X):
        return X
    return embedder.transform(X)


def _load(path):
    from .._estimator import ImplicitRewardEstimator

    return ImplicitRewardEstimator.load(path)


def _embedder(args, n_rows):
    """Return the embedder. Its progress bar is for a terminal only; others get one line."""
    from ..embedding import LLMEmbedder

    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        note(f"Embedding {n_rows:,} rows.")
    return LLMEmbedder(args.embedder, pooling=args.pooling, verbose=is_terminal)


def _settings(args):
    """Return the settings of the estimator from the options; each may be given once."""
    options = {
        "objective": args.objective,
        "preference_rate": _interval(args.preference_rate),
        "random_state": args.seed,
        "device": args.device,
    }
    given = _given(args.set)
    for name in set(given) & set(options):
        if OPTIONS[name] in args.given:
            raise ImplicitRMError(
                f"{OPTIONS[name]} and --set {name} say the same. Give one of them."
            )
    return options | given


def _say_left_out(table, args, X):
    """Say so if a log has user ids that a fit does not use."""
    if args.user is None and "user_id" in {*table.columns} - {
        *getattr(X, "columns", ()),
        args.groups,
    }:
        tell(
            "Column user_id is not used. Pass --user user_id if users may differ in activity: "
            "without it, all count as equally active."
        )


def _check_users(est, args):
    """Raise if a model knows users who differ, and a refit would not."""
    if args.user is None and hasattr(est, "user_loading_"):
        raise ImplicitRMError(
            f"{args.model} was fitted with --user, and this command fits its settings again. Pass "
            "--user with the column of user ids, or fit a model without it."
        )


def _signals(args, settings, signals):
    """Return what the columns of y show as a setting, unless a setting says it."""
    if signals is not None and "signals" in settings:
        option = used(args, ("negative", "choice", "graded", "late", "correlated"))[0]
        raise ImplicitRMError(f"{option} and --set signals both say what actions show. Give one.")
    return {} if signals is None else {"signals": signals}


def _given(texts):
    """Return the settings of --set by name, each given once."""
    given = {}
    for name, value in map(_setting, texts):
        if name in given:
            raise ImplicitRMError(f"--set {name} is given twice. Give it once.")
        given[name] = value
    return given


def _check_settings(settings, estimator):
    known = estimator().get_params()
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ImplicitRMError(
            f"--set {unknown[0]}=...: this setting does not exist. Choose one of "
            f"{', '.join(known)}."
        )
    from .._sklearn import validate_params

    validate_params(estimator(**settings))


def _setting(text):
    """Return name and value of a setting, in the form of Python or JSON, or as a string."""
    name, found, value = text.partition("=")
    if not found:
        raise ImplicitRMError(f"--set {text}: expected NAME=VALUE. Write for example dropout=0.5.")
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(value)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return name.strip(), tuple(value) if isinstance(value, list) else value


def _interval(text):
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 2):
        raise ImplicitRMError(
            f"--preference-rate {text}: expected a number, or LOW,HIGH. Write for example 0.3 or "
            "0.2,0.4."
        )
    return values[0] if len(values) == 1 else values


def _say_identification(found):
    tell(in_own_words(f"The reward is {found}: {found.reason}"))
    for advice in found.advice:
        tell(in_own_words(advice), "- ")
