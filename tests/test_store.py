"""The store of embeddings: several processes, killed processes, damaged files."""

import functools
import os
import random
import sqlite3
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from embedding_job import Job

from implicitrm_sk import LLMEmbedder
from implicitrm_sk.embedding import EmbeddingStore, _store
from implicitrm_sk.embedding._store import Records

# ---------------------------------------------------------------------- records


def make_vectors(n, d=32, seed=0):
    rng = np.random.default_rng(seed)
    keys = [rng.bytes(16) for _ in range(n)]
    return keys, rng.normal(size=(n, d)).astype(np.float32)


def fill(folder, n=200, d=32, **kwargs):
    keys, vectors = make_vectors(n, d)
    with Records(folder, **kwargs) as records:
        records.put(keys, vectors, np.full(n, 7), np.arange(n))
    return keys, vectors


def read(folder, keys):
    with Records(folder) as records:
        return {i: vector for i, vector, *_ in records.get(keys)}


def database(folder):
    (path,) = folder.glob("embeddings-*.sqlite")
    return path


def checkpoint(folder):
    """Move what is in the write-ahead log into the file, as the last process to leave does."""
    connection = sqlite3.connect(database(folder))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_put_is_got(tmp_path, dtype):
    keys, vectors = make_vectors(1234)
    with Records(tmp_path) as records:
        records.put(keys, vectors.astype(dtype), np.arange(1234), np.arange(1234) % 3)
    with Records(tmp_path) as records:
        got = list(records.get(keys[::-1] + [b"x" * 16]))
    assert len(got) == 1234
    for i, vector, n_tokens, n_cut in got:
        number = 1233 - i
        np.testing.assert_array_equal(vector, vectors[number].astype(dtype))
        assert vector.dtype == dtype and (n_tokens, n_cut) == (number, number % 3)


def test_large_vectors_lie_in_one_piece(tmp_path):
    keys, vectors = fill(tmp_path, 20, 16_000)
    checkpoint(tmp_path)
    whole = dict(_store._whole_records(database(tmp_path)))
    assert set(whole) == set(keys)


def test_info_and_clear(tmp_path):
    store = EmbeddingStore(tmp_path / "new")
    assert store.info() == {
        "folder": str(tmp_path / "new"),
        "n_embeddings": 0,
        "n_bytes": 0,
        "max_bytes": None,
    }
    store.clear()
    keys, _ = fill(tmp_path / "new")
    info = store.info()
    assert info["n_embeddings"] == 200 and info["n_bytes"] > 200 * 32 * 4
    store.clear()
    assert store.info()["n_embeddings"] == 0 and read(tmp_path / "new", keys) == {}


