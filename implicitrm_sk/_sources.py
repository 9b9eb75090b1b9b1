"""X from files: a small file is read and held, a large one is read block by block.

A file of more than `STREAM_BYTES` is neither held nor mapped. Blocks of consecutive rows are read
by position, in the number format of the file. Only the size of a file decides whether it is large,
not the free memory, so a fit gives the same result on every machine.
"""

import bisect
import json
import math
import os
import queue
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ._optional import import_optional
from ._paths import local_path
from .exceptions import ImplicitRMError

#: Files with more bytes than this are streamed.
STREAM_BYTES = 2**30
#: Bytes read at once. They are consecutive rows, so that a disk reads at its full speed.
BLOCK_BYTES = 2**20
#: Rows per array if rows are read in order.
CHUNK_ROWS = 8192

_KINDS = (".npy", ".safetensors", ".parquet")
_NPY = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}
_SAFETENSORS = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
#: joblib passes arrays to its workers in files of such folders; users see arrays.
_JOBLIB = "joblib_memmapping_folder"


def open_rows(X):
    """Return the rows of X if it is a path, otherwise X itself.

    Parameters
    ----------
    X : object
        A path (str or path-like) means a ``.npy``, ``.safetensors`` or ``.parquet`` file, or a
        folder of files of one of these kinds.

    Returns
    -------
    X : object, ndarray or Source
        An ndarray if the file is small, a `Source` if it is large.

    Raises
    ------
    ValueError
        If X is a large memory-mapped array. Pass a path instead, which says what to read.
    """
    refuse_mapped(X)
    if not isinstance(X, str | os.PathLike):
        return X
    path = local_path(X)
    if path.suffix == ".npy" and path.is_file() and path.stat().st_size <= STREAM_BYTES:
        try:
            return np.load(path, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise _unreadable(path, error) from error
    source = _open_path(path)
    return source if source.nbytes > STREAM_BYTES else as_array(source.read(0, len(source)))


def refuse_mapped(X):
    """Raise if X is a large array mapped from a file; a path says what to read."""
    if not isinstance(X, np.memmap) or X.nbytes <= STREAM_BYTES:
        return
    # Copies are in memory, although they keep the class; arrays of joblib are arrays to its user.
    if X.filename is None or _JOBLIB in str(X.filename):
        return
    raise ImplicitRMError(
        f"X is an np.memmap of {X.nbytes / 2**30:.3g} GiB ({X.dtype} of shape {X.shape}, mapped "
        f"from {str(X.filename)!r}). Above {STREAM_BYTES / 2**30:.3g} GiB, expected the path of a "
        f"file ({', '.join(_KINDS)}) or of a folder of such files, got an np.memmap. A large file "
        "is read block by block, but an array does not show its place in the file, or changes of "
        "the file. If X is a whole file of one of these kinds, pass its path. If not, write its "
        "rows with np.save, in one file or in parts in a folder, and pass that path. If they fit "
        "into memory, pass np.array(X)."
    )


def as_array(rows):
    """Return rows as an ndarray; bfloat16, which NumPy lacks, becomes float32."""
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()


class Source:
    """Rows stored one after the other in some files.

    Parameters
    ----------
    name : str
        The name in messages.
    shards : list of FlatShard or ParquetShard

    Attributes
    ----------
    shape : tuple of int
    stored : torch.dtype
        The number format in the files.
    """

    def __init__(self, name, shards):
        self.name = name
        self.shards = [shard for shard in shards if shard.shape[0]]
        if not self.shards:
            raise ImplicitRMError(f"X={name!r} does not contain any rows. Pass a file with rows.")
        first = self.shards[0]
        for shard in self.shards:
            if shard.shape[1] != first.shape[1] or shard.stored != first.stored:
                raise ImplicitRMError(
                    f"the files of X={name!r} differ: {os.path.basename(first.path)} has "
                    f"{first.shape[1]} columns of {first.stored}, {os.path.basename(shard.path)} "
                    f"has {shard.shape[1]} of {shard.stored}; expected parts of one table. Move "
                    "the files of other tables elsewhere."
                )
        self.starts = np.cumsum([0, *(shard.shape[0] for shard in self.shards)]).tolist()
        self.shape = self.starts[-1], first.shape[1]
        self.stored = first.stored

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self):
        """Size of all numbers in bytes, as they are stored."""
        return math.prod(self.shape) * self.stored.itemsize

    def read(self, start, stop, out=None):
        """Return rows start to stop - 1 as a tensor on the CPU, in `out` if it is given."""
        if out is None:
            out = torch.empty((stop - start, self.shape[1]), dtype=self.stored)
        done = start
        i = bisect.bisect_right(self.starts, start) - 1
        while done < stop:
            end = min(stop, self.starts[i + 1])
            self.shards[i].read(
                done - self.starts[i], end - self.starts[i], out[done - start : end - start]
            )
            done, i = end, i + 1
        return out

    def __getitem__(self, rows):
        raise self.refusal()

    def refusal(self):
        """Return the error for callers that need rows in any order."""
        return ImplicitRMError(
            f"X={self.name!r} has {self.nbytes / 2**30:.3g} GiB and is read block by block. This "
            "call needs its rows in any order, as do response_id, pairwise and counterfactual "
            "objectives, and reports. Join the rows of a response beforehand (exposures=), use "
            "another objective, or pass a part that fits into memory as an array."
        )

    def edges(self):
        """Return the row numbers at which blocks begin, followed by the number of rows."""
        rows = max(BLOCK_BYTES // (self.shape[1] * self.stored.itemsize), 1)
        if isinstance(self.shards[0], FlatShard):
            # Independent of the files, so that a folder gives the same fit as one file.
            return [*range(0, len(self), rows), len(self)]
        edges = [0]
        for shard, start in zip(self.shards, self.starts, strict=False):
            for edge in shard.edges(rows):
                if start + edge - edges[-1] >= rows:  # row groups may be very small
                    edges.append(start + edge)
        return [*edges, len(self)]


@dataclass(frozen=True)
class FlatShard:
    """Rows as plain bytes in one part of a file, whose state was `seen` when it was found."""

    path: str
    offset: int
    shape: tuple
    stored: torch.dtype
    seen: tuple

    def read(self, start, stop, out):
        """Read rows start to stop - 1 into the tensor `out`."""
        row = self.shape[1] * self.stored.itemsize
        # Opened each time, so that no file of a thousand shards stays open or is mapped.
        view = memoryview(out.view(torch.uint8).numpy()).cast("B")
        with _open_again(self.path, self.seen) as file:
            file.seek(self.offset + start * row)
            while view:
                n = file.readinto(view)
                if not n:
                    raise _changed(self.path)
                view = view[n:]


class ParquetShard:
    """Rows in a column of lists of a parquet file.

    A row group is decoded as a whole. It is kept until its last row, or another group, is read.

    Parameters
    ----------
    path : path-like
    held : dict
        The row group that is kept, by path and number. All shards of a source share it.
    """

    #: Decoding takes several times the memory of a row group.
    MAX_GROUP_BYTES = 2**25

    def __init__(self, path, held):
        self.path = str(path)
        self._held = held
        self._parquet = import_optional("pyarrow.parquet", "data", "Reading parquet files")
        self._compute = import_optional("pyarrow.compute", "data", "Reading parquet files")
        self._arrow = arrow = import_optional("pyarrow", "data", "Reading parquet files")
        with open(path, "rb") as file:
            self.seen = _state(file)
        with self._opened() as file:
            schema, meta = file.schema_arrow, file.metadata
            lists = {
                field.name: field.type
                for field in schema
                if (arrow.types.is_list(field.type) or arrow.types.is_large_list(field.type)
                    or arrow.types.is_fixed_size_list(field.type))
                and arrow.types.is_floating(field.type.value_type)
            }  # fmt: skip
            self.column = "embedding" if "embedding" in lists else next(iter(lists), None)
            if self.column is None or (len(lists) > 1 and self.column != "embedding"):
                raise ImplicitRMError(
                    f"{self.path!r} has {'no column' if not lists else 'several columns'} of lists "
                    f"of floats ({', '.join(schema.names[:10])}); expected one, or one named "
                    "'embedding', with the vector of each row. Rename or remove the others."
                )
            kind = lists[self.column]
            self.stored = {"halffloat": torch.float16, "float": torch.float32}.get(
                str(kind.value_type), torch.float64
            )
            self.groups = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
            self.ends = np.cumsum(self.groups).tolist()
            self.shape = sum(self.groups), None
            if arrow.types.is_fixed_size_list(kind):
                self.shape = len(self), kind.list_size
            elif len(self):
                # From the first row alone, so that no row group is decoded to get a width.
                batches = file.iter_batches(1, columns=[self.column], use_threads=False)
                first = next(batches).column(0)
                if not first[0].is_valid or not len(first[0]):
                    raise self._refusal(first, 0)
                self.shape = len(self), len(first[0])

    def __len__(self):
        return self.shape[0]

    def read(self, start, stop, out):
        """Read rows start to stop - 1 into the tensor `out`."""
        rows = out.numpy()
        done = 0
        for cells in self._cells(start, stop):
            values = cells.flatten()
            # The sum is not enough: a row that is too long can hide one that is too short.
            lengths = self._compute.list_value_length(cells).to_numpy(zero_copy_only=False)
            if values.null_count or not (lengths == self.shape[1]).all():
                raise self._refusal(cells, start + done)
            rows[done : done + len(cells)] = values.to_numpy(zero_copy_only=False).reshape(
                len(cells), -1
            )
            done += len(cells)

    def _refusal(self, cells, first):
        """Return the error for the first cell without a vector, `first` being their first row."""
        width = self.shape[1]

        def wrong(cell):
            if not cell.is_valid:
                return "null"
            if not len(cell) or len(cell) != (width or len(cell)):
                return f"a list of {len(cell)}"
            nulls = cell.values.null_count
            return nulls and f"a list of {len(cell)} with {nulls} null"

        row, found = next(item for item in enumerate(map(wrong, cells), first) if item[1])
        return ImplicitRMError(
            f"row {row} of {self.path!r} holds {found} in column {self.column!r}; expected a list "
            f"of {width or 'as many'} numbers in each row, none of them null. Correct the file."
        )

    @contextmanager
    def _opened(self):
        with _open_again(self.path, self.seen) as raw:
            try:
                with self._parquet.ParquetFile(raw) as file:
                    yield file
            except (OSError, self._arrow.ArrowException) as error:
                raise _unreadable(self.path, error) from error

    def _cells(self, start, stop):
        """Yield the cells of rows start to stop - 1, a row group's at a time."""
        while start < stop:
            group = bisect.bisect_right(self.ends, start)
            end = self.ends[group]
            cells = self._held.get((self.path, group))
            if cells is None:
                self._held.clear()  # frees the memory before the next is read
                with self._opened() as file:
                    table = file.read_row_group(group, columns=[self.column], use_threads=False)
                cells = self._held[self.path, group] = table.column(0)
            first = end - self.groups[group]
            yield from cells[start - first : min(stop, end) - first].chunks
            if stop >= end:
                self._held.clear()
            start = min(stop, end)

    def edges(self, rows):
        """Return the rows at which row groups begin; each group can be read separately."""
        size = max(self.groups) * self.shape[1] * self.stored.itemsize
        if size > self.MAX_GROUP_BYTES:
            raise ImplicitRMError(
                f"{self.path!r} has row groups of up to {max(self.groups):,} rows "
                f"({size / 2**20:.0f} MiB); expected at most {self.MAX_GROUP_BYTES / 2**20:.0f} "
                "MiB each. Rows are shuffled by reading single row groups. Write it with "
                f"row_group_size={rows * 4:,} (pyarrow.parquet.write_table), or as .npy or "
                ".safetensors."
            )
        return [end - size for end, size in zip(self.ends, self.groups, strict=True) if size]


def _state(file):
    """Return a state that changes if an open file is written to or replaced."""
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _open_again(path, seen):
    """Return a file opened for reading; raise unless it is in the state in which it was seen."""
    try:
        file = open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise _changed(path) from error
    if _state(file) != seen:
        file.close()
        raise _changed(path)
    return file


def _changed(path):
    return OSError(
        f"{path!r} changed while it was in use: it was written to, replaced or removed. Rows read "
        "before and after may not belong together. Start again, and leave the file unchanged "
        "until the call has returned."
    )


def _unreadable(path, error):
    return ImplicitRMError(
        f"{str(path)!r} is not a readable {Path(path).suffix} file: {error}. Write it again."
    )


def _open_path(path):
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in _KINDS)
        kinds = {file.suffix for file in found}
        if len(kinds) != 1:
            raise ImplicitRMError(
                f"X={str(path)!r} is a folder with files of {len(kinds) or 'none'} of the kinds "
                f"{', '.join(_KINDS)}"
                + (f" ({', '.join(sorted(kinds))})" if kinds else "")
                + "; expected files of one kind. Move the others elsewhere. Rows are read in the "
                "order of the names of the files."
            )
        folder = next((file for file in found if file.is_dir()), None)
        if folder is not None:
            raise ImplicitRMError(
                f"{str(folder)!r} is a folder; expected only files in X={str(path)!r}. Move it "
                "elsewhere or rename it."
            )
    elif not path.exists():
        raise FileNotFoundError(
            f"X={str(path)!r} does not exist. A string given as X is the path of a file "
            f"({', '.join(_KINDS)}) or of a folder of such files. Correct the path."
        )
    else:
        found = [path]
        if path.suffix not in _KINDS:
            raise ImplicitRMError(
                f"X={str(path)!r} ends in {path.suffix or 'nothing'!r}; expected a file that ends "
                f"in {', '.join(_KINDS)}, or a folder of such files. Write X in one of these "
                "forms, for example with np.save."
            )
    read = {
        ".npy": _npy,
        ".safetensors": _safetensors,
        ".parquet": partial(ParquetShard, held={}),
    }
    return Source(str(path), [read[file.suffix](file) for file in found])


