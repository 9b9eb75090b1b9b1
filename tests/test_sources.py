"""X from files: every form is read alike, and what is large is never held."""

import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from conftest import make_log
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from implicitrm_sk import (
    Checkpoint,
    ImplicitRewardEstimator,
    _prediction,
    _sources,
    identification_report,
)
from implicitrm_sk._fit import begin_fit
from implicitrm_sk._sources import StreamedX, chunks, open_rows, picked, read_ahead
from implicitrm_sk.training import _data, _streaming
from implicitrm_sk.training._rows import ResidentRows
from implicitrm_sk.training._split import row_codes
from implicitrm_sk.training._streaming import StreamedRows, _fill

FAST = {"random_state": 0, "max_epochs": 4, "learning_rate_init": 3e-3}
# `fit` and the rest warn that few epochs were trained.
pytestmark = pytest.mark.filterwarnings("ignore:.*still improving")


def by_three_columns(X, rng):
    return X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=len(X)) > 0


def draw_log(n=600, d=5, seed=0, dtype=np.float32):
    """Return X, two signals and the preference behind them, not linear in X."""
    X, y, preferred = make_log(n, d, 2, seed, preferred=by_three_columns, propensity=0.5)
    return X.astype(dtype), y.astype(float), preferred


class Watches:
    """A callback that does nothing."""

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context): ...


def begun_fit(X, y, batch_size=256, **fit_params):
    """Return the data and the plan of a fit."""
    est = ImplicitRewardEstimator(batch_size=batch_size, **FAST)
    return begin_fit(est, open_rows(X), y, **fit_params)


@pytest.fixture
def streaming(monkeypatch):
    """Stream whatever is not tiny, in many small blocks and windows."""
    monkeypatch.setattr(_sources, "STREAM_BYTES", 1000)
    monkeypatch.setattr(_sources, "BLOCK_BYTES", 400)
    monkeypatch.setattr(_streaming, "WINDOW_BYTES", 4000)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if "read ahead" in t.name]


def write_parquet(path, X, **options):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    cells = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    table = pa.table({"id": np.arange(len(X)), "embedding": cells})
    pq.write_table(table, path, **options)


def write(kind, folder, X):
    """Write X in one of the forms that are read, and return what to pass."""
    folder.mkdir(exist_ok=True)
    path = folder / f"X.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "safetensors":
        save_file({"X": torch.from_numpy(X)}, path)
    elif kind == "parquet":
        write_parquet(path, X, row_group_size=37)
    elif kind == "memmap":
        np.save(folder / "X.npy", X)
        return np.load(folder / "X.npy", mmap_mode="r")
    else:
        kind = kind.removeprefix("folder of ")
        path = folder / "shards"
        path.mkdir()
        for i, part in enumerate(np.array_split(X, [0, 7, 100, 350])):
            write(kind, path, part)
            os.rename(path / f"X.{kind}", path / f"{i}.{kind}")
    return path


FORMS = (
    "npy",
    "safetensors",
    "parquet",
    "folder of npy",
    "folder of safetensors",
    "folder of parquet",
)


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_rows(form, dtype, tmp_path, streaming):
    X = draw_log(dtype=dtype)[0]
    source = open_rows(write(form, tmp_path, X))
    assert source.shape == X.shape
    assert_array_equal(source.read(0, len(X)).numpy(), X)
    for start, stop in ((5, 9), (0, 1), (340, 360), (599, 600), (90, 480), (3, 3)):
        assert_array_equal(source.read(start, stop).numpy(), X[start:stop])
    edges = source.edges()
    assert edges[0] == 0
    assert edges[-1] == len(X)
    assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize("form", [*FORMS, "memmap"])
def test_small_files_are_the_array(form, tmp_path):
    X = draw_log()[0]
    found = open_rows(write(form, tmp_path, X))
    assert isinstance(found, np.ndarray)
    assert_array_equal(found, X)


def test_bfloat16_is_read_as_it_is(tmp_path, streaming):
    X = torch.randn(200, 5).to(torch.bfloat16)
    save_file(
        {"embedding": X, "other": torch.zeros(3, 3), "bias": torch.zeros(3)},
        tmp_path / "a.safetensors",
    )
    source = open_rows(tmp_path / "a.safetensors")
    assert torch.equal(source.read(3, 150), X[3:150])
    streamed = StreamedX(source, lambda rows: rows)
    assert streamed.dtype == np.float32
    assert_array_equal(streamed[10:20], X[10:20].float().numpy())


MAPPED = {
    "whole": lambda X: X,
    "rows": lambda X: X[100:500],
    "every second row": lambda X: X[::2],
    "columns": lambda X: X[:, :3],
    "transposed": lambda X: X.T,
    "integers": lambda X: X.view(np.int32),
    "one-dimensional": lambda X: X.reshape(-1, order="A"),
}


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("part", MAPPED)
def test_large_mapped_arrays_are_refused(part, order, mode, tmp_path, streaming):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", np.asarray(X, order=order))
    mapped = MAPPED[part](np.load(tmp_path / "X.npy", mmap_mode=mode))
    message = (
        r"X is an np.memmap of .* GiB "
        rf"\({mapped.dtype} of shape {re.escape(str(mapped.shape))}, mapped from '.*X.npy'\)"
        r".* expected the path of a file .* pass its path.* np.save.* pass np.array\(X\)"
    )
    with pytest.raises(ValueError, match=message):
        open_rows(mapped)
    copied = np.array(mapped)  # what the message says
    assert open_rows(copied) is copied


@pytest.mark.parametrize("change", ["none", "other rows", "cut", "removed"])
def test_mapped_arrays_are_refused_whatever_became_of_their_file(change, tmp_path, streaming):
    path = tmp_path / "X.npy"
    mapped = np.memmap(path, np.float32, "w+", shape=(600, 5))
    if change == "other rows":
        np.save(tmp_path / "new.npy", draw_log()[0])
        os.replace(tmp_path / "new.npy", path)
    elif change == "cut":
        os.truncate(path, 5000)  # whoever touched the last rows would be killed
    elif change == "removed":
        os.unlink(path)
    with pytest.raises(ValueError, match="got an np.memmap"):
        open_rows(mapped)


def test_what_is_said_of_mapped_arrays_works(tmp_path, streaming):
    X, y, _ = draw_log()
    mapped = np.load(write("npy", tmp_path, np.asfortranarray(X)), mmap_mode="r")
    (tmp_path / "parts").mkdir()
    for i in range(3):
        np.save(tmp_path / "parts" / f"{i}.npy", mapped[200 * i : 200 * (i + 1)])
    est = ImplicitRewardEstimator(**FAST).fit(tmp_path / "parts", y)
    assert_array_equal(est.predict(tmp_path / "parts"), est.predict(np.array(mapped)))
    np.save(tmp_path / "rows.npy", np.load(tmp_path / "parts" / "0.npy", mmap_mode="r")[50:150])
    assert_array_equal(est.predict(tmp_path / "rows.npy"), est.predict(X[50:150]))


def test_arrays_in_memory_that_come_of_mapped_ones(tmp_path, streaming):
    mapped = write("memmap", tmp_path, draw_log()[0])
    for X in (mapped.copy(), mapped.astype(np.float64), mapped[::-1] * 2, mapped[[3, 1] * 300]):
        assert open_rows(X) is X
    small = mapped[:40]
    assert open_rows(small) is small


