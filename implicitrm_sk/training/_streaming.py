"""Rows served in batches from files that do not fit into memory."""

from contextlib import closing

import numpy as np
import torch

from .._sources import chunks, read_ahead
from .._validation import in_range
from ._rows import ResidentRows

#: Bytes of blocks that are shuffled together.
WINDOW_BYTES = 2**26
#: Windows in memory: one in use, one ready, one being read.
N_BUFFERS = 3
#: The rows stay in a GPU's memory if they need at most this share of it.
RESIDENT_SHARE = 0.5


class StreamedRows(ResidentRows):
    """Responses whose rows of X are read from files, block by block, ahead of their use.

    Each pass takes the blocks in a new order. It puts as many side by side as make a window of
    `WINDOW_BYTES`, and shuffles the rows of the window. Every row is served once per pass, every
    batch but the last is full, and no row is read alone. The mixing of rows depends on the windows:
    rows of one block always come in the same window, with other blocks each time.

    If the rows fit into half of a GPU's memory, they are read once and stay there, in the number
    format of the file. Order and batches are the same.

    Parameters
    ----------
    X : StreamedX
        Rows with the `mean` and `scale` that standardise them.
    rows, responses, sample_weight, part, batch_size, generator :
        As in `ResidentRows`, on the device; every row is a response.
    offsets, partners : None
        Not available: such batches need rows in any order.
    """

    def __init__(
        self,
        X,
        rows,
        responses,
        sample_weight,
        part,
        batch_size,
        *,
        offsets=None,
        generator=None,
        partners=None,
    ):
        if offsets is not None or partners is not None:
            raise X.refusal()
        super().__init__(X, rows, responses, sample_weight, part, batch_size, generator=generator)
        if not X.checked:
            for _ in chunks(X):
                pass
        device, self.dtype = sample_weight.device, sample_weight.dtype
        self.compute = torch.float64 if X.dtype == np.float64 else torch.float32
        self.columns, self.mean, self.scale = (
            None if values is None else torch.as_tensor(values, dtype=kind, device=device)
            for values, kind in (
                (X.columns, torch.int64),
                (X.mean, self.compute),
                (X.scale, self.compute),
            )
        )
        self.is_part = np.zeros(len(X), dtype=bool)
        self.is_part[part.cpu().numpy()] = True
        self.edges = np.array(X.source.edges())
        self.blocks = np.flatnonzero(np.logical_or.reduceat(self.is_part, self.edges[:-1]))

    def __iter__(self):
        """Yield (X, None), fields of `Batch`, weights."""
        for X, rows in self._batches():
            yield self._batch(X, rows)

    def _batch(self, X, rows):
        if self.columns is not None:
            X = X.index_select(1, self.columns)
        X = X.to(self.compute)
        if self.mean is not None:
            X = (X - self.mean).div_(self.scale)
        fields = {name: value.index_select(0, rows) for name, value in self.rows.items()}
        for name, value in self.responses.items():
            fields[name] = value.index_select(-1, rows)
        return (in_range(X, self.dtype), None), fields, self.sample_weight.index_select(-1, rows)

    def _batches(self):
        """Yield the rows of each batch, as they are stored, and their numbers."""
        held_X = held = None
        for window, position, rows in self._windows():
            if self.generator is not None:
                order = torch.randperm(len(rows), generator=self.generator, device=rows.device)
                position, rows = position[order], rows[order]
            n_held = 0 if held is None else len(held)
            cuts = list(range(self.batch_size - n_held, len(rows), self.batch_size))
            pieces = zip(position.tensor_split(cuts), rows.tensor_split(cuts), strict=True)
            for i, (piece, numbers) in enumerate(pieces):
                X = window.index_select(0, piece)
                if i == 0 and n_held:
                    X, numbers = torch.cat([held_X, X]), torch.cat([held, numbers])
                    held_X = held = None  # frees the memory while the batch is in use
                if i < len(cuts):
                    yield X, numbers
                else:
                    held_X, held = X, numbers
        if held is not None and len(held):
            yield held_X, held

    def _windows(self):
        """Yield windows on the device: rows as stored, positions of the part's, their numbers."""
        blocks = self.blocks
        if self.generator is not None:
            device = self.generator.device
            order = torch.randperm(len(blocks), generator=self.generator, device=device)
            blocks = blocks[order.cpu().numpy()]
        source, device = self.X.source, self.sample_weight.device
        row_bytes = source.shape[1] * source.stored.itemsize
        sizes = self.edges[blocks + 1] - self.edges[blocks]
        # A window holds at least one block, of any size, and some batches if rows are to mix.
        capacity = max(WINDOW_BYTES // row_bytes, sizes.max())
        if self.generator is not None:
            capacity = max(capacity, 4 * self.batch_size)
        windows = [blocks[window] for window in _fill(sizes, capacity)]
        resident = self.X.on(device) if source.nbytes <= _room(device) else None
        if resident is not None:
            for window in windows:
                rows = torch.from_numpy(self._numbers(window)[1]).to(device)
                yield resident, rows, rows
            return
        # Another thread writes into them, without the inference mode that may be active here.
        with torch.inference_mode(False):
            buffers = [
                torch.empty(
                    (min(capacity, sizes.sum()), source.shape[1]),
                    dtype=source.stored,
                    pin_memory=device.type == "cuda",
                )
                for _ in range(min(N_BUFFERS, len(windows)))
            ]
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None

        def read():
            for i, window in enumerate(windows):
                buffer, end = buffers[i % len(buffers)], 0
                for block in window:
                    start, stop = self.edges[block : block + 2].tolist()
                    source.read(start, stop, buffer[end : end + stop - start])
                    end += stop - start
                position, rows = map(torch.from_numpy, self._numbers(window))
                tensors = buffer[:end], position, rows
                if stream is not None:
                    with torch.cuda.stream(stream):
                        tensors = [part.to(device, non_blocking=True) for part in tensors]
                    # This thread waits until the buffer is free; the training does not.
                    stream.synchronize()
                yield [part.to(device) for part in tensors]

        with closing(read_ahead(read())) as ready:
            for tensors in ready:
                if stream is not None:
                    for part in tensors:
                        part.record_stream(torch.cuda.current_stream(device))
                yield tensors

    def _numbers(self, blocks):
        """Return the part's rows in some blocks: positions in the window, and numbers."""
        rows = np.concatenate([np.arange(*self.edges[block : block + 2]) for block in blocks])
        position = np.flatnonzero(self.is_part[rows])
        return position, rows[position]


def _room(device):
    """Return how many bytes of X may stay on the device, which depends on the device alone."""
    if device.type != "cuda":
        return 0
    return RESIDENT_SHARE * torch.cuda.get_device_properties(device).total_memory


def _fill(sizes, capacity):
    """Return slices of consecutive blocks that hold at most `capacity` rows each."""
    ends = np.cumsum(sizes)
    windows, start = [], 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + capacity, side="right"))
        windows.append(slice(start, stop))
        start = stop
    return windows