def _npy(path):
    with open(path, "rb") as file:
        seen = _state(file)
        try:
            version = np.lib.format.read_magic(file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = header(file)
        except (KeyError, ValueError) as error:
            raise _unreadable(path, error) from error
        offset = file.tell()
    stored = _NPY.get(dtype.str[1:]) if dtype.isnative else None
    return _flat(path, offset, shape, stored, dtype, seen, fortran)


def _safetensors(path):
    # Read by hand: the library maps the whole file, and only the positions of the bytes are needed.
    with open(path, "rb") as file:
        size, *_ = seen = _state(file)
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        try:
            header = json.loads(file.read(length)) if length <= size - 8 else None
            tensors = {key: value for key, value in header.items() if key != "__metadata__"}
            tables = {key: value for key, value in tensors.items() if len(value["shape"]) == 2}
            name = "embedding" if "embedding" in tables else next(iter(tables), None)
            if name is None or (len(tables) > 1 and name != "embedding"):
                raise ImplicitRMError(
                    f"{str(path)!r} holds {len(tables)} two-dimensional tensors "
                    f"({', '.join(list(tensors)[:10]) or 'none at all'}); expected one, or one "
                    "named 'embedding'. Remove or rename the others."
                )
            start, _ = tables[name]["data_offsets"]
            shape, dtype = tuple(tables[name]["shape"]), tables[name]["dtype"]
        except (AttributeError, KeyError, TypeError, UnicodeError, json.JSONDecodeError) as error:
            raise ImplicitRMError(
                f"{str(path)!r} is not a valid safetensors file. Write it again."
            ) from error
    return _flat(path, 8 + length + start, shape, _SAFETENSORS.get(dtype), dtype, seen)


def _flat(path, offset, shape, stored, dtype, seen, fortran=False):
    if len(shape) != 2 or stored is None or (fortran and min(shape) > 1):
        raise ImplicitRMError(
            f"{str(path)!r} holds {dtype} of shape {shape}"
            + (", column by column" if fortran else "")
            + "; expected float16, bfloat16, float32 or float64 of shape (n_samples, "
            "n_features), row by row (C order). Convert the array."
        )
    needed = offset + math.prod(shape) * stored.itemsize
    if seen[0] < needed:
        raise ImplicitRMError(
            f"{str(path)!r} has {seen[0]:,} bytes, but an array of shape {shape} needs {needed:,}: "
            "the file is incomplete. Write it again."
        )
    return FlatShard(str(path), offset, tuple(shape), stored, seen)


class StreamedX:
    """X of an estimator, read from files: its slices are arrays, checked as any X is.

    Parameters
    ----------
    source : Source
    select : callable(array) -> array
        Checks rows and picks the columns in use.
    columns : ndarray of int or None
        The columns in use, None for all columns.
    """

    ndim = 2

    def __init__(self, source, select, columns=None):
        self.source = source
        self.select = select
        self.columns = columns
        n, width = source.shape
        self.shape = n, width if columns is None else len(columns)
        self.dtype = as_array(torch.empty(0, dtype=source.stored)).dtype
        self.mean = self.scale = None
        self.checked = False
        self._resident = None

    def __len__(self):
        return self.shape[0]

    def __array__(self, *_, **__):
        raise self.refusal()

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            raise self.refusal()
        start, stop, _ = rows.indices(len(self))
        values = as_array(self.source.read(start, stop))
        try:
            return self.select(values)
        except ValueError as error:
            if np.isfinite(values).all():
                raise

            def fails(row):
                try:
                    self.select(values[: row + 1])
                except ValueError:
                    return True
                return False

            # Other columns are not checked, so that the check itself reports the row.
            row = start + bisect.bisect_left(range(len(values)), True, key=fails)
            reason = getattr(error, "brief", error)
            raise ImplicitRMError(f"row {row} of X={self.source.name!r}: {reason}") from error

    def scaled_by(self, scaler):
        """Set the scaler that standardises the rows in training, None for no scaling."""
        self.mean, self.scale = (None, None) if scaler is None else (scaler.mean_, scaler.scale_)
        return self

    def on(self, device):
        """Return all rows, as they are stored, on a device that has room for them."""
        if self._resident is None:
            rows = max(BLOCK_BYTES // (self.source.shape[1] * self.source.stored.itemsize), 1)
            blocks = (
                (start, self.source.read(start, min(start + rows, len(self))))
                for start in range(0, len(self), rows)
            )
            self._resident = torch.empty(self.source.shape, dtype=self.source.stored, device=device)
            for start, block in read_ahead(blocks):
                self._resident[start : start + len(block)] = block
        return self._resident

    def refusal(self):
        """Return the error for callers that need rows in any order."""
        return self.source.refusal()


def chunks(X, size=CHUNK_ROWS):
    """Yield (start, rows) of X in order, as arrays; files are read one block ahead."""
    starts = range(0, len(X), size)
    parts = ((start, X[start : start + size]) for start in starts)
    if not isinstance(X, StreamedX):
        yield from parts
        return
    yield from read_ahead(parts)
    X.checked = True


def picked(X, rows, size=CHUNK_ROWS):
    """Yield (slice of rows, X of these rows) for sorted row numbers `rows`."""
    if not isinstance(X, StreamedX):
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield part, X[rows[part]]
        return
    for start, block in chunks(X, size):
        part = slice(*np.searchsorted(rows, [start, start + len(block)]))
        if part.start < part.stop:
            yield part, block[rows[part] - start]


def read_ahead(items, depth=1):
    """Yield the items of an iterable, which runs in a thread, `depth` items ahead.

    An exception in the thread is raised here. The thread ends with the iterable, or when this
    generator is closed.
    """
    ready, closed = queue.Queue(depth), threading.Event()

    def put(item):
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def work():
        error = None
        try:
            for item in items:
                put((item,))
                del item  # frees a large item before the next is made
                if closed.is_set():
                    break
        except BaseException as caught:
            error = caught
        put(error)

    thread = threading.Thread(target=work, name="implicitrm_sk read ahead", daemon=True)
    thread.start()
    try:
        while isinstance(item := ready.get(), tuple):
            yield item[0]
            del item
        if item is not None:
            raise item
    finally:
        closed.set()
        while thread.is_alive():
            with ready.mutex:
                ready.queue.clear()
                ready.not_full.notify()
            thread.join(0.01)
