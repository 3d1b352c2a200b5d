"""The states on disk: blobs in a folder, and an SQLite index of them that many processes share.

A row comes before its file and is marked ready after it, so that what a killed process leaves is known and
swept up by the next one that saves. Every read is checked; what is missing or damaged is a miss.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwen35.cache import blobs
from qwen35.cache.blobs import BadBlob, Tensors
from qwen35.state import BLOCK_TOKENS, ModelState

BUSY_S = 2.0  # a lock that is held longer is not waited for: the answer goes on without the cache
KEPT_PROMPTS = 64  # of each model, to tell where a prompt began to differ
FRESH_S = 60.0  # younger uses count alike when room is made
_LOADERS = 4

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    writer INTEGER, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, num_tokens INTEGER NOT NULL, saved_tokens INTEGER NOT NULL,
    label TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, uses INTEGER NOT NULL DEFAULT 0,
    is_evicted INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_length ON snapshots (model, num_tokens);
CREATE TABLE IF NOT EXISTS needs (
    key TEXT NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (key, blob)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_blob ON needs (blob);
CREATE TABLE IF NOT EXISTS prompts (model TEXT NOT NULL, ids BLOB NOT NULL, created REAL NOT NULL);
"""


class CacheTrouble(Exception):
    """The cache cannot be used just now. The message is a note for a person."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that is saved, or will be. `block_keys`: of the prefixes that end at whole blocks."""

    key: str
    model: str
    num_tokens: int
    block_keys: tuple[str, ...]
    saved_tokens: int  # that it spares beyond the snapshot before it
    label: str  # the last words before it, for `qwen cache ls`


@dataclass(frozen=True, slots=True)
class Row:
    """A snapshot as `qwen cache ls` tells of it; sizes in bytes, times in seconds since 1970."""

    key: str
    model: str
    num_tokens: int
    label: str
    created: float
    used: float
    uses: int
    size_bytes: int  # its own file; blocks are shared


@dataclass(slots=True)
class Totals:
    snapshots: int = 0
    size_bytes: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