def test_parts_of_small_mapped_arrays_are_arrays(tmp_path):
    mapped = write("memmap", tmp_path, draw_log()[0])
    for take in MAPPED.values():
        part = take(mapped)
        assert open_rows(part) is part


def test_arrays_of_joblib_are_arrays(tmp_path, streaming):
    folder = tmp_path / "joblib_memmapping_folder_1_2"
    mapped = write("memmap", folder, draw_log()[0])
    assert open_rows(mapped) is mapped


def test_other_values_pass_through():
    for X in ([[1.0]], np.zeros((2, 2)), torch.zeros(2, 2), ["text"], None):
        assert open_rows(X) is X


def broken(tmp_path, problem):
    path = tmp_path / "X.npy"
    X = draw_log()[0]
    if problem == "absent":
        return path
    if problem == "ending":
        path = tmp_path / "X.csv"
        path.write_text("1,2")
    elif problem == "empty folder":
        return tmp_path
    elif problem == "mixed folder":
        np.save(path, X)
        save_file({"X": torch.from_numpy(X)}, tmp_path / "X.safetensors")
        return tmp_path
    elif problem in ("widths", "dtypes"):
        np.save(path, X)
        np.save(tmp_path / "Y.npy", X[:, :4] if problem == "widths" else X.astype(np.float16))
        return tmp_path
    elif problem == "integers":
        np.save(path, X.astype(np.int32))
    elif problem == "columns first":
        np.save(path, np.asfortranarray(X))
    elif problem == "one-dimensional":
        np.save(path, X.ravel())
    elif problem == "no npy":
        path.write_bytes(b"\x00" * 2000)
    elif problem == "cut npy":
        np.save(path, X)
        os.truncate(path, 5000)
    elif problem == "no safetensors":
        path = tmp_path / "X.safetensors"
        path.write_bytes(b"\xff" * 2000)
    elif problem == "several tensors":
        path = tmp_path / "X.safetensors"
        save_file({"a": torch.zeros(90, 3), "b": torch.zeros(90, 3)}, path)
    elif problem == "no lists":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "X.parquet"
        pq.write_table(pa.table({"a": [1.0]}), path)
    elif problem == "ragged":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "X.parquet"
        pq.write_table(pa.table({"a": [[1.0, 2.0]] * 599 + [[1.0]]}), path)
    elif problem in ("no bytes", "folder in folder"):
        np.save(tmp_path / "W.npy", X)
        path.mkdir() if problem == "folder in folder" else path.write_bytes(b"")
        return tmp_path
    elif problem in ("no parquet", "damaged parquet"):
        path = tmp_path / "X.parquet"
        write_parquet(path, X, row_group_size=50)
        content = path.read_bytes()
        whole = len(content) if problem == "no parquet" else 2000
        path.write_bytes(b"\xff" * whole + content[whole:])
    elif problem == "row groups":
        path = tmp_path / "X.parquet"
        write_parquet(path, X)
    return path


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("absent", "does not exist. A string given as X is the path"),
        ("ending", r"ends in '.csv'; expected a file that ends in .npy, .safetensors"),
        ("empty folder", "folder with files of none of the kinds"),
        ("mixed folder", r"files of 2 of the kinds .* \(.npy, .safetensors\); expected"),
        ("widths", "X.npy has 5 columns of torch.float32, Y.npy has 4"),
        ("dtypes", "Y.npy has 5 of torch.float16; expected parts of one"),
        ("integers", r"holds int32 of shape \(600, 5\); expected float16, bfloat16"),
        ("columns first", "column by column"),
        ("one-dimensional", r"shape \(3000,\); expected"),
        ("no npy", "is not a readable .npy file"),
        ("cut npy", "has 5,000 bytes, but an array of shape .* needs 12,128"),
        ("no safetensors", "is not a valid safetensors file"),
        ("several tensors", "2 two-dimensional tensors .a, b.; expected one"),
        ("no lists", "has no column of lists of floats .a.; expected one"),
        ("ragged", r"row 599 of .*X.parquet.* holds a list of 1 .* list of 2 numbers in each row"),
        ("no bytes", "X.npy' is not a readable .npy file"),
        ("folder in folder", "X.npy' is a folder; expected only files in X="),
        ("no parquet", "X.parquet' is not a readable .parquet file"),
        ("damaged parquet", "X.parquet' is not a readable .parquet file"),
        ("row groups", "row groups of up to 600 rows .* Write it with row_group_size="),
    ],
)
def test_files_that_cannot_be_used_say_why(problem, message, tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(_sources.ParquetShard, "MAX_GROUP_BYTES", 4000)
    X = broken(tmp_path, problem)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImplicitRewardEstimator(**FAST).fit(X, draw_log()[1])


@pytest.mark.parametrize("content", [b"", b"no array" * 9, "cut"])
def test_small_files_that_cannot_be_read_are_named(content, tmp_path):
    np.save(tmp_path / "X.npy", draw_log()[0])
    if content == "cut":
        os.truncate(tmp_path / "X.npy", 5000)
    else:
        (tmp_path / "X.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"X.npy' is not a readable .npy file: .*\w"):
        open_rows(tmp_path / "X.npy")


RAGGED = [
    (-1, 0, None, "row 0 of .* holds null .* list of as many numbers"),
    (2, 0, None, "row 0 of .* holds null .* list of 2 numbers"),
    (-1, 0, [], "row 0 of .* holds a list of 0 .* list of as many numbers"),
    (-1, 417, None, "row 417 of .* holds null .* list of 2 numbers"),
    (2, 417, None, "row 417 of .* holds null .* list of 2 numbers"),
    (-1, 417, [None, 1.0], "row 417 of .* holds a list of 2 with 1 null"),
    (2, 417, [None, 1.0], "row 417 of .* holds a list of 2 with 1 null"),
    (-1, 417, [1.0], "row 417 of .* holds a list of 1 .* list of 2 numbers"),
    # As many numbers in all as there should be.
    (-1, slice(417, 419), [[1.0], [2.0, 3.0, 4.0]], "row 417 of .* holds a list of 1"),
]


@pytest.mark.parametrize(("size", "row", "value", "message"), RAGGED)
def test_each_row_of_parquet_is_a_whole_vector(size, row, value, message, tmp_path, streaming):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [[1.0, 2.0]] * 600
    rows[row] = value
    cells = pa.array(rows, pa.list_(pa.float32(), size))
    pq.write_table(pa.table({"a": cells}), tmp_path / "X.parquet", row_group_size=100)
    with pytest.raises(ValueError, match=message):
        source = open_rows(tmp_path / "X.parquet")
        source.read(0, 390)  # the error is not of what was read before
        source.read(390, 600)


def test_opening_parquet_decodes_no_row_group(tmp_path, streaming, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "lists").mkdir()
    X = draw_log()[0]
    for i in range(3):
        cells = pa.array(list(X), pa.list_(pa.float32()))
        pq.write_table(pa.table({"a": cells}), tmp_path / "lists" / f"{i}.parquet")
    decoded, real = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda file, *args, **kwargs: decoded.append(args) or real(file, *args, **kwargs),
    )
    for path in (tmp_path / "lists", write("folder of parquet", tmp_path, X)):
        source = open_rows(path)
        assert source.shape[1] == 5
        assert not decoded
    # One row group is kept at a time, and none of which all rows were read.
    source = open_rows(tmp_path / "lists")
    for start in (0, 600, 1200):
        source.read(start, start + 7)
    assert len(decoded) == 3
    assert {len(shard._held) for shard in source.shards} == {1}
    source.read(1207, 1800)
    assert len(decoded) == 3
    assert not any(shard._held for shard in source.shards)


def test_row_groups_may_be_empty(tmp_path, streaming):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    X, y, _ = draw_log()
    path = tmp_path / "X.parquet"
    parts = [X[:0], X[:100], X[:0], X[100:400], X[400:], X[:0]]
    tables = [
        pa.table({"a": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), 5)})
        for part in parts
    ]
    with pq.ParquetWriter(path, tables[0].schema) as file:
        for table in tables:
            file.write_table(table)
    assert open_rows(path).edges() == [0, 100, 400, 600]
    assert_array_equal(open_rows(path).read(0, 600).numpy(), X)
    est = ImplicitRewardEstimator(**FAST).fit(path, y)
    assert_array_equal(est.predict(path), est.predict(X))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["replaced", "written to", "cut", "removed"])
