"""The on-disk store of embeddings: a SQLite file, shared by processes, with checked records.

A record contains its own key and checksum, in one piece within a page. To repair a damaged file,
its bytes are read from end to end, and every intact record is kept. The tables and indices around
the records do not matter.
"""

import contextlib
import mmap
import os
import re
import sqlite3
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from .._warnings import warn

#: Environment variable with the default folder of the store.
ENVIRONMENT_VARIABLE = "IMPLICITRM_CACHE"
KEY_BYTES = 16
_MAGIC = b"\x93irmEmb\n"
#: Magic, checksum of the rest, key, tokens embedded, tokens cut, dtype, dimension.
_HEADER = struct.Struct(f"<8sI{KEY_BYTES}sIIcxxxI")
_CHECKED_FROM = 12
_DTYPES = {b"e": np.dtype(np.float16), b"f": np.dtype(np.float32), b"d": np.dtype(np.float64)}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
#: The largest page: 16,000 float32 numbers fit in one piece.
_PAGE_BYTES = 65536
_KEYS_PER_QUERY = 500
_LOCK_SECONDS = 120
#: Precision of the last use of a record.
_USE_SECONDS = 3600
#: Share of the limit that is kept when it is reached.
_KEPT_SHARE = 0.9
_SCHEMA = """
CREATE TABLE vectors(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, used INTEGER NOT NULL, record BLOB NOT NULL);
CREATE UNIQUE INDEX vectors_by_key ON vectors(key);
CREATE INDEX vectors_by_use ON vectors(used);
CREATE TABLE claims(key BLOB PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""
_NOT_DAMAGE = {
    sqlite3.SQLITE_BUSY: "another process kept it locked for {seconds} seconds",
    sqlite3.SQLITE_LOCKED: "another process kept it locked for {seconds} seconds",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_PERM: "access is not permitted",
}


def default_folder():
    """Return the folder of the store that is used by default."""
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(os.environ[ENVIRONMENT_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "implicitrm_sk"


class EmbeddingStore:
    """Embeddings on disk, by the hash of what they were computed from.

    It contains hashes and vectors, never texts. Several processes may use one store at once. The
    results of `LLMEmbedder` are durable batch by batch. Damage is found by checksums and repaired,
    only lost vectors are computed again. The folder must be on a local disk, because SQLite's
    write-ahead log does not work over a network.

    Parameters
    ----------
    folder : str or path-like, default=None
        Folder of the store, which is made on the first write. None means the environment variable
        ``IMPLICITRM_CACHE`` if it is set, else ``~/.cache/implicitrm_sk`` (or the same under
        ``XDG_CACHE_HOME``).
    max_bytes : int, default=None
        If the vectors take more than this, the least recently used ones are dropped until a tenth
        of it is free. None means no limit.

    Examples
    --------
    >>> import tempfile
    >>> from implicitrm_sk.embedding import EmbeddingStore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     EmbeddingStore(folder).info()["n_embeddings"]
    0
    """

    def __init__(
        self, folder: str | PathLike[str] | None = None, *, max_bytes: int | None = None
    ) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self.max_bytes = max_bytes

    def __repr__(self):
        return f"EmbeddingStore({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def info(self) -> dict[str, Any]:
        """Return the counts and sizes of the store.

        Returns
        -------
        info : dict
            ``folder``, ``n_embeddings``, ``n_bytes`` (size of its files on disk) and
            ``max_bytes``.

        Examples
        --------
        >>> import tempfile
        >>> from implicitrm_sk import LLMEmbedder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=folder)
        ...     vectors = embedder.fit_transform(["Four.", "4"])
        ...     print(embedder.store.info()["n_embeddings"])
        2
        """
        records = Records(self.folder, self.max_bytes)
        return {
            "folder": str(self.folder),
            "n_embeddings": records.count(),
            "n_bytes": records.n_bytes(),
            "max_bytes": self.max_bytes,
        }

    def clear(self) -> None:
        """Delete all embeddings. A running job continues, and stores its new results.

        Examples
        --------
        >>> import tempfile
        >>> from implicitrm_sk import LLMEmbedder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=folder)
        ...     vectors = embedder.fit_transform(["Four.", "4"])
        ...     embedder.store.clear()
        ...     print(embedder.store.info()["n_embeddings"])
        0
        """
        Records(self.folder, self.max_bytes).clear()


class Records:
    """The contents of a store, which the embedder reads and writes within a ``with`` statement.

    Parameters
    ----------
    folder : Path
    max_bytes : int or None
        As for `EmbeddingStore`.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._connection = None
        self._owner = None

    def __enter__(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"the store of embeddings cannot be made in {str(self.folder)!r}: {error}. Pass "
                f"another cache_dir, set {ENVIRONMENT_VARIABLE}, or set cache_dir=None to work "
                "without it."
            ) from error
        self.n_damaged = 0
        self._guarded(self._open)
        return self

    def __exit__(self, *_):
        if self._owner is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("DELETE FROM claims WHERE owner = ?", (self._owner[0],))
            self._owner[1].release()
            self._lock_path(self._owner[0]).unlink(missing_ok=True)
            self._owner = None
        self._close()
        if self.n_damaged:
            warn(
                f"{self.n_damaged} embedding(s) in the store {str(self.folder)!r} were damaged and "
                "have been dropped. They are computed again if needed. Check the disk."
            )

    def get(self, keys: Sequence[bytes]) -> Iterator[tuple[int, NDArray[Any], int, int]]:
        """Yield the requested vectors that are stored and intact.

        Parameters
        ----------
        keys : sequence of bytes
            16 bytes each, the hashes of the embedded texts and settings.

        Yields
        ------
        position : int
            Position in `keys`.
        vector : ndarray of shape (n_features,)
            The embedding.
        n_tokens, n_cut : int
            Numbers of tokens embedded, and cut off.
        """
        position = {key: i for i, key in enumerate(keys)}
        now = int(time.time())
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            found = self._run(
                f"SELECT key, used, record FROM vectors WHERE key IN ({marks})", part, fetch=True
            )
            stale = []
            for key, used, record in found:
                read = _read_record(record)
                if read is None or read[0] != key:
                    self.n_damaged += 1
                    self._run("DELETE FROM vectors WHERE key = ?", (key,))
                    continue
                if not 0 <= now - used < _USE_SECONDS:
                    stale.append((now, key))
                yield position[key], *read[1:]
            if stale:
                self._transaction(
                    lambda connection, stale=stale: connection.executemany(
                        "UPDATE vectors SET used = ? WHERE key = ?", stale
                    )
                )

    def claim(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return a mask of the keys that this process has to compute.

        The others are stored, or another running process has claimed them.

        Parameters
        ----------
        keys : sequence of bytes
            16 bytes each, the hashes of the texts and settings to embed.

        Returns
        -------
        mine : ndarray of bool of shape (n_keys,)
            True for the keys to compute and `put`.
        """
        owner = self._own()

        def claim(connection):
            taken = set()
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT key FROM vectors WHERE key IN ({marks})", part)
                taken.update(key for (key,) in rows)
                rows = connection.execute(
                    f"SELECT key, owner FROM claims WHERE key IN ({marks})", part
                ).fetchall()
                dead = {other for _, other in rows if other != owner and not self._is_alive(other)}
                taken.update(key for key, other in rows if other not in dead and other != owner)
                connection.executemany("DELETE FROM claims WHERE owner = ?", [(o,) for o in dead])
            mine = [key not in taken for key in keys]
            connection.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?)",
                [(key, owner) for key, is_mine in zip(keys, mine, strict=True) if is_mine],
            )
            return np.array(mine, dtype=bool)

        return self._transaction(claim)

    def put(
        self,
        keys: Sequence[bytes],
        vectors: NDArray[Any],
        n_tokens: Sequence[int],
        n_cut: Sequence[int],
    ) -> None:
        """Store vectors durably, and release the claims on their keys.

        Parameters
        ----------
        keys : sequence of bytes
            16 bytes each.
        vectors : ndarray of shape (n_keys, n_features)
            The embeddings, in float16, float32 or float64.
        n_tokens, n_cut : sequence of int
            Numbers of tokens embedded, and cut off, for each key.
        """
        now = int(time.time())
        rows = [
            (key, now, _make_record(key, vector, tokens, cut))
            for key, vector, tokens, cut in zip(keys, vectors, n_tokens, n_cut, strict=True)
        ]

        def put(connection):
            connection.executemany(
                "INSERT OR REPLACE INTO vectors(key, used, record) VALUES (?, ?, ?)", rows
            )
            connection.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in keys])

        self._transaction(put)
        if self.max_bytes is not None:
            self._evict()

    def count(self) -> int:
        """Return the number of embeddings; called outside the ``with`` statement."""
        if self._newest() is None:
            return 0
        with self:
            return self._run("SELECT count(*) FROM vectors", fetch=True)[0][0]

    def n_bytes(self) -> int:
        """Return the size of the files."""
        return sum(path.stat().st_size for path in self._files())

    def clear(self) -> None:
        """Delete all embeddings, for all processes."""
        if self._newest() is None:
            return
        with self._repair_lock():
            old = self._newest()
            self._make(old[0] + 1, ())
            _delete(old[1])

    def _evict(self):
        pages, free = (
            self._run(f"PRAGMA {name}", fetch=True)[0][0]
            for name in ("page_count", "freelist_count")
        )
        n_bytes = (pages - free) * _PAGE_BYTES
        if n_bytes <= self.max_bytes:
            return
        n = self._run("SELECT count(*) FROM vectors", fetch=True)[0][0]
        n_dropped = int(np.ceil(n * (1 - _KEPT_SHARE * self.max_bytes / n_bytes)))
        self._run(
            "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY used, id LIMIT ?)",
            (n_dropped,),
        )
        self._run("PRAGMA incremental_vacuum", fetch=True)

    # ------------------------------------------------------------------ claims

    def _lock_path(self, owner):
        return self.folder / f"owner-{owner}.lock"

    def _own(self):
        """Return this process's name in the claims; the lock on its file ends with the process."""
        if self._owner is None:
            name = uuid.uuid4().hex
            lock = filelock.FileLock(self._lock_path(name))
            lock.acquire()
            self._owner = name, lock
        return self._owner[0]

    def _is_alive(self, owner):
        path = self._lock_path(owner)
        if not path.exists():
            return False
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
        path.unlink(missing_ok=True)
        return False

    # ------------------------------------------------------------------ file and damage

    def _files(self):
        return list(self.folder.glob("embeddings-*.sqlite*")) if self.folder.is_dir() else []

    def _newest(self):
        """Return (generation, path) of the file in use, None if there is none.

        Repairing and clearing make a new file, because SQLite must not find another file under a
        name that a process has open.
        """
        found = [
            (int(match[1]), path)
            for path in self._files()
            if (match := re.fullmatch(r"embeddings-(\d+)\.sqlite", path.name))
        ]
        return max(found, default=None)

    def _repair_lock(self):
        return filelock.FileLock(self.folder / "repair.lock")

    def _open(self):
        newest = self._newest()
        if newest is None:
            with self._repair_lock():
                newest = self._newest() or self._make(1, ())
        self._generation, self._path = newest
        self._connection = _connect(self._path)
        self._connection.execute("SELECT count(*) FROM claims").fetchone()

    def _close(self):
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _make(self, generation, records):
        """Make the file of a generation, all or nothing, and return it like `_newest`."""
        unfinished = self.folder / "unfinished.sqlite"
        _delete(unfinished)
        connection = _connect(unfinished)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT OR IGNORE INTO vectors(key, used, record) VALUES (?, ?, ?)", records
        )
        connection.execute("COMMIT")
        # Readers and one writer at a time then do not wait for each other.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        path = self.folder / f"embeddings-{generation}.sqlite"
        os.replace(unfinished, path)
        return generation, path

    def _heal(self, error):
        """Make a new file from all intact records of the damaged one."""
        damaged = getattr(self, "_generation", 0)
        self._close()
        with self._repair_lock():
            newest = self._newest()
            if newest is not None and newest[0] <= damaged:
                n_kept = 0

                def rows():
                    nonlocal n_kept
                    now = int(time.time())
                    for path in (newest[1], Path(f"{newest[1]}-wal")):
                        for key, record in _whole_records(path):
                            n_kept += 1
                            yield key, now, record

                self._make(newest[0] + 1, rows())
                _delete(newest[1])
                warn(
                    f"the store of embeddings {str(newest[1])!r} was damaged ({error}). {n_kept} "
                    "intact embeddings were moved to a new file; lost ones are computed again. "
                    "Check the disk."
                )
        self._open()

    def _guarded(self, action):
        """Run an action on the file; if the file is damaged, repair it and run the action again."""
        for attempt in range(3):
            try:
                if self._connection is not None and not self._path.exists():
                    self._close()  # repaired or cleared by another process
                    self._open()
                return action()
            # If a message cannot be decoded, it quotes damaged bytes.
            except (sqlite3.DatabaseError, UnicodeError) as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
                if code in _NOT_DAMAGE or attempt == 2:
                    why = _NOT_DAMAGE.get(code, str(error)).format(seconds=_LOCK_SECONDS)
                    raise OSError(
                        f"the store of embeddings in {str(self.folder)!r} cannot be used: {why}. "
                        "Set cache_dir to another folder, or to None to work without it."
                    ) from error
                self._heal(error)

    def _run(self, statement, parameters=(), *, fetch=False):
        def run():
            cursor = self._connection.execute(statement, parameters)
            return cursor.fetchall() if fetch else cursor.rowcount

        return self._guarded(run)

    def _transaction(self, action):
        def run():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = action(connection)
                connection.execute("COMMIT")
                return result
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

        return self._guarded(run)