class Store:
    """The folder, for one process; any number of them may use it at once, and any thread of each."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes
        self._blobs = folder / "blobs"

    # --- finding

    def lengths(self, model: str) -> list[int]:
        """Of the prefixes whose states were ever saved and may be here."""
        if not self._index.exists():
            return []
        with self._connect() as index:
            found = index.execute("SELECT DISTINCT num_tokens FROM snapshots WHERE model = ?", (model,))
            return [row[0] for row in found]

    def deepest(self, keys: Mapping[int, str]) -> tuple[Snapshot | None, int]:
        """The longest of the prefixes with these keys (by length) whose state is here, and the length of
        the longest that was here and had to make room."""
        evicted = 0
        if not keys or not self._index.exists():
            return None, 0
        with self._connect() as index:
            for length in sorted(keys, reverse=True):
                row = index.execute(
                    "SELECT key, model, num_tokens, saved_tokens, label, is_evicted FROM snapshots "
                    "WHERE key = ?",
                    (keys[length],),
                ).fetchone()
                if row is None:
                    continue
                *values, is_evicted = row
                if is_evicted:
                    evicted = max(evicted, length)
                    continue
                names = index.execute(
                    "SELECT blob FROM needs JOIN blobs ON name = blob AND writer IS NULL "
                    "WHERE key = ? AND kind = 'block'",
                    (keys[length],),
                ).fetchall()
                if len(names) == length // BLOCK_TOKENS:
                    key, model, num_tokens, saved_tokens, label = values
                    return Snapshot(key, model, num_tokens, (), saved_tokens, label), evicted
        return None, evicted

    def load(self, snapshot: Snapshot, block_keys: Sequence[str], state: ModelState) -> None:
        """Fill a new `state`. Raises BadBlob (and forgets the snapshot) where a file is gone or damaged."""
        names = [_name("block", key) for key in block_keys]
        try:
            with ThreadPoolExecutor(_LOADERS) as pool:
                blocks = list(pool.map(self._read, names, block_keys))
            own = self._read(_name("snapshot", snapshot.key), snapshot.key)
            blobs.restore(state, snapshot.num_tokens, own, blocks)
        except BadBlob:
            self.forget([snapshot.key])
            raise
        now = time.time()
        with contextlib.suppress(CacheTrouble), self._connect() as index:  # a read-only folder serves too
            index.execute("UPDATE snapshots SET used = ?, uses = uses + 1 WHERE key = ?", (now, snapshot.key))

    def features(self, model: str, key: str) -> np.ndarray | None:
        """A picture's features (M, D); None where they are not here or are damaged."""
        name = _name("features", f"{model}-{key}")
        if not (self._blobs / name).exists():
            return None
        try:
            features = self._read(name, key)["features"]
        except (BadBlob, LookupError):
            self._drop_blobs([name])
            return None
        now = time.time()
        with contextlib.suppress(CacheTrouble), self._connect() as index:
            index.execute("UPDATE blobs SET used = ? WHERE name = ?", (now, name))
        return features

    def _read(self, name: str, key: str) -> Tensors:
        try:
            tensors, about = blobs.read(self._blobs / name)
        except OSError as error:
            raise BadBlob(f"{name} cannot be read ({error.strerror})") from None
        if about.get("key") != key:
            raise BadBlob(f"{name} holds something else than its name says")
        return tensors

    # --- saving

    def save(self, snapshot: Snapshot, state: ModelState) -> None:
        """Write what is not here yet, then make room. Raises CacheTrouble."""
        blocks = [_name("block", key) for key in snapshot.block_keys]
        own = _name("snapshot", snapshot.key)
        about = {"model": snapshot.model, "num_tokens": snapshot.num_tokens}
        for number, (name, key) in enumerate(zip(blocks, snapshot.block_keys, strict=True)):
            about_block = {"kind": "block", "key": key, "model": snapshot.model}
            self._save_blob(name, about_block, partial(blobs.block_tensors, state, number))
        about |= {"kind": "snapshot", "key": snapshot.key, "blocks": list(snapshot.block_keys)}
        about |= {"saved_tokens": snapshot.saved_tokens, "label": snapshot.label}
        self._save_blob(own, about, lambda: blobs.snapshot_tensors(state))
        with self._connect() as index, _transaction(index):
            _insert(index, snapshot, time.time())
            # Ready all at once: until here they are swept up if this process is killed.
            _mark_ready(index, [own, *blocks])
        self.make_room()

    def save_features(self, model: str, key: str, features: np.ndarray) -> None:
        """Raises CacheTrouble."""
        about = {"kind": "features", "key": key, "model": model}
        name = _name("features", f"{model}-{key}")
        self._save_blob(name, about, lambda: {"features": features})
        with self._connect() as index:
            _mark_ready(index, [name])

    def save_prompt(self, model: str, ids: np.ndarray) -> None:
        """Remember the ids of a prompt, so that the next can be told where it began to differ."""
        with self._connect() as index, _transaction(index):
            index.execute("DELETE FROM prompts WHERE model = ? AND ids = ?", (model, ids.tobytes()))
            index.execute("INSERT INTO prompts VALUES (?, ?, ?)", (model, ids.tobytes(), time.time()))
            index.execute(
                "DELETE FROM prompts WHERE model = ? AND rowid NOT IN "
                "(SELECT rowid FROM prompts WHERE model = ? ORDER BY created DESC LIMIT ?)",
                (model, model, KEPT_PROMPTS),
            )

    def prompts(self, model: str) -> Iterator[np.ndarray]:
        """Ids (T,) of the last prompts, the newest first."""
        if not self._index.exists():
            return
        with self._connect() as index:
            query = "SELECT ids FROM prompts WHERE model = ? ORDER BY created DESC"
            rows = index.execute(query, (model,)).fetchall()
        for (ids,) in rows:
            yield np.frombuffer(ids, np.int64)

    def other_models(self, model: str) -> int:
        """How many snapshots of other models, quantisations or kernels are here."""
        if not self._index.exists():
            return 0
        with self._connect() as index:
            query = "SELECT COUNT(*) FROM snapshots WHERE model != ? AND NOT is_evicted"
            return int(index.execute(query, (model,)).fetchone()[0])

    def _save_blob(self, name: str, about: dict[str, Any], make: Callable[[], Tensors]) -> None:
        """Write one blob, unless it is here or a process is writing it; it stays marked as being written."""
        with self._connect() as index, _transaction(index):
            row = index.execute("SELECT writer FROM blobs WHERE name = ?", (name,)).fetchone()
            path = self._blobs / name
            if row and (_is_alive(row[0]) if row[0] is not None else path.exists()):
                index.execute("UPDATE blobs SET used = ? WHERE name = ?", (time.time(), name))
                return
            index.execute(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, 0, ?, ?)",
                (name, about["kind"], about["model"], os.getpid(), time.time()),
            )
        try:
            size_bytes = blobs.write(path, make(), about)
        except OSError as error:
            self._drop_blobs([name])
            raise CacheTrouble(f"the state was not saved: {path}: {error.strerror}") from None
        with self._connect() as index:
            index.execute("UPDATE blobs SET size_bytes = ? WHERE name = ?", (size_bytes, name))

    # --- keeping house

    def make_room(self) -> None:
        """Sweep up after killed processes, then evict what is worth least until the budget is kept.

        A snapshot's worth is the tokens that it spares, by byte, over the time since it was last used.
        """
        self.sweep()
        with self._connect() as index, _transaction(index):
            total = index.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
            if total <= self.budget_bytes:
                return
            now, victims = time.time(), []
            for key, saved, used, size_bytes in index.execute(
                "SELECT key, saved_tokens, snapshots.used, size_bytes FROM snapshots "
                "JOIN blobs ON name = 'snapshot-' || key || '.safetensors' WHERE NOT is_evicted"
            ):
                victims.append((saved / max(1, size_bytes) / (now - used + FRESH_S), key, None))
            for name, used in index.execute("SELECT name, used FROM blobs WHERE kind = 'features'"):
                # As if they spared a token for each KiB: a picture through the encoder costs more than its
                # tokens through the model, and they are needed only where no state holds the picture.
                victims.append((1 / 1024 / (now - used + FRESH_S), None, name))
            gone: list[str] = []
            for _, key, name in sorted(victims, key=lambda victim: victim[0]):
                if total <= self.budget_bytes:
                    break
                names = [name] if name else _forget(index, [str(key)], is_evicted=True)
                for name in names:
                    total -= _drop(index, name)
                gone += names
        self._unlink(gone)

    def sweep(self) -> None:
        """Remove what processes that are gone left half-written."""
        with self._connect() as index:
            rows = index.execute("SELECT name, writer FROM blobs WHERE writer IS NOT NULL").fetchall()
        dead = [name for name, writer in rows if not _is_alive(writer)]
        if dead:
            self._drop_blobs(dead)
        for path in self._blobs.glob("*.partial"):
            writer = path.name.split(".")[-2]
            if not (writer.isdecimal() and _is_alive(int(writer))):
                path.unlink(missing_ok=True)

    def forget(self, keys: Sequence[str]) -> None:
        """Remove snapshots, and the blocks that no other needs."""
        with contextlib.suppress(CacheTrouble):
            with self._connect() as index, _transaction(index):
                names = _forget(index, keys, is_evicted=False)
                for name in names:
                    _drop(index, name)
            self._unlink(names)

    def clear(self) -> int:
        """Remove everything. Returns the bytes that were freed. Raises CacheTrouble."""
        if not self._index.exists():
            return 0
        with self._connect() as index, _transaction(index):
            freed = index.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
            for table in ("blobs", "snapshots", "needs", "prompts"):
                index.execute(f"DELETE FROM {table}")
        for path in self._blobs.glob("*"):
            path.unlink(missing_ok=True)
        return int(freed)

    def rows(self) -> list[Row]:
        """Snapshots that are here, the last used first."""
        if not self._index.exists():
            return []
        with self._connect() as index:
            found = index.execute(
                "SELECT key, snapshots.model, num_tokens, label, created, snapshots.used, uses, size_bytes "
                "FROM snapshots JOIN blobs ON name = 'snapshot-' || key || '.safetensors' "
                "WHERE NOT is_evicted ORDER BY snapshots.used DESC"
            )
            return [Row(*row) for row in found]

    def totals(self) -> Totals:
        totals = Totals()
        if self._index.exists():
            with self._connect() as index:
                kinds = index.execute("SELECT kind, SUM(size_bytes), COUNT(*) FROM blobs GROUP BY kind")
                for kind, size_bytes, count in kinds:
                    totals.by_kind[kind] = size_bytes
                    totals.size_bytes += size_bytes
                    totals.snapshots += count if kind == "snapshot" else 0
        return totals

    def check(self) -> Iterator[tuple[str, str | None]]:
        """Read every blob: its name, and what is wrong with it. Raises CacheTrouble."""
        if not self._index.exists():
            return
        with self._connect() as index:
            names = [row[0] for row in index.execute("SELECT name FROM blobs WHERE writer IS NULL")]
        for name in names:
            try:
                blobs.read(self._blobs / name)
            except BadBlob as error:
                yield name, str(error)
            except OSError as error:
                yield name, f"{name} cannot be read ({error.strerror})"
            else:
                yield name, None

    def drop(self, names: Sequence[str]) -> None:
        """Remove blobs, and the snapshots that need them."""
        self._drop_blobs(names)

    # --- the index

    @property
    def _index(self) -> Path:
        return self.folder / "index.sqlite"

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: threads and processes share nothing but the file.

        A damaged index is set aside and made again from what the blobs say of themselves.
        """
        try:
            is_new = not self._index.exists()
            if is_new:
                self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.folder.chmod(0o700)
            index = _open(self._index)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                index = self._rebuild()
            else:
                raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        else:
            if is_new and any(self._blobs.iterdir()):
                self._read_blobs_into(index)
        try:
            yield index
        except sqlite3.Error as error:
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        finally:
            index.close()

    def _rebuild(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._index.with_name(self._index.name + suffix).unlink(missing_ok=True)
            index = _open(self._index)
            self._read_blobs_into(index)
            return index
        except (OSError, sqlite3.Error) as error:
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None

    def _read_blobs_into(self, index: sqlite3.Connection) -> None:
        with _transaction(index):
            for path in self._blobs.glob("*.safetensors"):
                try:
                    about, stat = blobs.describe(path), path.stat()
                    name = path.name
                    index.execute(
                        "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, NULL, ?)",
                        (name, about["kind"], about["model"], stat.st_size, stat.st_mtime),
                    )
                    if about["kind"] == "snapshot":
                        snapshot = Snapshot(
                            about["key"],
                            about["model"],
                            about["num_tokens"],
                            tuple(about["blocks"]),
                            about["saved_tokens"],
                            about["label"],
                        )
                        _insert(index, snapshot, stat.st_mtime)
                except (BadBlob, OSError, LookupError, TypeError):
                    path.unlink(missing_ok=True)

    def _drop_blobs(self, names: Sequence[str]) -> None:
        """Remove blobs and every snapshot that needs one of them; quietly where the index is out of reach."""
        with contextlib.suppress(CacheTrouble):
            with self._connect() as index, _transaction(index):
                marks = ", ".join("?" * len(names))
                query = f"SELECT DISTINCT key FROM needs WHERE blob IN ({marks})"
                keys = [row[0] for row in index.execute(query, list(names))]
                gone = {*names, *_forget(index, keys, is_evicted=False)}
                for name in gone:
                    _drop(index, name)
            self._unlink(gone)

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self._blobs / name).unlink()


def _open(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        path.chmod(0o600)
        index.execute("PRAGMA journal_mode = WAL")
        index.execute("PRAGMA synchronous = NORMAL")
        index.executescript(_SCHEMA)
    except BaseException:
        index.close()
        raise
    return index


@contextlib.contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def _mark_ready(index: sqlite3.Connection, names: Iterable[str]) -> None:
    """Of these blobs, those that this process was writing."""
    query = "UPDATE blobs SET writer = NULL WHERE name = ? AND writer = ?"
    index.executemany(query, [(name, os.getpid()) for name in names])


def _insert(index: sqlite3.Connection, snapshot: Snapshot, now: float) -> None:
    index.execute(
        "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, "
        "COALESCE((SELECT uses FROM snapshots WHERE key = ?), 0), 0)",
        (
            *(snapshot.key, snapshot.model, snapshot.num_tokens, snapshot.saved_tokens, snapshot.label),
            *(now, now, snapshot.key),
        ),
    )
    names = [_name("snapshot", snapshot.key), *(_name("block", key) for key in snapshot.block_keys)]
    index.executemany("INSERT OR IGNORE INTO needs VALUES (?, ?)", [(snapshot.key, name) for name in names])


def _forget(index: sqlite3.Connection, keys: Sequence[str], *, is_evicted: bool) -> list[str]:
    """Take snapshots out of the index. Returns the blobs that nothing needs any more."""
    names: set[str] = set()
    for key in keys:
        names |= {row[0] for row in index.execute("SELECT blob FROM needs WHERE key = ?", (key,))}
        index.execute("DELETE FROM needs WHERE key = ?", (key,))
        if is_evicted:  # remembered, to say why it is not found
            index.execute("UPDATE snapshots SET is_evicted = 1 WHERE key = ?", (key,))
        else:
            index.execute("DELETE FROM snapshots WHERE key = ?", (key,))
    needed = "SELECT 1 FROM needs WHERE blob = ?"
    return [name for name in names if index.execute(needed, (name,)).fetchone() is None]


def _drop(index: sqlite3.Connection, name: str) -> int:
    """Take a blob out of the index. Returns its bytes."""
    row = index.execute("SELECT size_bytes FROM blobs WHERE name = ?", (name,)).fetchone()
    index.execute("DELETE FROM blobs WHERE name = ?", (name,))
    return int(row[0]) if row else 0


def _name(kind: str, key: str) -> str:
    return f"{kind}-{key}.safetensors"


def _is_alive(process: int) -> bool:
    import psutil  # costs 50 ms, and is seldom needed

    return process == os.getpid() or psutil.pid_exists(process)