def test_a_file_that_changes_while_in_use(form, change, tmp_path, streaming):
    X = draw_log()[0]
    path = write(form, tmp_path, X)
    source = open_rows(path)
    source.read(500, 600)
    file = sorted(path.iterdir())[-1] if path.is_dir() else path
    before = file.stat()
    if change == "replaced":
        (tmp_path / "new").write_bytes(file.read_bytes())
        os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "new", file)
    elif change == "written to":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "cut":
        os.truncate(file, 900)
    else:
        os.unlink(file)
    with pytest.raises(OSError, match=rf"{file.name}' changed while it was in use.* Start again"):
        source.read(500, 600)


def test_a_file_that_changes_during_a_fit(tmp_path, streaming):
    X, y, _ = draw_log()
    path = write("npy", tmp_path, X)

    class Writes(Watches):
        def on_fit_task_end(self, estimator, context):
            with open(path, "r+b") as file:  # a single number, at its place
                file.seek(-4, os.SEEK_END)
                file.write(np.float32(1e6).tobytes())

    with pytest.raises(OSError, match="X.npy' changed while it was in use"):
        ImplicitRewardEstimator(**FAST).set_callbacks(Writes()).fit(path, y)


def test_a_file_cut_under_the_eyes_of_a_reader(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(_sources, "_state", lambda file: (10**6, 0, 0))  # as before it was cut
    source = open_rows(write("npy", tmp_path, draw_log()[0]))
    os.truncate(tmp_path / "X.npy", 5000)
    with pytest.raises(OSError, match="changed while it was in use"):
        source.read(500, 600)


def test_small_npy_files_may_be_of_any_numbers(tmp_path):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", np.asfortranarray((4 * X).astype(int)))
    expected = ImplicitRewardEstimator(**FAST).fit((4 * X).astype(int), y).predict(X)
    assert_array_equal(
        ImplicitRewardEstimator(**FAST).fit(str(tmp_path / "X.npy"), y).predict(X), expected
    )


# ---------------------------------------------------------------------- reading ahead


def test_read_ahead_keeps_order_and_hands_on_errors():
    assert list(read_ahead(iter(range(50)))) == list(range(50))

    def fails():
        yield 1
        raise ZeroDivisionError("in the thread")

    items = read_ahead(fails())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(items)


def test_the_thread_ends_with_the_reader():
    made = []

    def endless():
        while True:
            made.append(None)
            yield len(made)

    items = read_ahead(endless())
    assert [next(items), next(items)] == [1, 2]
    items.close()
    assert not [t for t in threading.enumerate() if "read ahead" in t.name]
    assert len(made) <= 5  # not far ahead


def test_reading_is_ahead_of_the_reader():
    """Two things that take turns waiting for each other would end here, in a deadlock."""
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    reader = read_ahead(items())
    assert next(reader) == 1
    assert second.wait(10)
    assert next(reader) == 2
    reader.close()


def test_what_training_raises_ends_the_thread(tmp_path, streaming):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)

    class Breaks(Watches):
        def on_fit_task_end(self, estimator, context):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImplicitRewardEstimator(**FAST).set_callbacks(Breaks()).fit(tmp_path / "X.npy", y)
    with pytest.raises(FloatingPointError, match="diverged"):
        ImplicitRewardEstimator(**(FAST | {"learning_rate_init": 1e30})).fit(tmp_path / "X.npy", y)


# ---------------------------------------------------------------------- batches


def streamed_rows(tmp_path, n=230, batch_size=32, part=None, seed=0, generator=True, **kwargs):
    X = np.arange(n * 5, dtype=np.float32).reshape(n, 5)
    np.save(tmp_path / "X.npy", X)
    streamed = StreamedX(open_rows(tmp_path / "X.npy"), lambda rows: rows, **kwargs)
    rows = {"actions": torch.arange(n, dtype=torch.float32)[:, None]}
    responses = {"labels": torch.arange(n, dtype=torch.float32)}
    part = torch.arange(n) if part is None else part
    generator = torch.Generator().manual_seed(seed) if generator else None
    weight = torch.arange(n, dtype=torch.float32)
    return StreamedRows(
        streamed, rows, responses, weight, part, batch_size, generator=generator
    ), torch.from_numpy(X)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 113, 229, 230, 1000])
@pytest.mark.parametrize("shuffled", [True, False])
def test_each_pass_serves_every_row_once(batch_size, shuffled, tmp_path, streaming):
    part = torch.cat([torch.arange(20, 130), torch.arange(190, 230)])
    served, X = streamed_rows(tmp_path, part=part, batch_size=batch_size, generator=shuffled)
    orders = []
    for _ in range(2):
        seen = []
        for (batch, first), fields, weight in served:
            assert first is None
            numbers = fields["actions"][:, 0].long()
            assert torch.equal(batch, X[numbers])
            assert torch.equal(fields["labels"], numbers.float())
            assert torch.equal(weight, numbers.float())
            seen.append(numbers)
        assert [len(batch) for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)
        assert 0 < len(seen[-1]) <= batch_size
        orders.append(torch.cat(seen))
        assert torch.equal(orders[-1].sort().values, part)
    assert torch.equal(*orders) == (not shuffled)
    if not shuffled:
        assert torch.equal(orders[0], part)