def _connect(path):
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
    # Each commit is written to the disk; the log is copied into the file every 4 MB.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 64")
    return connection


def _delete(path):
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _make_record(key, vector, n_tokens, n_cut):
    header = _HEADER.pack(_MAGIC, 0, key, n_tokens, n_cut, _CODES[vector.dtype], len(vector))
    record = header + vector.tobytes()
    return record[:8] + struct.pack("<I", zlib.crc32(record[_CHECKED_FROM:])) + record[12:]


def _read_record(data, start=0):
    """Return (key, vector, n_tokens, n_cut) of the record at `start`, None if it is damaged."""
    try:
        magic, checksum, key, n_tokens, n_cut, code, d = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + d * _DTYPES[code].itemsize
        checked = memoryview(data)[start + _CHECKED_FROM : end]
    except (struct.error, KeyError, TypeError):
        return None
    if magic != _MAGIC or end > len(data) or zlib.crc32(checked) != checksum:
        return None
    vector = np.frombuffer(data, dtype=_DTYPES[code], count=d, offset=start + _HEADER.size)
    return key, vector, n_tokens, n_cut


def _whole_records(path):
    """Yield (key, record) of every undamaged record in the bytes of a file."""
    if not path.is_file() or not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # A list, because a match object would keep the file mapped.
        for start in [match.start() for match in re.finditer(re.escape(_MAGIC), data)]:
            try:
                *_, code, d = _HEADER.unpack_from(data, start)
                size = _HEADER.size + d * _DTYPES[code].itemsize
            except (struct.error, KeyError):
                continue
            record = data[start : start + size]
            read = _read_record(record)
            if read is not None:
                yield read[0], record