def test_the_public_store_is_looked_at_and_cleared():
    assert {name for name in dir(EmbeddingStore()) if name[0] != "_"} == {
        "folder",
        "max_bytes",
        "info",
        "clear",
    }


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("IMPLICITRM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EmbeddingStore().folder == tmp_path / "implicitrm_sk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert EmbeddingStore().folder == tmp_path / "home" / ".cache" / "implicitrm_sk"


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be made in .*Pass another cache_dir.*IMPLICITRM"):
        fill(tmp_path / "file")


def test_store_holds_no_text_and_no_token(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_very_secret_token")
    embedder = LLMEmbedder(tiny_model(), cache_dir=tmp_path / "s")
    embedder.transform(["a text that nobody is to read", ("private", "words")])
    for path in (tmp_path / "s").iterdir():
        held = path.read_bytes()
        for secret in (b"nobody", b"private", b"very_secret"):
            assert secret not in held


# ---------------------------------------------------------------------- size limit


def test_size_limit_drops_what_was_not_used_for_longest(tmp_path, monkeypatch):
    now = [10_000_000.0]
    monkeypatch.setattr(_store.time, "time", lambda: now[0])
    n_bytes = 4 * 2**20
    written = []
    for part in range(10):
        keys, vectors = make_vectors(200, 512, seed=part)
        with Records(tmp_path, max_bytes=n_bytes) as records:
            records.put(keys, vectors, np.ones(200, int), np.zeros(200, int))
            if written:
                assert len(list(records.get(written[0]))) == 200  # in use all the time
        written.append(keys)
        now[0] += 7200
    counts = [len(read(tmp_path, keys)) for keys in written]
    assert counts[0] == counts[-1] == 200 and counts[1] == counts[2] == 0
    checkpoint(tmp_path)
    assert database(tmp_path).stat().st_size <= 1.1 * n_bytes


def test_limit_smaller_than_one_call(tmp_path, tiny_model):
    texts = [f"text {i}" for i in range(300)]
    small = LLMEmbedder(tiny_model(), cache_dir=tmp_path, cache_max_bytes=2**18, batch_tokens=100)
    expected = LLMEmbedder(tiny_model(), cache_dir=None, batch_tokens=100).transform(texts)
    np.testing.assert_array_equal(small.transform(texts), expected)
    np.testing.assert_allclose(small.transform(texts), expected, atol=1e-5)


# ---------------------------------------------------------------------- damage


def damage(path, position, value=None):
    with open(path, "r+b") as file:
        file.seek(position)
        old = file.read(1)
        file.seek(position)
        file.write(bytes([old[0] ^ 0x55 if value is None else value]))


def test_flipped_byte_in_a_vector_costs_that_vector_only(tmp_path):
    keys, vectors = fill(tmp_path)
    checkpoint(tmp_path)
    path = database(tmp_path)
    position = path.read_bytes().index(vectors[17].tobytes()) + 50
    damage(path, position)
    with pytest.warns(UserWarning, match="1 embedding.s. in the store .* were damaged"):
        found = read(tmp_path, keys)
    assert set(found) == set(range(200)) - {17}
    assert all((found[i] == vectors[i]).all() for i in found)
    with Records(tmp_path) as records:
        assert records.claim([keys[17], keys[3]]).tolist() == [True, False]
        records.put(keys[17:18], vectors[17:18], [7], [0])
    assert len(read(tmp_path, keys)) == 200


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    keys, vectors = fill(tmp_path, 1000, 128)
    checkpoint(tmp_path)
    path = database(tmp_path)
    size = path.stat().st_size
    os.truncate(path, int(share * size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(tmp_path, keys)
        with Records(tmp_path) as records:
            lost = [i for i in range(1000) if i not in found]
            mine = records.claim([keys[i] for i in lost]) if lost else np.array([], dtype=bool)
            assert mine.all()
            records.put([keys[i] for i in lost], vectors[lost], [1] * len(lost), [0] * len(lost))
    assert len(found) >= (share * size - 6 * 65536) / size * 1000 - 1
    assert all((found[i] == vectors[i]).all() for i in found)
    assert len(read(tmp_path, keys)) == 1000


@pytest.mark.parametrize("kind", ["header", "root", "garbage", "text"])
def test_file_that_is_no_database_any_more(tmp_path, kind):
    keys, vectors = fill(tmp_path, 1000, 128)
    checkpoint(tmp_path)
    path = database(tmp_path)
    held = bytearray(path.read_bytes())
    if kind == "header":
        held[:100] = bytes(100)
    elif kind == "root":
        held[: 4 * 65536] = os.urandom(4 * 65536)
    elif kind == "garbage":
        held = os.urandom(300_000)
    else:
        held = b"text"
    path.write_bytes(held)
    with pytest.warns(UserWarning, match="was damaged .* embeddings were moved"):
        found = read(tmp_path, keys)
    least = {"header": 1000, "root": 700}.get(kind, 0)
    assert len(found) >= least
    assert all((found[i] == vectors[i]).all() for i in found)
    fill(tmp_path, 1000, 128)
    assert len(read(tmp_path, keys)) == 1000


def check_damage_anywhere(folder, seed):
    """Flip some bytes anywhere, then read and restore: no error, never a wrong vector."""
    rng = random.Random(seed)
    keys, vectors = fill(folder, 300, 64)
    if rng.random() < 0.8:
        checkpoint(folder)
    paths = [path for path in folder.iterdir() if "sqlite" in path.name and path.stat().st_size]
    for _ in range(rng.choice([1, 1, 5, 50])):
        path = rng.choice(paths)
        size = path.stat().st_size
        # Half of them in the first pages, where what holds the file together lies.
        damage(path, rng.randrange(min(size, rng.choice([200, 65536, size]))), rng.randrange(256))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Records(folder) as records:
            found = {i: vector for i, vector, *_ in records.get(keys)}
            assert all((found[i] == vectors[i]).all() for i in found)
            lost = [i for i in range(300) if i not in found]
            if lost:
                assert records.claim([keys[i] for i in lost]).all()
                records.put(
                    [keys[i] for i in lost], vectors[lost], [1] * len(lost), [0] * len(lost)
                )
        found = read(folder, keys)
    assert len(found) == 300
    assert all((found[i] == vectors[i]).all() for i in found)


@pytest.mark.parametrize("seed", range(20))
def test_damage_anywhere(tmp_path, seed):
    check_damage_anywhere(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(20, 220, 50))
def test_damage_anywhere_often(tmp_path, start):
    for seed in range(start, start + 50):
        check_damage_anywhere(tmp_path / str(seed), seed)


def test_embedder_heals(tmp_path, tiny_model):
    texts = [f"text {i}" for i in range(300)]
    embedder = LLMEmbedder(tiny_model(), cache_dir=tmp_path, batch_tokens=100)
    vectors = embedder.transform(texts)
    checkpoint(tmp_path)
    os.truncate(database(tmp_path), 2 * 65536)
    with pytest.warns(UserWarning, match="damaged"):
        again = embedder.transform(texts)
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    assert embedder.stats_["n_computed"] > 0
    embedder.transform(texts)
    assert embedder.stats_["n_computed"] == 0


def test_healing_under_a_process_that_has_the_file_open(tmp_path):
    keys, vectors = fill(tmp_path)
    checkpoint(tmp_path)
    with Records(tmp_path) as other:
        assert len(list(other.get(keys))) == 200
        damage(database(tmp_path), 40, 255)
        database(tmp_path).write_bytes(b"x" * 50 + database(tmp_path).read_bytes()[50:])
        with pytest.warns(UserWarning, match="was damaged"):
            assert len(read(tmp_path, keys)) == 200
        more, more_vectors = make_vectors(10, seed=1)
        other.put(more, more_vectors, [1] * 10, [0] * 10)
        assert len(list(other.get(keys + more))) == 210
    assert len(read(tmp_path, keys + more)) == 210


def test_clearing_under_a_process_that_embeds(tmp_path):
    keys, vectors = fill(tmp_path)
    with Records(tmp_path) as other:
        EmbeddingStore(tmp_path).clear()
        assert list(other.get(keys)) == []
        other.put(keys[:5], vectors[:5], [1] * 5, [0] * 5)
    assert len(read(tmp_path, keys)) == 5


def test_full_disk_is_not_taken_for_damage(tmp_path, monkeypatch):
    keys, vectors = fill(tmp_path)
    with Records(tmp_path) as records:
        records._run("PRAGMA max_page_count = 1")
        many, vectors = make_vectors(5000, 256)
        with pytest.raises(OSError, match="cannot be used: the disk is full. Set cache_dir"):
            records.put(many, vectors, [1] * 5000, [0] * 5000)
    assert len(read(tmp_path, keys)) == 200


# ---------------------------------------------------------------------- several processes


def test_claims(tmp_path):
    keys, vectors = make_vectors(4)
    with Records(tmp_path) as one, Records(tmp_path) as two:
        assert one.claim(keys[:3]).all()
        assert one.claim(keys[:3]).all()  # still ours
        assert two.claim(keys).tolist() == [False, False, False, True]
        one.put(keys[:1], vectors[:1], [1], [0])
        assert two.claim(keys).tolist() == [False, False, False, True]
        assert len(list(two.get(keys))) == 1
        one.__exit__()  # gone without having computed the rest
        assert two.claim(keys).tolist() == [False, True, True, True]
        one.__enter__()


def test_claims_of_a_killed_process_are_taken_over(tmp_path):
    keys, _ = make_vectors(3)
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from implicitrm_sk.embedding._store import Records\n"
        "records = Records(Path(sys.argv[1])).__enter__()\n"
        "records.claim([bytes.fromhex(key) for key in sys.argv[2:]])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *(key.hex() for key in keys)])
    with Records(tmp_path) as records:
        assert records.claim(keys).all()
    assert not list(tmp_path.glob("owner-*"))


@pytest.fixture(scope="module")
def run_alone(tmp_path_factory, tiny_model):
    """Return a function that gives the vectors of an uninterrupted run, and its batches."""

    @functools.cache
    def run(n):
        job = Job(tiny_model(), tmp_path_factory.mktemp("alone"), "alone", 0, n)
        return job.wait(), job.batches()

    return run


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, tiny_model, run_alone):
    alone, batches = run_alone(400)
    one = Job(tiny_model(), tmp_path, "one", 0, 300, pause=0.05)
    two = Job(tiny_model(), tmp_path, "two", 100, 400, pause=0.05)
    np.testing.assert_allclose(one.wait(), alone[:300], atol=1e-5)
    np.testing.assert_allclose(two.wait(), alone[100:], atol=1e-5)
    assert one.n_rows() and two.n_rows()
    assert one.n_rows() + two.n_rows() <= 400 + max(int(batch.split()[0]) for batch in batches)


@pytest.mark.slow
def test_survivor_takes_over(tmp_path, tiny_model, run_alone):
    alone, batches = run_alone(400)
    one = Job(tiny_model(), tmp_path, "one", 0, 400, pause=0.2)
    two = Job(tiny_model(), tmp_path, "two", 0, 400, pause=0.2)
    while len(one.batches()) < 2:
        time.sleep(0.01)
    one.kill()
    np.testing.assert_allclose(two.wait(), alone, atol=1e-5)
    n_computed = one.n_rows() + two.n_rows()
    assert n_computed <= 400 + max(int(batch.split()[0]) for batch in batches)


def check_kills(tiny_model, tmp_path, run_alone, n_kills, n):
    alone, batches = run_alone(n)
    rng = random.Random(0)
    runs = []
    for number in range(n_kills):
        job = Job(tiny_model(), tmp_path, f"killed {number}", 0, n, pause=0.02)
        # Half of them while it starts, half while it computes, each at a random moment.
        while number % 2 and not job.batches():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.2 if number % 2 else 1.0))
        job.kill()
        runs.append(job.batches())
    last = Job(tiny_model(), tmp_path, "last", 0, n)
    vectors = last.wait()
    runs.append(last.batches())
    np.testing.assert_array_equal(vectors, alone)  # to the last bit

    done = []
    for run in filter(None, runs):
        # A run goes on where the last one ended, or with the batch that was under way.
        if done and run[0] == done[-1]:
            done.pop()
        done.extend(run)
    assert done == batches


@pytest.mark.slow
def test_killed_job_resumes(tmp_path, tiny_model, run_alone):
    check_kills(tiny_model, tmp_path, run_alone, n_kills=2, n=400)


@pytest.mark.alone
@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, tiny_model, run_alone):
    check_kills(tiny_model, tmp_path, run_alone, n_kills=20, n=6000)


@pytest.mark.slow
def test_killed_jobs_leave_nothing_behind(tmp_path, tiny_model):
    job = Job(tiny_model(), tmp_path, "killed", 0, 400, pause=0.1)
    while not job.batches():
        time.sleep(0.01)
    job.kill()
    Job(tiny_model(), tmp_path, "last", 0, 400).wait()
    left = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert left == ["embeddings-1.sqlite", "repair.lock"]
