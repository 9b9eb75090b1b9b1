"""Logs as records, one mapping per row, from files and tables of every kind."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Mapping
from os import PathLike

from .._keys import DuplicateKey, read_json
from .._optional import import_optional
from .._paths import local_path
from ..exceptions import ImplicitRMError

#: File endings by reader; .gz and .zst may follow those of JSON.
_JSON = (".jsonl", ".ndjson", ".json")
#: Separators of the cells of a line.
_CSV = {".csv": ",", ".tsv": "\t"}
_ARROW = (".arrow", ".feather")
_PACKED = (".gz", ".zst")
FORMATS = {"parquet": "Parquet", "arrow": "Arrow"}
KINDS = f"{', '.join([*_JSON, *_CSV])} (also {' or '.join(_PACKED)}), .parquet, {', '.join(_ARROW)}"
_BUFFER = 2**20
#: What to do about lists in a file that cannot hold them.
LISTS_IN_CSV = (
    "A cell of CSV cannot hold a list: write one column for each number (embedding_0, embedding_1, "
    "...), or write parquet or JSON lines."
)
_BATCH = 2048


class Records:
    """The rows of a log, each a mapping with its place.

    Parameters
    ----------
    source : path, table or iterable of dict
    texts : sequence of str
        Columns that hold text in files that do not say what a cell is (CSV).

    Attributes
    ----------
    name : str
        Name of the source, for the messages.
    files : list of Path
        The files that are read, in order; empty for a table in memory.
    left_out : list of str
        Files of a folder that are not read.
    turned : dict of str
        For columns of CSV that began as numbers or booleans, the place that made them text.
    """

    def __init__(self, source, texts=()):
        self.source, self.texts, self.files, self.left_out = source, texts, [], []
        self.turned = {}
        if isinstance(source, str | PathLike):
            if not str(source):
                raise ImplicitRMError(
                    f"source is an empty path; expected a file ({KINDS}) or a folder of such "
                    "files. Correct it."
                )
            path = local_path(source)
            if not path.exists():
                raise FileNotFoundError(
                    f"{source} does not exist; expected a file ({KINDS}) or a folder of such "
                    "files. Correct it."
                )
            self.name = path.name or str(path)
            self.files = self._folder(path) if path.is_dir() else [path]
            for file in self.files:
                _kind(file)
        elif isinstance(source, bytes | Mapping) or not (
            isinstance(source, Iterable) or hasattr(source, "collect") or hasattr(source, "columns")
        ):
            raise TypeError(
                f"source is a {type(source).__name__}; expected a path, a table (pandas, polars, "
                "Arrow, Hugging Face), or a list of dicts. Convert it."
            )
        else:
            self.name = f"the {type(source).__name__}"

    def _folder(self, path):
        found = []
        for file in sorted(path.iterdir()):
            if file.name.startswith((".", "_")):
                self.left_out.append(file.name)
            else:
                found.append(file)
        folder = next((file for file in found if file.is_dir()), None)
        if folder is not None or not found:
            what = f"holds the folder {folder.name!r}" if folder else "holds no files"
            raise ImplicitRMError(
                f"{path} {what}; expected files ({KINDS}). Move them into one folder."
            )
        return found

    def place(self, number):
        """Return the place of a row, in words."""
        file, row = number
        if not self.files:
            return f"row {row} of {self.name}"
        what = "line" if _kind(self.files[file]) in ("json", "csv") else "row"
        return f"{what} {row} of {self.files[file].name}"

    def why_text(self, name, where):
        """Return in a sentence why a column of CSV is text, for a message about a place in it.

        Nothing if it never seemed another, or if the place itself is why.
        """
        reason = self.turned.get(name, "")
        if not reason or reason.casefold().startswith(f"{where} holds".casefold()):
            return ""
        return f" {reason}, so the column is text."

    @property
    def is_csv(self):
        """Whether all files are CSV, which does not say what a cell is."""
        return bool(self.files) and all(_kind(file) == "csv" for file in self.files)

    def number(self, value):
        """Return the number in a cell of a column that is known to hold numbers.

        There, a cell of CSV may be written in any usual form. Other values are returned unchanged.
        """
        if isinstance(value, str) and self.is_csv and _USUAL.fullmatch(value):
            return float(value)
        return value

    def read(self, wanted):
        """Yield ((file, row), record) for every row.

        Parameters
        ----------
        wanted : callable(list of str) -> list of str
            Selects the columns of a table that are needed. Records of JSON have all their fields.
        """
        written = [path for path in self.files if _kind(path) == "csv"]
        forms = _forms_of(written, self.texts, self.turned)
        for number, path in enumerate(self.files):
            kind = _kind(path)
            if kind == "json":
                rows = _of_json(path)
            elif kind == "csv":
                rows = _of_csv(path, wanted, forms)
            else:
                rows = _of_arrow_file(path, kind, wanted)
            for row, record in rows:
                yield (number, row), record
        if not self.files:
            for row, record in enumerate(_of_memory(self.source, self.name, wanted)):
                if not isinstance(record, Mapping):
                    raise TypeError(
                        f"row {row} of {self.name} is a {type(record).__name__}; expected a dict "
                        "with one row of the log. Convert it."
                    )
                yield (0, row), record


def _kind(path):
    """Return "json", "csv", "parquet" or "arrow"."""
    last = _ending(path)
    if last in _JSON:
        return "json"
    if last in _CSV:
        return "csv"
    if last == ".parquet" or last in _ARROW:
        return "parquet" if last == ".parquet" else "arrow"
    raise ImplicitRMError(
        f"{path.name} ends with {path.suffix or 'nothing'!r}; expected {KINDS}. Convert it."
    )


def _ending(path):
    """Return the ending that says how a file is read, without that of its compression."""
    before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)][-2:]
    if last in _PACKED:
        return before if before in (*_JSON, *_CSV) else ""
    return last


# ---------------------------------------------------------------------- JSON


def _opened(path):
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".zst":
        arrow = import_optional("pyarrow", "data", "Reading a .zst file")
        return io.BufferedReader(arrow.input_stream(str(path), compression="zstd"), _BUFFER)
    return open(path, "rb", buffering=_BUFFER)


def _parsed(raw, where):
    """Return JSON as Python values, or raise an error that names the damaged place."""
    try:
        return read_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8 ({error.reason})"
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        reason = f"{line}column {error.colno}: {error.msg.removesuffix(' at')}"
    except DuplicateKey as error:
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # numbers with thousands of digits
        reason = str(error).partition(";")[0]
    raise ImplicitRMError(
        f"{where} is not JSON that can be read: {reason}; expected one JSON object per line, or "
        "one array of objects in the file. Repair or remove it."
    ) from None


def _of_json(path):
    """Yield (line, record), or (number of the object, record) if the file is one array."""
    name, line, is_first = path.name, 0, True
    try:
        with _opened(path) as file:
            for line, raw in enumerate(file, 1):
                if line == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                text = raw.strip()
                if not text:
                    continue
                if text.startswith(b"[") and is_first:
                    # Blank lines keep the line numbers of a message right.
                    yield from _of_array(b"\n" * (line - 1) + raw + file.read(), name)
                    return
                is_first = False
                where = f"line {line} of {name}"
                try:
                    record = _object(raw, where)
                except ImplicitRMError as error:
                    raise ImplicitRMError(f"{error}{_further(file, line)}") from None
                yield line, record
    except (EOFError, OSError, gzip.zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImplicitRMError(
            f"{name} is damaged or cut off after line {line} ({error}). Copy or export it again."
        ) from error


def _object(raw, where):
    """Return the JSON object of one line."""
    record = _parsed(raw.rstrip(b"\r\n"), where)
    if not isinstance(record, dict):
        raise ImplicitRMError(
            f"{where} is a JSON {type(record).__name__}; expected an object, "
            '{"column": value, ...}. Convert it.'
        )
    return record


def _further(file, line):
    """Return which lines after a broken one are broken too, in words; all are read for that."""
    broken = []
    try:
        for number, raw in enumerate(file, line + 1):
            try:
                if raw.strip():
                    _object(raw, "")
            except ImplicitRMError:
                broken.append(number)
    except (EOFError, OSError, gzip.zlib.error):  # cut off, which is not what is said here
        pass
    if not broken:
        return ""
    shown = ", ".join(map(str, broken[:5])) + ", ..." * (len(broken) > 5)
    plural = "s are" if len(broken) > 1 else " is"
    return f" {len(broken):,} further line{plural} broken in this file: {shown}."


def _of_array(raw, name):
    records = _parsed(raw, name)
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ImplicitRMError(
                f"entry {number} of the array in {name} is a JSON {type(record).__name__}; "
                'expected an object, {"column": value, ...}. Convert it.'
            )
        yield number, record


# ---------------------------------------------------------------------- CSV

#: A number as JSON writes it. Ids may look like 007 and 1e5, which are text.
_NUMBER = re.compile(r"(?!-[0.]+$)-?(?:0|[1-9]\d*)(?:\.(\d+))?", re.ASCII)
#: A number with an exponent, in the only form in which Python writes it.
_EXPONENT = re.compile(r"-?\d(?:\.\d+)?e[+-]\d{2,3}", re.ASCII)
#: A number in any usual form, for columns whose meaning is known.
_USUAL = re.compile(r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *", re.ASCII)
_TRUE_AND_FALSE = ({"true", "false"}, {"True", "False"}, {"TRUE", "FALSE"})
#: Numbers of so many digits are not rounded as floats.
_DIGITS = 15


class _Form:
    """The kind of the cells of a column: numbers, booleans or text; the same in all files of a log.

    A column is numbers only if different cells are different numbers, so that versions such as 1.1
    and 1.10 are not merged. Exponents are those of Python, 1e-05 and not 1e5, which may be an id.
    Only 1 and 1.0 are the same: writers add .0 where a cell is empty.
    """

    def __init__(self, is_text):
        self.is_text, self.words, self.decimals = is_text, set(), set()
        # Whether all cells with decimals are written as Python writes floats, no number is long,
        # and no integer is.
        self.is_plain = self.is_short = self.has_short_integers = True

    def add(self, cell):
        """Learn from a cell that is not empty."""
        number = _NUMBER.fullmatch(cell)
        if number is None and not self.words and _is_exponent(cell):
            self.decimals.add(-1)  # so that other cells with decimals have to be plain too
            self.is_text = not (self.is_plain and self.has_short_integers)
            return
        if number is None or self.words:
            self.words.add(cell)
            known = any(self.words <= words for words in _TRUE_AND_FALSE)
            self.is_text = not known or bool(self.decimals)
            return
        decimals = number[1]
        self.decimals.add(len(decimals or ""))
        is_short = sum(map(str.isdigit, cell)) <= _DIGITS
        self.is_short &= is_short
        if decimals is None:
            self.has_short_integers &= is_short
        else:
            self.is_plain &= repr(float(cell)) == cell
        if self.decimals == {0}:
            return
        is_fixed = self.is_short and len(self.decimals) == 1
        self.is_text = not (is_fixed or (self.is_plain and self.has_short_integers))

    def value(self, cell):
        """Return the value of a cell that is not empty."""
        if self.is_text:
            return cell
        if self.words:
            return cell.lower() == "true"
        return int(cell) if self.decimals == {0} else float(cell)


def _is_exponent(cell):
    return _EXPONENT.fullmatch(cell) is not None and repr(float(cell)) == cell


def _forms_of(paths, texts, turned):
    """Return the form of each column of the files of a log, by name; those of `texts` are text.

    Adds to `turned`, as in `Records`.
    """
    forms = {}
    for path in paths:
        for names, line, cells in _lines_of(path):
            for name, cell in zip(names, cells, strict=True):
                form = forms.get(name)
                if form is None:
                    form = forms[name] = _Form(name in texts)
                if cell and not form.is_text:
                    seemed = bool(form.decimals or form.words)
                    form.add(cell)
                    if form.is_text and seemed:
                        turned[name] = f"Line {line} of {path.name} holds {cell[:40]!r}"
    return forms


def _of_csv(path, wanted, forms):
    """Yield (line, record) for each row of a file, whose first line holds the names."""
    names, picked = None, ()
    for header, line, cells in _lines_of(path):
        if names is None:
            names, chosen = header, set(_picked(header, wanted, path.name))
            picked = [(place, name) for place, name in enumerate(names) if name in chosen]
        row = ((name, cells[place]) for place, name in picked)
        yield line, {name: forms[name].value(cell) if cell else None for name, cell in row}


def _lines_of(path):
    """Yield the names, the number of the first line and the cells of each row."""
    name, separator = path.name, _CSV[_ending(path)]
    names, line = None, 0
    try:
        with _opened(path) as file:
            reader = csv.reader(_decoded(file, name), delimiter=separator, strict=True)
            while True:
                line = reader.line_num + 1
                # The limit is one of all readers of the process.
                limit = csv.field_size_limit(2**31 - 1)
                try:
                    cells = next(reader, None)
                finally:
                    csv.field_size_limit(limit)
                if cells is None:
                    return
                if names is None:
                    names = _header(cells, name, separator)
                elif len(cells) == len(names):
                    yield names, line, cells
                elif cells:
                    raise ImplicitRMError(
                        f"line {line} of {name} has {len(cells)} cells, but the first line names "
                        f"{len(names)} columns; expected equal numbers. Put text that holds "
                        f"{separator!r} or a line break into double quotes."
                    )
    except csv.Error as error:
        raise ImplicitRMError(
            f"line {line} of {name} is not a row that can be read ({error}); expected cells "
            f"separated by {separator!r}, and text with double quotes doubled. Repair it."
        ) from None
    except (EOFError, OSError, gzip.zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImplicitRMError(
            f"{name} is damaged or cut off after line {line - 1} ({error}). Copy or export it "
            "again."
        ) from error


def _decoded(file, name):
    """Yield the lines of a file as text."""
    for line, raw in enumerate(file, 1):
        try:
            yield raw.removeprefix(b"\xef\xbb\xbf" if line == 1 else b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ImplicitRMError(
                f"line {line} of {name} holds a byte that is not UTF-8 ({error.reason}, byte "
                f"{error.start + 1}). Export it as UTF-8."
            ) from None


def _header(cells, name, separator):
    """Return the names of the columns, which have to be separated as the ending says."""
    other = next((mark for mark in (",", ";", "\t", "|") if mark in "".join(cells)), None)
    if len(cells) == 1 and other is not None:
        raise ImplicitRMError(
            f"{name} has one column, {cells[0][:40]!r}; expected columns separated by "
            f"{separator!r}, not by {other!r}. Export it with {separator!r}."
        )
    check_once(cells, name)
    return cells


# ---------------------------------------------------------------------- Arrow


def _of_arrow_file(path, kind, wanted):
    arrow = import_optional("pyarrow", "data", "Reading a log")
    try:
        if kind == "parquet":
            parquet = import_optional("pyarrow.parquet", "data", "Reading a log")
            with parquet.ParquetFile(path) as file:
                names = _picked(file.schema_arrow.names, wanted, path.name)
                yield from _of_batches(
                    file.iter_batches(_BATCH, columns=names),
                    names,
                    path.name,
                    file.metadata.num_rows,
                )
            return
        with arrow.memory_map(str(path)) as mapped:
            try:
                file = arrow.ipc.open_file(mapped)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            except arrow.ArrowInvalid:  # files that Hugging Face writes
                mapped.seek(0)
                batches = file = arrow.ipc.open_stream(mapped)
            names = _picked(file.schema.names, wanted, path.name)
            yield from _of_batches((batch.select(names) for batch in batches), names, path.name)
    except ImplicitRMError:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImplicitRMError(
            f"{path.name} is damaged or not a file of {FORMATS[kind]}: {first}. Copy or export it "
            "again."
        ) from error


def _picked(names, wanted, source):
    check_once(names, source)
    return wanted(list(names))


def check_once(names, source):
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ImplicitRMError(
            f"{source} has two columns {twice!r}; expected one. Rename one of them."
        )


def check_names(table, name):
    """Raise if a table has two columns with one name, as pandas and Arrow allow."""
    if hasattr(table, "column_names"):
        check_once(list(table.column_names), name)
    elif hasattr(table, "iloc"):
        check_once(list(table.columns), name)


def values_of(read, column, source):
    """Return the values of a column, or raise an error that names it if Python cannot hold one."""
    try:
        return read()
    except (OverflowError, ValueError) as error:  # dates outside of the years 1 to 9999, bad UTF-8
        raise ImplicitRMError(
            f"{source} holds a value in column {column!r} that cannot be read ({error}); expected "
            "text, numbers, or dates of the years 1 to 9999. Correct it."
        ) from error


def _of_batches(batches, names, source, n_rows=0):
    row = 0
    for batch in batches:
        columns = [
            values_of(column.to_pylist, name, f"{source}, from row {row} on,")
            for column, name in zip(batch.columns, names, strict=True)
        ]
        if not columns:
            columns = [[None] * batch.num_rows]
        for values in zip(*columns, strict=True):
            yield row, dict(zip(names, values, strict=False))
            row += 1
    while row < n_rows:  # a file without needed columns has batches without rows
        yield row, {}
        row += 1


# ---------------------------------------------------------------------- in memory


def _of_memory(source, name, wanted):
    if hasattr(source, "select_columns") and getattr(source, "column_names", None):
        # A data set of Hugging Face: its formats turn lists into arrays.
        source = source.with_format(None)
        return iter(source.select_columns(_picked(list(source.column_names), wanted, name)))
    if hasattr(source, "collect") or hasattr(source, "columns"):
        import narwhals

        from .._tables import opened

        source = source if hasattr(source, "collect") else opened(source)  # a batch is a table

        check_names(source, name)
        try:
            table = narwhals.from_native(source)
        except TypeError:
            raise TypeError(
                f"source is a {type(source).__name__}; expected a path, a table (pandas, polars, "
                "Arrow, Hugging Face), or a list of dicts. Convert it."
            ) from None
        table = table.collect() if isinstance(table, narwhals.LazyFrame) else table
        names = _picked(list(table.columns), wanted, name)
        lists = [values_of(table.get_column(column).to_list, column, name) for column in names]
        lists = lists or [[None] * len(table)]
        return (dict(zip(names, row, strict=False)) for row in zip(*lists, strict=True))
    return iter(source)