def test_blocks_and_the_rows_of_a_window_are_mixed(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(_streaming, "WINDOW_BYTES", 4000)  # 10 blocks of 20 rows
    n = 4000
    served, _ = streamed_rows(tmp_path, n=n, batch_size=50)
    order = torch.cat([fields["labels"] for _, fields, _ in served]).long()
    blocks = order // 20
    # Rows that follow one another come from any place of the file ...
    assert (order.diff().abs() < 20).float().mean() < 0.15
    assert np.corrcoef(order.numpy(), np.arange(n))[0, 1] ** 2 < 0.05
    # ... and a batch of 50 from nearly as many of its window's blocks as chance allows.
    assert np.mean([len(batch.unique()) for batch in blocks.split(50)]) > 9.5
    # A window is ten whole blocks, not the whole file, and others meet in the next epoch.
    again = torch.cat([fields["labels"] for _, fields, _ in served]).long() // 20
    windows, others = (
        {frozenset(window.unique().tolist()) for window in epoch.split(200)}
        for epoch in (blocks, again)
    )
    assert {len(window) for window in (*windows, *others)} == {10}
    assert not windows & others


@pytest.mark.parametrize(
    ("batch_size", "shuffled", "rows"),
    [(20, True, 200), (100, True, 400), (100, False, 200), (1000, False, 200)],
)
def test_size_of_windows(batch_size, shuffled, rows, tmp_path, streaming, monkeypatch):
    """Whole batches take part in the size where rows are shuffled only: they cost memory."""
    buffers, real = [], torch.empty

    def empty(shape, **kwargs):
        if "pin_memory" in kwargs:
            buffers.append(shape)
        return real(shape, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    served, _ = streamed_rows(tmp_path, n=4000, batch_size=batch_size, generator=shuffled)
    sizes = [len(window) for window, _, _ in served._windows()]
    assert sizes == [rows] * (4000 // rows)
    assert buffers == [(rows, 5)] * 3


def test_rows_of_a_window_come_shuffled(tmp_path, streaming):
    served, _ = streamed_rows(tmp_path, n=200, batch_size=50)  # one window
    orders = [torch.cat([fields["labels"] for _, fields, _ in served]) for _ in range(2)]
    for order in orders:
        assert (order.diff() == 1).float().mean() < 0.05
    assert (orders[0] == orders[1]).float().mean() < 0.05


def test_a_seed_means_an_order(tmp_path, streaming):
    first, again, other = (
        [fields["labels"] for _, fields, _ in streamed_rows(tmp_path, seed=seed)[0]]
        for seed in (0, 0, 1)
    )
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_blocks_without_rows_of_the_part_are_not_read(tmp_path, streaming, monkeypatch):
    served, _ = streamed_rows(tmp_path, n=400, part=torch.arange(80, 120), generator=False)
    list(served)  # checks X, reading all of it
    read = []
    real = _sources.FlatShard.read
    monkeypatch.setattr(
        _sources.FlatShard,
        "read",
        lambda shard, start, stop, out: read.append((start, stop)) or real(shard, start, stop, out),
    )
    list(served)
    assert read == [(80, 100), (100, 120)]


def test_rows_kept_on_the_device_come_in_the_same_batches(tmp_path, streaming, monkeypatch):
    X, y, _ = draw_log()
    path = write("npy", tmp_path, X)
    settings = FAST | {"propensity_features": [3], "reward_features": [0, 1, 2]}
    read = ImplicitRewardEstimator(**settings).fit(path, y)
    monkeypatch.setattr(_streaming, "_room", lambda device: 10**9)
    kept = ImplicitRewardEstimator(**settings).fit(path, y)
    assert kept.history_ == read.history_
    assert_array_equal(kept.predict(X), read.predict(X))


def test_windows_are_filled_but_never_over_filled():
    sizes = np.array([3, 3, 3, 10, 1, 9, 2])
    assert [sizes[part].tolist() for part in _fill(sizes, 10)] == [[3, 3, 3], [10], [1, 9], [2]]


def test_streamed_and_resident_batches_hold_the_same_numbers(tmp_path, streaming):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)
    rows = {}
    for name, given in (("resident", X), ("streamed", tmp_path / "X.npy")):
        begun = begun_fit(given, y, batch_size=40)
        train, valid = begun.plan.parts(begun.data, begun.model(None), begun.random_state)
        for kind, part in (("train", train), ("valid", valid)):
            batches = list(part)
            rows[name, kind] = (
                torch.cat([batch[0][0] for batch in batches]),
                torch.cat([batch[1]["actions"] for batch in batches]),
            )
        assert isinstance(train, StreamedRows if name == "streamed" else ResidentRows)
    for kind in ("train", "valid"):
        (a, actions_a), (b, actions_b) = rows["resident", kind], rows["streamed", kind]
        if kind == "train":
            by = [np.lexsort(x.numpy().T) for x in (a, b)]
            a, actions_a, b, actions_b = a[by[0]], actions_a[by[0]], b[by[1]], actions_b[by[1]]
        assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert torch.equal(actions_a, actions_b)


# ---------------------------------------------------------------------- the estimator


@pytest.mark.parametrize("form", [*FORMS, "memmap"])
def test_small_files_fit_as_the_array_does(form, tmp_path):
    X, y, _ = draw_log()
    expected = ImplicitRewardEstimator(**FAST).fit(X, y)
    est = ImplicitRewardEstimator(**FAST).fit(write(form, tmp_path, X), y)
    assert_array_equal(est.predict(X), expected.predict(X))


def test_every_large_form_fits_alike(tmp_path, streaming):
    X, y, _ = draw_log()
    forms = [form for form in FORMS if "parquet" not in form]  # whose blocks are row groups
    fitted = [
        ImplicitRewardEstimator(**FAST).fit(write(form, tmp_path / form, X), y).predict(X)
        for form in forms
    ]
    for predicted in fitted[1:]:
        assert_array_equal(predicted, fitted[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npy", "folder of parquet"])
def test_streaming_learns_as_well(form, tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(_sources, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(_streaming, "WINDOW_BYTES", 16_000)
    X, y, _ = draw_log(2500)
    X_test, y_test, preferred = draw_log(3000, seed=1)
    settings = {"random_state": 0, "learning_rate_init": 1e-2, "max_epochs": 25}
    resident = ImplicitRewardEstimator(**settings).fit(X, y)
    streamed = ImplicitRewardEstimator(**settings).fit(write(form, tmp_path, X), y)
    ours, theirs = (est.score(X_test, y_test) for est in (streamed, resident))
    assert abs(ours - theirs) < 0.01
    truth = [est.score(X_test, y_test, true_preference=preferred) for est in (streamed, resident)]
    assert truth[0] > truth[1] - 0.02 > 0.5


def test_half_precision_costs_next_to_nothing(tmp_path, streaming):
    X, y, preferred = draw_log(2000)
    settings = {"random_state": 0, "learning_rate_init": 1e-2, "max_epochs": 12}
    scores = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        path = tmp_path / f"{dtype}.safetensors"
        save_file({"X": torch.from_numpy(X).to(dtype)}, path)
        est = ImplicitRewardEstimator(**settings).fit(path, y)
        scores[dtype] = est.score(path, y, true_preference=preferred)
    assert max(scores.values()) - min(scores.values()) < 0.02
    assert scores[torch.float32] > 0.5


METHODS = {
    "predict": lambda est, X, y: est.predict(X),
    "predict with spread": lambda est, X, y: np.stack(est.predict(X, return_std=True)),
    "decision_function": lambda est, X, y: est.decision_function(X),
    "predict_proba": lambda est, X, y: est.predict_proba(X),
    "posterior": lambda est, X, y: est.predict_proba(X, y),
    "predict_action": lambda est, X, y: est.predict_action(X),
    "propensity": lambda est, X, y: est.propensity(X),
    "score": lambda est, X, y: est.score(X, y),
    "score of truth": lambda est, X, y: est.score(X, y, true_preference=y[:, 0]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["npy", "folder of safetensors", "folder of parquet"])
def test_methods_take_files(form, method, tmp_path, streaming, monkeypatch):
    monkeypatch.setattr(_data, "INFERENCE_ROWS", 128)
    monkeypatch.setattr(_prediction, "INFERENCE_ROWS", 128)
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    expected = METHODS[method](est, X, y)
    assert_allclose(METHODS[method](est, write(form, tmp_path, X), y), expected, rtol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_methods_refuse_large_mapped_arrays(method, tmp_path, streaming):
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    with pytest.raises(ValueError, match="got an np.memmap"):
        METHODS[method](est, write("memmap", tmp_path, X), y)


def test_predictions_are_written_where_asked(tmp_path, streaming):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)
    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    out = np.lib.format.open_memmap(tmp_path / "reward.npy", "w+", np.float16, (len(X),))
    reward, std = est.predict(tmp_path / "X.npy", return_std=True, out=out)
    assert reward is out
    out.flush()
    assert_array_equal(np.load(tmp_path / "reward.npy"), est.predict(X).astype(np.float16))
    assert_array_equal(std, est.predict(X, return_std=True)[1])
    for wrong in (np.zeros((len(X), 1)), np.zeros(3), "reward.npy"):
        with pytest.raises(ValueError, match=r"out must be a writeable array of shape \(600,\)"):
            est.predict(X, out=wrong)


def test_columns_of_the_two_heads(tmp_path, streaming):
    X, y, _ = draw_log()
    path = write("npy", tmp_path, X)
    settings = FAST | {"propensity_features": [3], "reward_features": [0, 2, 1]}
    est = ImplicitRewardEstimator(**settings).fit(path, y)
    assert est.model_.config["n_in"] == 4
    assert_array_equal(est.predict(path), est.predict(X))
    with_gaps = X.copy()
    with_gaps[:, 3] = np.nan
    path = write("npy", tmp_path / "gaps", with_gaps)
    assert_array_equal(est.predict(path), est.predict(X))
    with pytest.raises(ValueError, match=r"row 0 of X=.*NaN or infinity in .* propensity"):
        est.predict_action(path)
    narrow = write("npy", tmp_path / "narrow", X[:, :3])
    with pytest.raises(ValueError, match="has 3 columns; expected 5, as in fit"):
        est.predict(narrow)
    with pytest.raises(ValueError, match="Select the columns by position"):
        ImplicitRewardEstimator(**(FAST | {"reward_features": lambda X: [0]})).fit(path, y)


@pytest.mark.parametrize("settings", [{}, {"standardize": False, "early_stopping": False}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_are_named(settings, value, tmp_path, streaming):
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    X[417, 2] = value
    path = write("npy", tmp_path, X)
    with pytest.raises(ValueError, match="row 417 of X=.*X.npy.*contains (NaN|infinity)"):
        ImplicitRewardEstimator(**(FAST | settings)).fit(path, y)
    with pytest.raises(ValueError, match="row 417 of X=.*X.npy.*contains (NaN|infinity)"):
        est.predict(path)


def test_rows_are_named_for_the_columns_in_use(tmp_path, streaming):
    X, y, _ = draw_log()
    settings = FAST | {"reward_features": [0, 1], "propensity_features": [2]}
    est = ImplicitRewardEstimator(**settings).fit(X, y)
    X[3, 4] = X[5, 4] = np.nan  # of no head
    X[17, 2] = np.nan  # of the propensity alone
    X[417, 0] = X[500, 0] = np.nan
    path = write("npy", tmp_path, X)
    with pytest.raises(ValueError, match="row 417 of X=.* reward columns .0."):
        est.predict(path)
    X[417, 0] = X[500, 0] = 0
    path = write("npy", tmp_path, X)
    with pytest.raises(ValueError, match="row 17 of X=.* propensity columns .2."):
        ImplicitRewardEstimator(**settings).fit(path, y)
    assert np.isfinite(est.predict(path)).all()


@pytest.mark.parametrize("early_stopping", [True, False])
def test_numbers_beyond_those_of_the_model_are_reported(early_stopping, tmp_path, streaming):
    X, y, _ = draw_log(dtype=np.float64)
    settings = FAST | {"standardize": False, "early_stopping": early_stopping}
    est = ImplicitRewardEstimator(**settings).fit(X, y)
    X[5, 0] = 1e300
    for given in (X, write("npy", tmp_path, X)):
        with pytest.raises(ValueError, match="X holds values beyond the range of torch.float32"):
            ImplicitRewardEstimator(**settings).fit(given, y)
        with pytest.raises(ValueError, match="X holds values beyond the range of torch.float32"):
            est.predict(given)


def test_wrong_width_is_reported_before_anything_is_read(tmp_path, streaming):
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(**FAST).fit(X, y)
    with pytest.raises(ValueError, match="X has 4 features, but .* is expecting 5"):
        est.predict(write("npy", tmp_path, X[:, :4]))


def test_split_and_scaler_are_those_of_the_array(tmp_path, streaming):
    X, y, _ = draw_log()
    X = np.concatenate([X, X[:200]])  # equal rows stay on one side
    y = np.concatenate([y, y[200:400]])
    weight = np.random.default_rng(0).uniform(0, 2, len(X))
    path = write("npy", tmp_path, X)
    streamed = StreamedX(open_rows(path), lambda rows: rows)
    assert_array_equal(row_codes(streamed), row_codes(X))
    resident, streamed = (begun_fit(given, y, sample_weight=weight).data for given in (X, path))
    assert_array_equal(resident.valid, streamed.valid)
    assert_array_equal(resident.train, streamed.train)
    assert_allclose(resident.scaler.mean_, streamed.scaler.mean_, rtol=1e-12, atol=1e-12)
    assert_allclose(resident.scaler.var_, streamed.scaler.var_, rtol=1e-12)


def test_groups_are_not_cut(tmp_path, streaming):
    X, y, _ = draw_log()
    groups = np.random.default_rng(0).integers(40, size=len(X))
    data = begun_fit(write("npy", tmp_path, X), y, groups=groups).data
    sides = [set(groups[part]) for part in (data.train, data.valid)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "bpr"},
        {"objective": "counterif"},
        {"response_id": np.arange(600) // 2},
    ],
    ids=str,
)
def test_what_needs_rows_in_any_order_is_refused(settings, tmp_path, streaming):
    X, y, _ = draw_log()
    side = {k: settings[k] for k in settings if k == "response_id"}
    params = {k: settings[k] for k in settings if k == "objective"}
    X = np.repeat(X[::2], 2, axis=0)
    with pytest.raises(ValueError, match="read block by block.* pass a part that fits"):
        ImplicitRewardEstimator(**(FAST | params), false_action_rate=0.0).fit(
            write("npy", tmp_path, X), y[:, 0] if params else y, **side
        )


def test_reports_take_small_files(tmp_path, monkeypatch):
    X, y, _ = draw_log()
    path = write("npy", tmp_path, X)
    est = ImplicitRewardEstimator(**FAST)
    assert str(identification_report(est, path, y)) == str(identification_report(est, X, y))
    monkeypatch.setattr(_sources, "STREAM_BYTES", 1000)
    with pytest.raises(ValueError, match="read block by block.* reports"):
        identification_report(est, path, y)


@pytest.mark.parametrize(
    ("params", "side"),
    [
        ({"preference_rate": 0.4}, {}),
        ({"objective": "naive"}, {}),
        ({"objective": "ips"}, {}),
        ({"false_action_rate": "estimate"}, {}),
        ({}, {"labels": "some"}),
        ({"false_action_rate": 0.0}, {"exposures": "some"}),
        ({"early_stopping": False}, {}),
    ],
    ids=str,
)
def test_settings_that_stream(params, side, tmp_path, streaming):
    rng = np.random.default_rng(1)
    X, y, preferred = draw_log(1200)
    if params.get("objective"):
        y = y[:, 0]
    if params.get("false_action_rate") == "estimate":
        more = preferred & (rng.uniform(size=len(X)) < 0.5)
        y = np.column_stack([y, more])
    side = dict(side)
    if "labels" in side:
        side["labels"] = np.where(rng.uniform(size=len(X)) < 0.1, preferred, np.nan)
    if "exposures" in side:
        side["exposures"] = np.full(len(X), 2.0)
    settings = FAST | {"max_epochs": 15} | params
    resident = ImplicitRewardEstimator(**settings).fit(X, y, **side)
    path = write("npy", tmp_path, X)
    streamed = ImplicitRewardEstimator(**settings).fit(path, y, **side)
    assert np.corrcoef(resident.predict(X), streamed.predict(path))[0, 1] > 0.97
    if "preference_rate" in params:
        assert abs(streamed.predict(X).mean() - 0.4) < 1e-5


def test_partial_fit_takes_files_and_keeps_its_optimiser(tmp_path, streaming):
    nights = [draw_log(400, seed=seed) for seed in range(3)]
    paths = [write("npy", tmp_path / f"{i}", X) for i, (X, _, _) in enumerate(nights)]
    settings = {"random_state": 0, "batch_size": 50}

    through, saved = ImplicitRewardEstimator(**settings), ImplicitRewardEstimator(**settings)
    for path, (_, y, _) in zip(paths, nights, strict=True):
        through.partial_fit(path, y)
        saved.partial_fit(path, y)
        saved.save(tmp_path / "model")
        saved = ImplicitRewardEstimator.load(tmp_path / "model")
    for ours, theirs in zip(saved.model_.parameters(), through.model_.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert_array_equal(saved.predict(paths[0]), through.predict(paths[0]))


def test_a_path_is_no_text(tmp_path, tiny_model):
    X, y, _ = draw_log(200)
    path = write("npy", tmp_path, X)
    est = ImplicitRewardEstimator(embedder=tiny_model(), **FAST).fit(path, y[:200])
    assert est.n_features_in_ == 5


def test_chunks_and_picked_rows_are_those_of_the_array(tmp_path, streaming):
    X = draw_log()[0]
    streamed = StreamedX(open_rows(write("npy", tmp_path, X)), lambda rows: rows)
    assert not streamed.checked
    for (i, ours), (j, theirs) in zip(chunks(streamed, 70), chunks(X, 70), strict=True):
        assert i == j
        assert_array_equal(ours, theirs)
    assert streamed.checked
    rows = np.flatnonzero(np.random.default_rng(0).uniform(size=len(X)) < 0.2)
    for given in (streamed, X):
        found = np.full((len(rows), X.shape[1]), np.nan)
        for part, block in picked(given, rows, 50):
            found[part] = block
        assert_array_equal(found, X[rows])
    with pytest.raises(ValueError, match="rows in any order"):
        np.asarray(streamed)


# ---------------------------------------------------------------------- interruption

JOB = """
    import sys, os, signal
    import numpy as np, torch
    torch.set_num_threads(1)
    from implicitrm_sk import Checkpoint, ImplicitRewardEstimator, _sources
    from implicitrm_sk.training import _streaming
    folder, where, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if where == "streamed":
        _sources.STREAM_BYTES, _sources.BLOCK_BYTES, _streaming.WINDOW_BYTES = 1000, 400, 4000

    class Kill:
        epochs = 0
        def setup(self, estimator, context): pass
        def teardown(self, estimator, context): pass
        def on_fit_task_begin(self, estimator, context, **_): pass
        def on_fit_task_end(self, estimator, context, **_):
            self.epochs += context.task_name == "epoch" and where != "writing"
            if self.epochs == last:
                os.kill(os.getpid(), signal.SIGKILL)

    n_written = 0
    def fsync(file):
        global n_written
        n_written += 1
        if n_written == last:
            os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    if where == "writing":
        os.fsync = fsync

    est = ImplicitRewardEstimator(
        random_state=0, max_epochs=8, learning_rate_init=3e-3, n_iter_no_change=3,
        preference_rate=(0.3, 0.45),
    )
    est.set_callbacks(Checkpoint(folder + "/checkpoint"), Kill())
    est.fit(folder + "/X.npy", np.load(folder + "/y.npy"))
"""


class Interrupt:
    """Stops a fit in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def setup(self, estimator, context):
        self.begun = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **_):
        self.begun += context.task_name == "epoch"
        if self.begun == self.epoch:
            raise KeyboardInterrupt

    def on_fit_task_end(self, estimator, context, **_):
        pass


def assert_same_weights(ours, theirs):
    ours, theirs = ours.model_.state_dict(), theirs.model_.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("form", ["array", "npy"])
@pytest.mark.parametrize(
    "params", [{}, {"preference_rate": (0.2, 0.45)}, {"early_stopping": False}], ids=str
)
def test_a_fit_that_is_interrupted_goes_on(form, params, tmp_path, streaming):
    X, y, _ = draw_log()
    X = X if form == "array" else write(form, tmp_path, X)
    settings = FAST | {"max_epochs": 6} | params
    file = tmp_path / "checkpoint"
    whole = ImplicitRewardEstimator(**settings).fit(X, y)
    est = ImplicitRewardEstimator(**settings)
    for epoch in (1, 3, 2):  # 1 begins no second epoch; 3 and then 2 more
        with pytest.raises(KeyboardInterrupt):
            est.set_callbacks(Checkpoint(file), Interrupt(epoch)).fit(X, y)
        assert file.exists() == (epoch > 1)
    est.set_callbacks(Checkpoint(file)).fit(X, y)
    assert not file.exists()
    assert est.history_ == whole.history_
    assert_same_weights(est, whole)


def test_members_that_have_stopped_stay_stopped(tmp_path):
    X, y, _ = draw_log()
    settings = FAST | {"max_epochs": 60, "n_iter_no_change": 2, "learning_rate_init": 0.03}
    whole = ImplicitRewardEstimator(**settings).fit(X, y)
    assert whole.n_iter_ < 60
    file = tmp_path / "checkpoint"
    for epoch in range(2, whole.n_iter_ + 1, 3):
        est = ImplicitRewardEstimator(**settings)
        with pytest.raises(KeyboardInterrupt):
            est.set_callbacks(Checkpoint(file), Interrupt(epoch)).fit(X, y)
        assert_same_weights(est.set_callbacks(Checkpoint(file)).fit(X, y), whole)
        assert est.n_iter_ == whole.n_iter_


def test_a_fit_that_had_finished_trains_no_further(tmp_path):
    """What is left after the last epoch (here a callback that fails) is done again."""
    X, y, _ = draw_log()
    whole = ImplicitRewardEstimator(**FAST).fit(X, y)

    class Fails(Interrupt):
        def on_fit_task_end(self, estimator, context, **_):
            if context.task_name == "fit":
                raise KeyboardInterrupt

    file = tmp_path / "checkpoint"
    est = ImplicitRewardEstimator(**FAST)
    with pytest.raises(KeyboardInterrupt):
        est.set_callbacks(Fails(-1), Checkpoint(file)).fit(X, y)
    est.set_callbacks(Checkpoint(file), Interrupt(1)).fit(X, y)  # begins no epoch
    assert not file.exists()
    assert_same_weights(est, whole)
    assert est.history_ == whole.history_
    # The file stays until nothing can fail any more, whichever callback comes last.
    est = ImplicitRewardEstimator(warm_start=True, **FAST)
    with pytest.raises(KeyboardInterrupt):
        est.set_callbacks(Checkpoint(file), Fails(-1)).fit(X, y)
    assert file.exists()
    assert not hasattr(est, "model_")
    assert_same_weights(est.set_callbacks(Checkpoint(file)).fit(X, y), whole)
    assert not file.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate_init": 0.1}, r"differs in learning_rate_init \(0.003 then, 0.1 now\)"),
        ({"random_state": 1}, r"differs in random_state \(0 then, 1 now\)"),
        ({"X": 1}, "differs in X"),
        ({"y": 1}, "differs in actions, weights"),
        ({"sample_weight": 1}, "differs in .*actions, weights"),
        ({"max_epochs": 9, "verbose": 1}, None),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_fit_is_refused(change, message, tmp_path, capsys):
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(**FAST)
    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        est.set_callbacks(Checkpoint(file), Interrupt(3)).fit(X, y)
    before = file.read_bytes()
    weight = None
    if "X" in change:
        X = X[::-1]
    elif "y" in change:
        y = y.copy()
        row = y.sum(axis=1).tolist().index(1)  # it keeps an action, so that the split stays
        y[row] = 1 - y[row]
    elif "sample_weight" in change:
        weight = np.linspace(1, 2, len(X))
    else:
        est.set_params(**change)
    est.set_callbacks(Checkpoint(file))
    if message is None:
        assert est.fit(X, y).n_iter_ == change["max_epochs"]
        return
    with pytest.raises(ValueError, match="belongs to another fit, which " + message):
        est.fit(X, y, sample_weight=weight)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint" * 100, "model"])
def test_other_files_are_no_checkpoint(content, tmp_path):
    X, y, _ = draw_log()
    file = tmp_path / "checkpoint"
    if content == "model":
        save_file({"X": torch.zeros(3)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="not a .*checkpoint.* Remove it to start again"):
        ImplicitRewardEstimator(**FAST).set_callbacks(Checkpoint(file)).fit(X, y)
    assert file.exists()


def test_a_checkpoint_needs_a_seed(tmp_path):
    X, y, _ = draw_log()
    est = ImplicitRewardEstimator(max_epochs=2).set_callbacks(Checkpoint(tmp_path / "checkpoint"))
    with pytest.raises(ValueError, match="random_state=None; expected an integer"):
        est.fit(X, y)


def interrupted(est, file, X, y, epoch=3, **log):
    """Leave the checkpoint of a fit that was interrupted in an epoch."""
    with pytest.raises(KeyboardInterrupt):
        est.set_callbacks(Checkpoint(file), Interrupt(epoch)).fit(X, y, **log)
    assert file.exists()


def assert_refused(est, file, X, y, message, **log):
    """The fit does not go on from the file, and leaves it as it is."""
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        est.set_callbacks(Checkpoint(file)).fit(X, y, **log)
    assert file.read_bytes() == before


@pytest.mark.parametrize("form", ["array", "npy", "parquet"])
def test_one_number_in_any_row_makes_other_data(form, tmp_path, streaming):
    X, y, _ = draw_log(2000)
    given = X if form == "array" else write(form, tmp_path, X)
    settings = FAST | {"standardize": False, "early_stopping": False}
    file = tmp_path / "checkpoint"
    interrupted(ImplicitRewardEstimator(**settings), file, given, y)
    for row in (1, 777, 1998):
        changed = X.copy()
        changed[row, 4] += 1
        given = changed if form == "array" else write(form, tmp_path, changed)
        assert_refused(
            ImplicitRewardEstimator(**settings),
            file,
            given,
            y,
            "which differs in X[.]",
        )
    given = X if form == "array" else write(form, tmp_path, X)
    est = ImplicitRewardEstimator(**settings).set_callbacks(Checkpoint(file)).fit(given, y)
    assert_same_weights(est, ImplicitRewardEstimator(**settings).fit(given, y))


@pytest.mark.parametrize("kind", ["groups of pairs", "responses"])
def test_what_batches_are_drawn_by_is_part_of_the_data(kind, tmp_path):
    X, y, _ = draw_log()
    settings = FAST | {"early_stopping": False}
    number = np.arange(len(X))
    if kind == "groups of pairs":
        settings["objective"], y = "bpr", y[:, 0]
        then, now = {"groups": number // 10}, {"groups": number // 12}
    else:
        # Of as many rows in all, with one reward column that both ways agree with.
        X[:, 0] = number // 4
        settings |= {"reward_features": [0], "propensity_features": [1, 2, 3, 4]}
        settings["false_action_rate"] = 0.0
        then, now = ({"response_id": 2 * (number // 4) + (number % 4 >= k)} for k in (1, 3))
    file = tmp_path / "checkpoint"
    interrupted(ImplicitRewardEstimator(**settings), file, X, y, **then)
    est = ImplicitRewardEstimator(**settings)
    assert_refused(est, file, X, y, "differs in actions, weights, groups or other data", **now)
    whole = ImplicitRewardEstimator(**settings).fit(X, y, **then)
    assert_same_weights(est.fit(X, y, **then), whole)


class Columns:
    """Selects columns; of each there may be several, at different addresses."""

    def __init__(self, *columns):
        self.columns = columns

    def __call__(self, X):
        return list(self.columns)

    select = __call__


def first_columns(n, X):
    return np.arange(n)


def selector(kind, *columns):
    """Return a callable made anew, as by another process."""
    if kind == "function":
        return lambda X: list(columns)
    if kind == "partial":
        return functools.partial(first_columns, len(columns))
    return Columns(*columns) if kind == "object" else Columns(*columns).select


@pytest.mark.parametrize("kind", ["function", "partial", "object", "method"])
def test_columns_may_be_selected_by_a_callable(kind, tmp_path):
    X, y, _ = draw_log()
    settings = FAST | {"propensity_features": [3, 4]}
    file = tmp_path / "checkpoint"

    def estimator(*columns):
        # Kept, so that no other gets its address.
        kept.append(selector(kind, *columns))
        return ImplicitRewardEstimator(reward_features=kept[-1], **settings)

    kept = []
    interrupted(estimator(0, 1, 2), file, X, y)
    # Lambdas tell nothing about themselves.
    message = "columns in use" if kind == "function" else "reward_features"
    assert_refused(estimator(0, 1), file, X, y, f"which differs in {message}")
    est = estimator(0, 1, 2).set_callbacks(Checkpoint(file)).fit(X, y)
    assert_same_weights(est, estimator(0, 1, 2).fit(X, y))


@pytest.mark.parametrize("fitted", [False, True])
def test_a_warm_start_goes_on_in_the_same_process(fitted, tmp_path):
    X, y, _ = draw_log()
    file = tmp_path / "checkpoint"

    def estimator():
        est = ImplicitRewardEstimator(warm_start=True, **FAST)
        return est.fit(X[:300], y[:300]) if fitted else est

    whole = estimator().fit(X, y)
    est = estimator()
    before = dict(vars(est))
    for epoch in (3, 2):
        interrupted(est, file, X, y, epoch)
        assert vars(est).get("model_") is before.get("model_")
    # Another process starts from the same weights.
    content = file.read_bytes()
    assert_same_weights(estimator().set_callbacks(Checkpoint(file)).fit(X, y), whole)
    file.write_bytes(content)
    assert_same_weights(est.set_callbacks(Checkpoint(file)).fit(X, y), whole)
    assert est.history_ == whole.history_
    # What follows is a fit of its own.
    assert_same_weights(est.fit(X, y), whole.fit(X, y))


def test_a_warm_start_from_other_weights_is_refused(tmp_path):
    X, y, _ = draw_log()
    settings = FAST | {"warm_start": True, "standardize": False}
    file = tmp_path / "checkpoint"
    interrupted(ImplicitRewardEstimator(**settings).fit(X[:300], y[:300]), file, X, y)
    for other in (
        ImplicitRewardEstimator(**settings),
        ImplicitRewardEstimator(**settings).fit(X[300:], y[300:]),
    ):
        assert_refused(other, file, X, y, "another fit, which differs in initial weights[.]")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/checkpoint", "cannot be written into the folder .*Create the folder"),
        ("X.npy/checkpoint", "cannot be written into the folder .*Create the folder"),
        ("locked/checkpoint", "cannot be written into the folder .*name another one"),
        (".", "is a folder; expected the path of a file"),
    ],
)
def test_a_checkpoint_needs_a_place(path, message, tmp_path):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "locked").mkdir(mode=0o500)
    if path.startswith("locked") and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    est = ImplicitRewardEstimator(**FAST).set_callbacks(Checkpoint(tmp_path / path))
    with pytest.raises(ValueError, match=message):
        est.fit(X, y)
    assert not hasattr(est, "history_")


def test_a_checkpoint_serves_one_fit_and_no_other_estimator(tmp_path):
    X, y, _ = draw_log()
    other = tmp_path / "other"
    other.write_text("of someone else")
    est = ImplicitRewardEstimator(**FAST)
    with pytest.raises(ValueError, match="several Checkpoint callbacks"):
        est.set_callbacks(Checkpoint(tmp_path / "checkpoint"), Checkpoint(other)).fit(X, y)
    with pytest.raises(ValueError, match="the training of LogisticRegression"):
        LogisticRegression(random_state=0).set_callbacks(Checkpoint(other)).fit(X, y[:, 0])
    assert other.read_text() == "of someone else"


def test_a_checkpoint_of_more_epochs_than_wanted_is_refused(tmp_path):
    X, y, _ = draw_log()
    file = tmp_path / "checkpoint"
    interrupted(ImplicitRewardEstimator(**FAST), file, X, y, 4)
    est = ImplicitRewardEstimator(**FAST).set_params(max_epochs=2)
    assert_refused(est, file, X, y, "has 3 epochs, more than max_epochs=2. Set")
    assert est.set_params(max_epochs=3).fit(X, y).n_iter_ == 3


def test_a_checkpoint_that_is_cut_while_written_leaves_the_one_before(tmp_path, monkeypatch):
    X, y, _ = draw_log()
    file = tmp_path / "checkpoint"
    whole = ImplicitRewardEstimator(**FAST).fit(X, y)
    sizes, fsync = [], os.fsync

    def cut(handle):
        sizes.append(os.fstat(handle).st_size)
        if len(sizes) == 3:
            os.ftruncate(handle, sizes[-1] // 2)
            raise KeyboardInterrupt
        fsync(handle)

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(KeyboardInterrupt):
        ImplicitRewardEstimator(**FAST).set_callbacks(Checkpoint(file)).fit(X, y)
    assert file.stat().st_size == sizes[1]
    est = ImplicitRewardEstimator(**FAST).set_callbacks(Checkpoint(file)).fit(X, y)
    assert len(sizes) == 3 + 2  # the third epoch and the fourth
    assert est.history_ == whole.history_
    assert_same_weights(est, whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("where", ["streamed", "resident", "writing"])
def test_a_fit_that_is_killed_at_any_epoch_goes_on(where, tmp_path):
    killed_at_every_epoch(tmp_path, (1, 2, 5, 7), where)


def killed_at_every_epoch(tmp_path, epochs, where):
    X, y, _ = draw_log()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    report = "\n    est.set_callbacks().save(folder + '/' + sys.argv[4])\n"
    code = textwrap.dedent(JOB + report)

    def run(last, name):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), where, str(last), name],
            capture_output=True,
            text=True,
        )

    assert run(-1, "whole").returncode == 0
    whole = ImplicitRewardEstimator.load(tmp_path / "whole")
    for last in epochs:
        assert run(last, "killed").returncode == -signal.SIGKILL
        # Of the epoch that was under way nothing counts, however far it got.
        assert (tmp_path / "checkpoint").exists() == (last > 1)
        finished = run(-1, f"resumed {last}")
        assert finished.returncode == 0, finished.stderr
        assert not (tmp_path / "checkpoint").exists()
        resumed = ImplicitRewardEstimator.load(tmp_path / f"resumed {last}")
        assert resumed.history_ == whole.history_
        assert_same_weights(resumed, whole)


# ---------------------------------------------------------------------- limits


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits as on Linux")
def test_large_files_within_a_small_address_space(tmp_path):
    """Fit and predict on 6 GB within 4 GB of address space, 1.5 GB of anonymous memory."""
    n, d = 1_000_000, 1536
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 8 * 10**9:
        pytest.skip("needs 8 GB of disk space in the folder for temporary files")
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (n, d))
    signal_of = np.empty(n, dtype=bool)
    for start in range(0, n, 20_000):
        block = rng.standard_normal((20_000, d), dtype=np.float32)
        X[start : start + 20_000] = block
        signal_of[start : start + 20_000] = block[:, 0] > 0
    X.flush()
    del X
    np.save(tmp_path / "y.npy", np.column_stack([signal_of & (rng.uniform(size=n) < 0.5)] * 1))
    code = """
        import re, resource, sys, threading, time
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
        import numpy as np, torch
        torch.set_num_threads(1)
        from implicitrm_sk import ImplicitRewardEstimator
        folder, peak = sys.argv[1], 0
        def watch():
            global peak
            while True:
                status = open("/proc/self/status").read()
                peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))
                time.sleep(0.05)
        threading.Thread(target=watch, daemon=True).start()
        est = ImplicitRewardEstimator(
            random_state=0, max_epochs=1, n_estimators=1, hidden_layer_sizes=8, batch_size=4096
        ).fit(folder + "/X.npy", np.load(folder + "/y.npy"))
        out = np.lib.format.open_memmap(folder + "/out.npy", "w+", np.float32, (1_000_000,))
        est.predict(folder + "/X.npy", out=out)
        print(peak / 2**20)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    os.unlink(tmp_path / "X.npy")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
