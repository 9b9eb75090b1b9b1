"""Reading the file of a log: columns as the commands need them, with errors that name them."""

import contextlib
import json
from pathlib import Path

from .._optional import import_optional
from .._tables import as_values
from ..datasets._records import Records, check_once
from ..datasets._times import as_times, check_kinds, windows_open
from ..exceptions import ImplicitRMError
from ._events import Events
from ._options import (
    SIDE,
    SILENT,
    UNLOGGED,
    Grades,
    Widget,
    correlated_columns,
    default_actions,
    has_labels,
    kinds_of,
    late_columns,
    named_columns,
    signal_of,
    split_names,
    text_columns,
)
from ._results import as_json, in_place, strict
from ._terminal import listing, note

EMBEDDING = "embedding"
#: Columns of prompts if --groups does not name one; the first one found is used.
GROUPS = ("prompt_id", "prompt")
#: Columns of times if --time does not name one; the first one found is used.
TIMES = ("time", "timestamp", "created_at")


class Table:
    """The files of a log, whose columns are read when they are needed.

    Parameters
    ----------
    path : str
        A file, or a folder whose files are read in the order of their names.

    Attributes
    ----------
    summary : LogSummary or None
        The summary of the reader of text, once the text is read.
    kept : ndarray of int or None
        The rows that have a response, if some do not.
    """

    def __init__(self, path):
        records = Records(path)
        self.path, self.name, self.files = Path(path), records.name, records.files
        self.summary = self.kept = self._groups = self._values = None
        self._acted = {}
        empty = next((file for file in self.files if file.stat().st_size == 0), None)
        if empty is not None:
            raise ImplicitRMError(f"{empty.name} is empty (0 bytes). Export it again.")
        if all(file.suffix.lower() == ".parquet" for file in self.files):
            self._parquet = import_optional("pyarrow.parquet", "data", "Reading a log")
            opened = [self._opened(file) for file in self.files]
            self._names = [list(file.schema_arrow.names) for file in opened]
            for file, names in zip(self.files, self._names, strict=True):
                check_once(names, file.name)
            self.columns = list(dict.fromkeys(name for names in self._names for name in names))
            self.n_rows = sum(file.metadata.num_rows for file in opened)
        else:
            self._values, self._keys = _columns_of(records)
            self.columns, self.n_rows = list(self._values), len(self._keys)
        if self.n_rows == 0:
            raise ImplicitRMError(f"{self.name} has no rows. Check the export.")

    def _opened(self, file):
        import pyarrow

        try:
            return self._parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise ImplicitRMError(
                f"{file.name} cannot be read as parquet ({first}). Export it again."
            ) from error

    def _read(self, names, join="default"):
        """Return columns as an Arrow table; a column that a file lacks is null in its rows.

        `join` is how the types of several files are combined, see pyarrow.concat_tables.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ImplicitRMError(
                f"{self.name} has no column {', '.join(map(repr, missing))}. Its columns are "
                f"{listing(self.columns)}."
            )
        import pyarrow

        if self._values is not None:
            table = pyarrow.table({name: self._typed(name) for name in names})
        else:
            tables = []
            for file, there in zip(self.files, self._names, strict=True):
                found = [name for name in names if name in there]
                try:
                    tables.append(self._opened(file).read(found, use_pandas_metadata=False))
                except (pyarrow.ArrowException, OSError) as error:
                    first = str(error).splitlines()[0]
                    raise ImplicitRMError(
                        f"{file.name} cannot be read as parquet ({first}). Export it again."
                    ) from error
            try:
                table = tables[0]
                if len(tables) > 1:
                    table = pyarrow.concat_tables(tables, promote_options=join).select(names)
            except pyarrow.ArrowException as error:
                first = str(error).splitlines()[0]
                raise ImplicitRMError(
                    f"the files of {self.name} hold a column in several types: {first}. Write "
                    "them with one type, or write .jsonl."
                ) from error
        return table if self.kept is None else table.take(self.kept)

    def _typed(self, name):
        import pyarrow

        try:
            return pyarrow.array(self._values[name], from_pandas=False)
        except (pyarrow.ArrowException, OverflowError) as error:
            first = str(error).splitlines()[0]
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds values of several types ({first}); expected "
                "one. Convert them, or name another column. Results with such a column can be "
                "written as .jsonl."
            ) from error

    def ids(self, name):
        """Return a column of ids of any type, None where they are missing."""
        if self._values is not None and name in self._values:
            values = self._values[name]
            return as_values(values if self.kept is None else [values[row] for row in self.kept])
        return as_values(self._read([name], "permissive").column(name))

    def _times(self, args, option):
        """Return the time of each row, and what it is in words."""
        names = [args.time] if args.time else [name for name in TIMES if name in self.columns]
        if len(names) != 1:
            raise ImplicitRMError(
                f"{option} needs the time of each row: name its column by --time. "
                f"The columns of {self.name} are {listing(self.columns)}."
            )
        return as_times(self.ids(names[0]), lambda row: f"row {row}", names[0])

    def _open_windows(self, args):
        """Return in which rows the window of the actions is still open, None without a window."""
        if args.window is None:
            return None
        times, kind = self._times(args, f"--window {args.window}")
        return windows_open(times, kind, args.window, args.now)

    def _waits(self, args, names):
        """Return `age` and `delay` of `fit` where actions may come late."""
        late = late_columns(args.late)
        if not late:
            return {}
        unknown = [name for name in late if name not in names]
        if unknown:
            raise ImplicitRMError(
                f"--late names {listing(unknown)}, which is not among --actions and --negative. "
                "Name it there too."
            )
        waits = {"age": self.ages(args, f"--late {args.late}")}
        columns = [name for name in late.values() if name is not None]
        if columns:
            delays = self.numbers(columns)
            waits["delay"] = self._blank(names)
            for name, column in late.items():
                if column is not None:
                    waits["delay"][:, names.index(name)] = delays[column]
        return waits

    def ages(self, args, option):
        """Return how long before --now each row was shown; `option` needs it."""
        times, kind = self._times(args, option)
        now = args.now
        if kind == "numbers":
            with contextlib.suppress(ValueError):
                now = float(now)
        (now,), kind_of_now = as_times([now], lambda _: "now", "--now")
        check_kinds({"the time of a row": kind, "--now": kind_of_now})
        return now - times

    def _blank(self, names):
        import numpy as np

        return np.full((self.n_rows, len(names)), np.nan)

    def numbers(self, names, labels=()):
        """Return columns of numbers as a DataFrame of floats, NaN where they are empty.

        Columns of `labels` are returned unchanged.
        """
        import pandas
        import pyarrow

        table = self._read([name for name in names if name not in self._acted], "permissive")
        columns = {}
        for name in names:
            if name in self._acted:
                columns[name] = self._acted[name]
                continue
            column = table.column(name)
            kind = column.type
            if name in labels:
                columns[name] = column.to_pandas().to_numpy()
                continue
            if pyarrow.types.is_boolean(kind):
                column = column.cast(pyarrow.int8())
            elif not (
                pyarrow.types.is_integer(kind)
                or pyarrow.types.is_floating(kind)
                or pyarrow.types.is_decimal(kind)
                or pyarrow.types.is_null(kind)
            ):
                example = next((value for value in column.to_pylist() if value is not None), None)
                raise ImplicitRMError(
                    f"column {name!r} of {self.name} holds {kind} ({str(example)[:40]!r}); "
                    "expected numbers (1 acted, 0 did not, or a degree), or nothing (null, "
                    "NaN). Convert it."
                )
            columns[name] = column.to_pandas().astype(float).to_numpy()
        return pandas.DataFrame(columns)

    def action_columns(self, given):
        """Return the names of the columns of actions."""
        if given is not None:
            return split_names(given)
        found = default_actions(self.columns)
        if not found:
            raise ImplicitRMError(
                "which columns are actions? Pass --actions NAME,NAME (for example copied,shared). "
                f"The columns of {self.name} are {listing(self.columns)}."
            )
        return found

    def signed_columns(self, args):
        """Return the names of all columns of actions, and what each shows, as options say it."""
        kinds = kinds_of(args, lambda: self.columns)
        return dict.fromkeys(self.action_columns(None), "positive") if kinds is None else kinds

    def feedback(self, args):
        """Return y, what its columns show as signals, and what `fit` takes beside them.

        The signals are None where all are positive actions.
        """
        kinds = self.signed_columns(args)
        late = late_columns(args.late)
        wrong = [name for name in late if isinstance(kinds.get(name), tuple)]
        if wrong:
            raise ImplicitRMError(
                f"--late names {wrong[0]!r}, which --choice or --graded describes. Only actions "
                "may come late: name it by --actions or --negative."
            )
        names = list(kinds)
        self._read_events(args, kinds)
        y = self._labelled(names, {k: kind for k, kind in kinds.items() if has_labels(kind)})
        side = self.side_information(args) | self._waits(args, names)
        y = self._without_open(y, args)
        correlated = correlated_columns(args, kinds)
        if not late and not correlated and all(kind == "positive" for kind in kinds.values()):
            return y, None, side
        signals = [signal_of(kind, name, late, correlated) for name, kind in kinds.items()]
        return y, signals, side

    def _read_events(self, args, kinds, *, known=False):
        """Make the actions that are kinds of events, if there are events.

        Parameters
        ----------
        kinds : dict
            The preference that each column of actions shows, as options say it.
        known : bool, default=False
            As in `Events.kinds`.
        """
        if args.events is None:
            return
        import pandas

        wanted = {
            name: kind if isinstance(kind, str) else "positive"
            for name, kind in kinds.items()
            if name not in self.columns and not isinstance(kind, Widget | Grades)
        }
        events = Events(args)
        role, column = events.id_of(self.columns, self.name)
        roles = {role: column, "user_id": args.user or "user_id", "time": args.time}
        if args.time is None:
            found = [name for name in TIMES if name in self.columns]
            roles["time"] = found[0] if len(found) == 1 else None
        if args.user is None and "user_id" not in self.columns:
            del roles["user_id"]
        rows = {
            role: pandas.Series(self.ids(name), dtype=object)
            for role, name in roles.items()
            if name is not None
        }
        kinds = events.kinds(wanted, self.columns, self.name, known=known)
        data = events.actions(pandas.DataFrame(rows), role, kinds)
        self._acted = {name: data.actions[name].to_numpy() for name in wanted}
        events.report(data.summary)

    def _without_open(self, y, args):
        is_open = self._open_windows(args)
        if is_open is not None:
            y[is_open] = None
            y = y.astype({name: float for name in y if y[name].dtype != object})
            note(f"{is_open.sum():,} rows whose window of {args.window} is not closed: not logged.")
        return y

    def _labelled(self, names, kinds, others=()):
        """Return y, whose columns of widgets and categories are objects of text.

        Columns of `others` are returned as they are.
        """
        y = self.numbers(names, [*kinds, *others])
        for name, kind in kinds.items():
            y[name] = self._labels(name, y[name], kind)
        return y

    def _labels(self, name, values, kind):
        """Return labels as objects of text, missing where nothing was logged."""
        import numpy as np
        import pandas

        from .._validation import is_missing

        is_widget = isinstance(kind, Widget)
        option = "--choice" if is_widget else "--graded"
        known = {*kind.outcomes, kind.silent} if is_widget else set(kind.bins)
        missing = is_missing(np.asarray(values, dtype=object))
        found = np.full(len(values), None, dtype=object)
        if is_widget and kind.null == SILENT:
            in_view = self._in_view(kind.view)
            found[missing & in_view] = kind.silent
            if (odd := ~missing & ~in_view).any():
                note(f"note: {odd.sum():,} rows have {name!r} although {kind.view!r} is not 1.")
        for row, value in enumerate(values):
            if missing[row]:
                continue
            text = as_label(value)
            if text not in known:
                raise ImplicitRMError(
                    f"column {name!r} of {self.name} holds {text[:40]!r} in row {row}, which has "
                    f"no meaning; expected one of {listing(sorted(filter(None, known)))}. Correct "
                    f"it, or add it to {option}."
                )
            found[row] = text
        if is_widget and kind.null is None and missing.any() and kind.silent not in found:
            raise ImplicitRMError(
                f"column {name!r} of {self.name} is empty in {missing.sum():,} of {len(found):,} "
                f"rows (the first: row {missing.argmax()}), and no row holds {kind.silent!r}, its "
                "value for silence. Add null=silent to --choice if users chose nothing there, or "
                "null=unlogged if the widget was not offered."
            )
        return pandas.Series(found, dtype=object)

    def _in_view(self, name):
        """Return where a column says that a widget was in view; everywhere without one."""
        import numpy as np

        if name is None:
            return np.ones(self.n_rows, dtype=bool)
        seen = self.numbers([name])[name].to_numpy()
        wrong = ~np.isnan(seen) & (seen != 0) & (seen != 1)
        if wrong.any():
            row = wrong.argmax()
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds {seen[row]:g} in row {row}; expected 1 "
                "where the widget was in view, else 0 or nothing. Convert it, or name another "
                "column behind null=silent@."
            )
        return seen == 1

    def actions_of(self, est, args):
        """Return y for a fitted estimator: the columns given, else those of its fit.

        The name of a column decides which signal it is, not its position.
        """
        known = getattr(est, "signal_names_in_", None)
        kinds = {}
        if any(getattr(args, name, None) for name in ("negative", "choice", "graded")):
            kinds = self.signed_columns(args)
            names = list(kinds)
        elif args.actions or known is None:
            names = self.action_columns(args.actions)
        else:
            names = list(known)
        if len(names) != est.n_signals_:
            fitted = "" if known is None else f" ({listing(known)})"
            raise ImplicitRMError(
                f"the model was fitted with {est.n_signals_} columns of actions{fitted}, but here "
                f"are {len(names)}: {listing(names)}. Name the columns of its fit by --actions."
            )
        if known is not None and set(names) == set(known):
            names = list(known)
        from ..signals import Action, Choice, Graded, Signal

        signals = dict(zip(names, est.signals_, strict=True))
        asked = est.signals if isinstance(est.signals, dict) else {}
        if isinstance(est.signals, list | tuple):
            asked = dict(zip(names if known is None else known, est.signals, strict=True))
        for name, kind in kinds.items():
            shown = signal_of(kind, name, {})
            # The bins of grades are settled by fit.
            is_same = shown in (signals[name], asked.get(name))
            if isinstance(kind, str):
                target = int(kind == "positive")
                is_same = getattr(signals[name], "target", None) == target
            if not is_same:
                raise ImplicitRMError(
                    f"{name!r} is {kind if isinstance(kind, str) else shown!r} here, but the model "
                    f"was fitted with {signals[name]!r}. Name it as in fit, or fit anew."
                )
        unsaid = []
        for name, signal in signals.items():
            if isinstance(signal, Choice) and all(isinstance(o, str) for o in signal.outcomes):
                if name not in kinds and signal.silent is not None and not signal.given_reaction:
                    unsaid.append(name)
                kinds.setdefault(name, Widget.of(signal))
            elif isinstance(signal, Graded):
                kinds[name] = Grades(signal.target, signal.bins)
        signs = {
            name: "positive" if signal.shows == (1,) else "negative"
            for name, signal in signals.items()
            if isinstance(signal, Action)
        }
        self._read_events(args, signs, known=True)
        labelled = {k: kind for k, kind in kinds.items() if has_labels(kind)}
        others = [k for k, s in signals.items() if type(s).encode is not Signal.encode]
        y = self._labelled(names, labelled, [name for name in others if name not in kinds])
        for name in unsaid:
            if kinds[name].null == UNLOGGED and y[name].isna().any():
                note(
                    f"note: {name!r} is empty in {y[name].isna().sum():,} rows, which are not "
                    "logged. If fit had null=silent, pass the same --choice."
                )
        return self._without_open(y, args)

    def feedback_of(self, est, args):
        """Return y and what `fit` takes beside it, for a fitted estimator."""
        y = self.actions_of(est, args)
        late = late_columns(args.late)
        for name, signal in zip(y, est.signals_, strict=True):
            if ("age" in signal.takes) != (name in late):
                raise ImplicitRMError(
                    f"{name!r} was fitted {'with' if name not in late else 'without'} --late, but "
                    f"here it is the other way round. {'Add' if name not in late else 'Leave out'} "
                    f"--late {name}, as in fit."
                )
        side = self.side_information(args) | self._waits(args, list(y))
        return (y.iloc[:, 0].to_numpy() if est.one_dimensional_ else y), side

    def groups(self, args):
        """Return the prompt of each row, None if no column names it."""
        if args.groups is None and "prompt_id" not in self.columns and self._groups is not None:
            return self._groups  # equal prompts
        name = args.groups or next((name for name in GROUPS if name in self.columns), None)
        return None if name is None else self.ids(name)

    def side_information(self, args):
        """Return the arguments of `fit` other than X and y."""
        side = {}
        given = {name: getattr(args, name, None) for name in SIDE}
        for name, column in (("labels", given["labels"]), ("sample_weight", given["weight"])):
            if column is not None:
                side[name] = self.numbers([column])[column].to_numpy()
        if given["exposures"] is not None:
            side["exposures"] = self.numbers(split_names(given["exposures"])).to_numpy()
            if side["exposures"].shape[1] == 1:
                side["exposures"] = side["exposures"][:, 0]
        if given["response_id"] is not None:
            side["response_id"] = self.ids(given["response_id"])
        if given["user"] is not None:
            side["user_id"] = self.ids(given["user"])
        if args.groups or given["response_id"] is None:
            side["groups"] = self.groups(args)
        return side

    def feature_columns(self, args, est=None):
        """Return the names of the columns that X is made of, or none if it is text."""
        names = getattr(est, "feature_names_in_", None)
        if names is not None and args.embedding is None:
            return list(map(str, names))
        if getattr(est, "embedder_", None) is not None and args.embedding is None:
            return []
        name = args.embedding or EMBEDDING
        if name.endswith("*"):
            found = [column for column in self.columns if column.startswith(name[:-1])]
            if not found:
                raise ImplicitRMError(
                    f"{self.name} has no columns {name}. Its columns are {listing(self.columns)}."
                )
            return found
        if name not in self.columns:
            found = [column for column in self.columns if column.startswith(f"{EMBEDDING}_")]
            if args.embedding is None and found:
                return found
            raise ImplicitRMError(
                f"{self.name} has no column {name!r} with embeddings. Name it by --embedding (a "
                "column of lists, or PREFIX* for columns of numbers)"
                + ("" if est is not None else ", or pass --embedder MODEL to make them of the text")
                + f". Its columns are {listing(self.columns)}."
            )
        return [name]

    def features(self, args, est=None, settings=None):
        """Return X: vectors, or prompts and responses with the columns that settings name."""
        beside = getattr(est, "side_columns_", ())
        for name in ("reward_features", "propensity_features"):
            beside = (*beside, *named_columns((settings or {}).get(name)))
        if getattr(args, "embedder", None) is not None:
            if args.embedding is not None:
                raise ImplicitRMError(
                    "--embedder and --embedding both say what X is. Give one of them."
                )
            return self.texts(args, beside=beside)
        names = self.feature_columns(args, est)
        if not names:
            return self.texts(args, beside=beside)
        known = getattr(est, "feature_names_in_", None)
        if len(names) == 1 and (known is None or names != list(known)):
            return self._lists(names[0])
        if known is not None and set(names) == set(known):
            names = list(known)  # columns go by their names
        X = self.numbers(names)
        if est is None or known is not None:
            return X
        note(
            f"note: the model knows its columns by position only. Taken in the order of "
            f"{self.name}: {listing(names)}."
        )
        return X.to_numpy()

    def _lists(self, name):
        import numpy as np
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
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds {kind}; expected a list of numbers in each "
                "row, the embedding. Name another column by --embedding."
            )
        if column.null_count:
            raise ImplicitRMError(
                f"column {name!r} of {self.name} is empty in {column.null_count:,} of "
                f"{self.n_rows:,} rows; expected an embedding in each row. Leave these rows out."
            )
        lengths = column.value_lengths().unique().sort().to_pylist()
        if len(lengths) > 1:
            raise ImplicitRMError(
                f"the lists in column {name!r} of {self.name} have different lengths, from "
                f"{lengths[0]} to {lengths[-1]}; expected embeddings from one model. Compute them "
                "again."
            )
        values = column.flatten().to_numpy(zero_copy_only=False)  # NaN for missing values
        X = values.reshape(self.n_rows, -1)
        bad = ~np.isfinite(X).all(axis=1)
        if bad.any():
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds NaN or infinity in {bad.sum():,} rows; the "
                f"first is row {bad.argmax()}. Compute these embeddings again."
            )
        return X

    def texts(self, args, with_id=False, beside=()):
        """Return prompts and responses; rows whose chat has no response are left out everywhere.

        Columns of numbers beside the text may be missing: those that need them say so.
        """
        from ..datasets._read import read_log

        # The columns that `inspect` reads for the same options, so that it counts the same rows.
        named = [getattr(args, option, None) for option in (*SIDE, "groups", "time", "id")]
        if {"actions", "negative", "choice", "graded"} <= set(vars(args)):
            named += kinds_of(args, lambda: self.columns) or default_actions(self.columns)
        compared = [name for name in named if name in self.columns]
        data = read_log(self.path, {}, text_columns(args), compared=compared)
        if data.response is None:
            raise ImplicitRMError(
                f"{self.name} has no column that is known to hold text. Name it by --messages, or "
                f"--prompt and --response. Its columns are {listing(self.columns)}."
            )
        self.summary, self._groups = data.summary, data.groups
        if len(data.row) < self.n_rows:
            self.kept, self.n_rows = data.row, len(data.row)
        columns = {"prompt": data.prompt, "response": data.response}
        if data.prompt is None:
            columns = {"text": data.response}
        if "prompt_id" in self.columns and with_id:
            columns["prompt_id"] = self.ids("prompt_id")
        pandas = import_optional("pandas", "data", "Reading a log")
        frame = pandas.DataFrame({k: pandas.Series(v, dtype=v.dtype) for k, v in columns.items()})
        beside = [name for name in dict.fromkeys(beside) if name in self.columns]
        beside = [name for name in beside if name not in frame]
        return frame.assign(**self.numbers(beside)) if beside else frame

    def describe(self, y, signals, embedder, X):
        """Describe what was read, in words."""
        lines = [f"{self.name}: {self.n_rows:,} rows, embeddings of {X.shape[1]} columns"]
        if self.files[1:]:
            lines.append(f"  files: {len(self.files)}, in the order of their names")
        if embedder is not None:
            lines = [str(self.summary), f"  text for {embedder}"]
        signs = ["positive"] * y.shape[1] if signals is None else signals
        for (name, column), sign in zip(y.items(), signs, strict=True):
            logged = column.notna()
            if column.dtype == object:  # a widget, or categories
                counts = column[logged].value_counts()
                shown = ", ".join(f"{value} {n / logged.sum():.1%}" for value, n in counts.items())
                what = "logged" if hasattr(sign, "bins") else "offered"
                lines.append(f"  {name}: {what} in {logged.sum():,} rows: {shown}")
                continue
            if hasattr(sign, "bins"):
                low, median, high = column.quantile([0, 0.5, 1])
                shown = f"from {low:g} to {high:g}, median {median:g}"
                lines.append(f"  {name} (graded): logged in {logged.sum():,} rows, {shown}")
                continue
            rate = column[logged].mean() if logged.any() else float("nan")
            acted = f"acted in {rate:.1%} of them" if rate <= 1 else f"{column.sum():,.0f} actions"
            target = getattr(sign, "target", 0 if sign == "negative" else 1)
            sign = " (negative)" if target == 0 else ""
            lines.append(f"  {name}{sign}: logged in {logged.sum():,} rows, {acted}")
        return "\n".join(lines)

    def write(self, path, found, leave_out):
        """Write the columns of the file, except some, and new ones."""
        taken = sorted(set(found) & set(self.columns))
        if taken:
            raise ImplicitRMError(
                f"{self.name} has a column {taken[0]!r} already; rename it first."
            )
        names = [name for name in self.columns if name not in leave_out]
        if path.suffix == ".jsonl":
            in_place(path, lambda temporary: self._write_json(temporary, names, found))
            return
        import pyarrow.parquet

        table = self._read(names) if names else None
        for name, values in found.items():
            table = (
                pyarrow.table({name: values})
                if table is None
                else table.append_column(name, pyarrow.array(values))
            )
        in_place(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))

    def _write_json(self, path, names, found):
        """Write the values as they were read, because a table has no column of mixed types."""
        with open(path, "wb") as file:
            for number, record in enumerate(self._records(names)):
                record |= {name: values[number].item() for name, values in found.items()}
                record = {name: strict(value, name, number) for name, value in record.items()}
                settings = {"default": as_json, "allow_nan": False}
                try:
                    line = json.dumps(record, ensure_ascii=False, **settings).encode()
                except UnicodeEncodeError:  # half of an emoji
                    line = json.dumps(record, **settings).encode()
                file.write(line + b"\n")

    def _records(self, names):
        """Yield the rows as dicts; those of JSON have the fields that they had."""
        if self._values is None:
            for batch in self._read(names).to_batches():
                yield from batch.to_pylist() if names else ({} for _ in range(batch.num_rows))
            return
        wanted = set(names)
        for row in range(len(self._keys)) if self.kept is None else self.kept:
            yield {name: self._values[name][row] for name in self._keys[row] if name in wanted}


def as_label(value):
    """Return a value of a widget as it is written in --choice."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _columns_of(records):
    """Return columns as lists, and the fields of each row; lists of floats become arrays."""
    import numpy as np

    columns, keys, known = {}, [], {}
    for row, (_, record) in enumerate(records.read(list)):
        for name, value in record.items():
            if isinstance(value, list) and value and all(type(part) is float for part in value):
                value = np.array(value, dtype=np.float64)
            column = columns.setdefault(name, [])
            column.extend([None] * (row - len(column)))
            column.append(value)
        fields = tuple(record)
        keys.append(known.setdefault(fields, fields))
    for column in columns.values():
        column.extend([None] * (len(keys) - len(column)))
    return columns, keys


def names_of(path):
    """Return the names of the columns of a log."""
    names = {}

    def wanted(columns):
        names.update(dict.fromkeys(columns))
        return []

    for _, record in Records(path).read(wanted):
        names.update(dict.fromkeys(record))
    return list(names)
