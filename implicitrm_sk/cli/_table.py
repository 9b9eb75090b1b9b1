"""Reading the file of a log: columns as the commands need them, with errors that name them."""

from decimal import Decimal
from numbers import Real
from pathlib import Path

from .._keys import is_absent
from .._optional import import_optional
from .._tables import as_numbers, as_values
from ..datasets._columns import nearly
from ..datasets._records import LISTS_IN_CSV, Records, check_once, values_of
from ..exceptions import ImplicitRMError
from ._options import SIDE, default_actions, kinds_of, named_columns, text_columns
from ._results import in_place, write_json
from ._terminal import listing, note

EMBEDDING = "embedding"
#: Options beside `SIDE` that name a column of the log that `inspect` reads.
OTHERS = ("groups", "time", "id", "conversation")
#: Ends the remedy for a column of CSV that has text.
IN_CSV = " Decimals are written with a point."
#: What a column of numbers is expected to hold, and what to do where it has text.
NUMBERS = ("numbers, or nothing (null, NaN)", "Convert it.")
COMPONENTS = (
    "a number, as the column is a part of the embedding",
    "Correct it, or name the columns of the embedding by --embedding." + IN_CSV,
)
#: Columns of prompts if --groups does not name one; the first one found is used.
GROUPS = ("prompt_id", "prompt")


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
        self._file, self._places = records, None
        self.summary = self.kept = self._groups = self._values = self._responses = None
        self._fields = {}  # columns by paths into nested values
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
            self._values, self._keys, self._places = _columns_of(records)
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
        missing = [name for name in names if not self.holds(name)]
        if missing:
            raise ImplicitRMError(
                f"{self.name} has no column {', '.join(map(repr, missing))}. Its columns are "
                f"{listing(self.columns)}.{nearly(missing[0], self.columns)}"
            )
        import pyarrow

        self._find(names)
        if self._values is not None or all(name in self._fields for name in names):
            table = pyarrow.table({name: self._typed(name) for name in names})
        else:
            tables = []
            columns = [name for name in names if name not in self._fields]
            for file, there in zip(self.files, self._names, strict=True):
                found = [name for name in columns if name in there]
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
                    table = pyarrow.concat_tables(tables, promote_options=join)
            except pyarrow.ArrowException as error:
                first = str(error).splitlines()[0]
                raise ImplicitRMError(
                    f"the files of {self.name} hold a column in several types: {first}. Write "
                    "them with one type, or write .jsonl."
                ) from error
            for name in names:
                if name in self._fields:
                    table = table.append_column(name, self._typed(name))
            table = table.select(names)
        return table if self.kept is None else table.take(self.kept)

    def holds(self, name):
        """Return whether a column exists, or may be found by a path into nested values."""
        return name in self.columns or name.partition(".")[0] in self.columns

    def _find(self, names):
        """Read the columns that are paths into nested values."""
        new = [n for n in names if not (n in self.columns or n in self._fields) and self.holds(n)]
        if new:
            from ..datasets._columns import Fields

            fields = Fields(Records(self.path), new)
            fields.check(new)
            self._fields |= {name: fields.values[name] for name in new}

    def _listed(self, name):
        """Return a column as a list of values, None if it is one of Arrow."""
        self._find([name])
        values = self._fields.get(name)
        if values is None and self._values is not None:
            values = self._values.get(name)
        if values is None or self.kept is None:
            return values
        return [values[row] for row in self.kept]

    def _typed(self, name):
        import pyarrow

        try:
            values = self._fields[name] if name in self._fields else self._values[name]
            return pyarrow.array(values, from_pandas=False)
        except (pyarrow.ArrowException, OverflowError) as error:
            kinds = {}
            for row, value in enumerate(values):
                if value is not None:
                    kinds.setdefault(type(value).__name__, f"{value!r} in row {row}")
            found = str(error).splitlines()[0]
            if len(kinds) > 1:
                found = ", ".join(f"{kind}: {where}" for kind, where in kinds.items())
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds values of several types ({found}); expected "
                "one. Convert them, or name another column. Results with such a column can be "
                "written as .jsonl."
            ) from error

    def ids(self, name):
        """Return a column of ids of any type, None where they are missing."""
        values = self._listed(name)
        if values is not None:
            return as_values(values)
        return as_values(self._read([name], "permissive").column(name))

    def place(self, row):
        """Return the place of a row in words, as its file counts."""
        row = int(row if self.kept is None else self.kept[row])
        return f"row {row}" if self._places is None else self._file.place(self._places[row])

    def numbers(self, names, labels=(), what=NUMBERS):
        """Return columns of numbers as a DataFrame of floats, NaN where they are empty.

        In CSV they may be written in any usual form. Columns of `labels` are returned unchanged.
        `what` says what the columns hold, and what to do where they have text.
        """
        import numpy as np
        import pandas
        import pyarrow

        columns = {}
        for name in names:
            values = None if name in labels else self._listed(name)
            if values is not None:
                values = list(map(self._file.number, values))
                if _first_other(values) is not None:
                    raise self._no_numbers(name, values, what)
                found = np.fromiter(values, dtype=object, count=len(values))
                columns[name] = as_numbers(found).astype(float)
                continue
            column = self._read([name], "permissive").column(name)
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
                or column.null_count == len(column)
            ):
                raise self._no_numbers(name, values_of(column.to_pylist, name, self.name), what)
            if column.null_count == len(column):  # of any type
                columns[name] = np.full(len(column), np.nan)
                continue
            columns[name] = column.to_pandas().astype(float).to_numpy()
        return pandas.DataFrame(columns)

    def _no_numbers(self, name, values, what):
        row = _first_other(values)
        value = values[row]
        where = self.place(row)
        expected, remedy = what
        if not self._file.is_csv:
            remedy = remedy.removesuffix(IN_CSV)
        return ImplicitRMError(
            f"column {name!r} of {self.name} holds {str(value)[:40]!r} ({type(value).__name__}) in "
            f"{where}; expected {expected}. {remedy}{self._file.why_text(name, where)}"
        )

    def groups(self, args):
        """Return the prompt of each row, None if no column names it."""
        given = getattr(args, "groups", None)
        if given is None and "prompt_id" not in self.columns and self._groups is not None:
            return self._groups  # equal prompts
        name = given or next((name for name in GROUPS if name in self.columns), None)
        return None if name is None else self.ids(name)

    def responses(self, args):
        """Return the text of each response, None if the log does not hold it."""
        if self._responses is None:
            from ..datasets._read import read_log

            data = read_log(self.path, {}, text_columns(args), needs_features=False)
            if data.response is not None and len(data.response) == self.n_rows:
                self._responses = data.response
        return self._responses

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
        X = self.numbers(names, what=COMPONENTS)
        self.check_finite(
            X,
            ", as it is a part of the embedding",
            "Compute these embeddings again, or leave the rows out.",
        )
        if est is None or known is not None:
            return X
        note(
            f"note: the model knows its columns by position only. Taken in the order of "
            f"{self.name}: {listing(names)}."
        )
        return X.to_numpy()

    def check_finite(self, X, why, remedy):
        """Raise if a column of numbers is empty in a row, or not finite."""
        import numpy as np

        values = X.to_numpy()
        bad = ~np.isfinite(values)
        if not bad.any():
            return
        row, column = np.argwhere(bad)[0]
        value = values[row, column]
        found = "is empty" if np.isnan(value) else f"holds {value}"
        n = int(bad.any(axis=1).sum())
        rows = "1 row is" if n == 1 else f"{n:,} rows are"
        raise ImplicitRMError(
            f"column {X.columns[column]!r} of {self.name} {found} in {self.place(row)}; expected "
            f"a finite number in each row{why}. {rows} like this. {remedy}"
        )

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
            remedy = "Name another column by --embedding."
            if self._file.is_csv:
                remedy = LISTS_IN_CSV
            raise ImplicitRMError(
                f"column {name!r} of {self.name} holds {kind}; expected a list of numbers in each "
                f"row, the embedding. {remedy}"
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
        named = [getattr(args, option, None) for option in (*SIDE, *OTHERS)]
        if {"actions", "negative", "choice", "graded"} <= set(vars(args)):
            named += kinds_of(args, lambda: self.columns) or default_actions(self.columns)
        compared = [name for name in named if name is not None and self.holds(name)]
        data = read_log(self.path, {}, text_columns(args), compared=compared)
        if data.response is None:
            raise ImplicitRMError(
                f"{self.name} has no column that is known to hold text. Name it by --messages, or "
                f"--prompt and --response. Its columns are {listing(self.columns)}."
            )
        self.summary, self._groups, self._responses = data.summary, data.groups, data.response
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

    def write(self, path, found, leave_out):
        """Write the columns of the file, except some, and new ones."""
        taken = sorted(set(found) & set(self.columns))
        if taken:
            raise ImplicitRMError(
                f"{self.name} has a column {taken[0]!r} already; rename it first."
            )
        names = [name for name in self.columns if name not in leave_out]
        if path.suffix == ".jsonl":
            in_place(path, lambda temporary: write_json(temporary, self._joined(names, found)))
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

    def _joined(self, names, found):
        """Yield the rows with the new values, as they were read: a table has one type a column."""
        for number, record in enumerate(self._records(names)):
            yield record | {name: values[number].item() for name, values in found.items()}

    def _records(self, names):
        """Yield the rows as dicts; those of JSON have the fields that they had."""
        if self._values is None:
            for batch in self._read(names).to_batches():
                yield from batch.to_pylist() if names else ({} for _ in range(batch.num_rows))
            return
        wanted = set(names)
        for row in range(len(self._keys)) if self.kept is None else self.kept:
            yield {name: self._values[name][row] for name in self._keys[row] if name in wanted}


def _first_other(values):
    """Return the row of the first value that is not a number and not missing, or None."""
    return next(
        (
            row
            for row, value in enumerate(values)
            if not (is_absent(value) or isinstance(value, Real | Decimal))
        ),
        None,
    )


def _columns_of(records):
    """Return columns as lists, and the fields and place of each row.

    Lists of floats become arrays.
    """
    import numpy as np

    columns, keys, places, known = {}, [], [], {}
    for row, (place, record) in enumerate(records.read(list)):
        places.append(place)
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
    return columns, keys, places


def names_of(path):
    """Return the names of the columns of a log."""
    names = {}

    def wanted(columns):
        names.update(dict.fromkeys(columns))
        return []

    for _, record in Records(path).read(wanted):
        names.update(dict.fromkeys(record))
    return list(names)
