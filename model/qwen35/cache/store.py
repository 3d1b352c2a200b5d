"""The states on disk: blobs in a folder, and an SQLite index of them that many processes share.

A row comes before its file and is marked ready after it, so that what a killed process leaves is known and
swept up by the next one that saves. Files come and go only under the index's lock, together with their rows.
Every read is checked; what is missing or damaged is a miss.
"""

import contextlib
import os
import secrets
import sqlite3
import threading
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
KEPT_EVICTED = 1000  # snapshots that had to make room, to say so
FRESH_S = 60.0  # younger uses count alike when room is made
_LOADERS = 4
_UNFIT = sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError  # of values, for a table

_VERSION = 1  # of the tables
_SCHEMA = """
PRAGMA journal_mode = MEMORY;
CREATE TABLE blobs (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    writer TEXT, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshots (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, num_tokens INTEGER NOT NULL, saved_tokens INTEGER NOT NULL,
    label TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, uses INTEGER NOT NULL DEFAULT 0,
    is_evicted INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX by_length ON snapshots (model, num_tokens);
CREATE TABLE needs (
    key TEXT NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (key, blob)
) WITHOUT ROWID;
CREATE INDEX by_blob ON needs (blob);
CREATE TABLE prompts (model TEXT NOT NULL, ids BLOB NOT NULL, created REAL NOT NULL);
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

    def __init__(self, folder: Path, budget_bytes: int, *, can_write: bool = True) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes
        self._can_write = can_write
        self._blobs = folder / "blobs"
        # A process's number alone may be that of one that was killed: in a container it often is.
        self._writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._is_tidy = False

    def read_only(self) -> "Store":
        """The same folder, in which nothing is changed."""
        return Store(self.folder, self.budget_bytes, can_write=False)

    # --- finding

    def lengths(self, model: str) -> list[int]:
        """Of the prefixes whose states were ever saved and may be here."""
        if not self._is_there():
            return []
        with self._connect() as index:
            found = index.execute("SELECT DISTINCT num_tokens FROM snapshots WHERE model = ?", (model,))
            return [row[0] for row in found]

    def deepest(self, keys: Mapping[int, str]) -> tuple[Snapshot | None, int]:
        """The longest of the prefixes with these keys (by length) whose state is here, and the length of
        the longest that was here and had to make room."""
        evicted = 0
        if not keys or not self._is_there():
            return None, 0
        with self._connect() as index:
            for length in sorted(keys, reverse=True):
                row = index.execute(
                    "SELECT key, model, saved_tokens, label, is_evicted FROM snapshots WHERE key = ?",
                    (keys[length],),
                ).fetchone()
                if row is None:
                    continue
                *values, is_evicted = row
                if is_evicted:
                    evicted = max(evicted, length)
                    continue
                names = index.execute(
                    "SELECT blob FROM needs JOIN blobs ON name = blob AND writer IS NULL WHERE key = ?",
                    (keys[length],),
                ).fetchall()
                if len(names) == length // BLOCK_TOKENS + 1:  # and its own
                    key, model, saved_tokens, label = values
                    return Snapshot(key, model, length, (), saved_tokens, label), evicted
        return None, evicted

    def load(self, snapshot: Snapshot, block_keys: Sequence[str], state: ModelState) -> None:
        """Fill a new `state`. Raises BadBlob (and drops what is no good) where a file is gone or damaged."""
        names = [_name("block", key) for key in block_keys]
        own = _name("snapshot", snapshot.key)
        with ThreadPoolExecutor(_LOADERS) as pool:
            own_tensors, *blocks = pool.map(self._read_or_drop, [own, *names])
        try:
            blobs.restore(state, snapshot.num_tokens, own_tensors, blocks)
        except BadBlob:
            self.drop([own, *names])
            raise

    def features(self, model: str, key: str) -> np.ndarray | None:
        """A picture's features (M, D); None where they are not here or are damaged."""
        name = _name("features", f"{model}-{key}")
        try:
            return self._read_or_drop(name)["features"] if (self._blobs / name).exists() else None
        except (BadBlob, OSError):
            return None

    def touch(self, key: str) -> None:
        """A snapshot was of use. Raises CacheTrouble."""
        with self._connect() as index:
            index.execute("UPDATE snapshots SET used = ?, uses = uses + 1 WHERE key = ?", (time.time(), key))

    def touch_features(self, model: str, key: str) -> None:
        """Raises CacheTrouble."""
        with self._connect() as index:
            name = _name("features", f"{model}-{key}")
            index.execute("UPDATE blobs SET used = ? WHERE name = ?", (time.time(), name))

    def _read_or_drop(self, name: str) -> Tensors:
        try:
            return self._read(name)
        except BadBlob:
            self.drop([name])  # else the next state that needs it would find it here, and not write it again
            raise

    def _read(self, name: str) -> Tensors:
        try:
            tensors, about = blobs.read(self._blobs / name)
        except OSError as error:
            raise BadBlob(f"{name} cannot be read ({error.strerror})") from None
        if _name(about["kind"], about["key"]) != name:
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
            # Another process may have made room meanwhile, and taken a block that was here already.
            is_whole = all(_has(index, name) for name in (own, *blocks))
            if is_whole:
                _insert(index, snapshot, time.time())
                # Ready all at once: until here they are swept up if this process is killed.
                self._mark_ready(index, [own, *blocks])
            else:
                query = "SELECT name FROM blobs WHERE writer = ?"
                self._remove(index, [row[0] for row in index.execute(query, (self._writer,))])
        self.make_room()

    def save_features(self, model: str, key: str, features: np.ndarray) -> None:
        """Raises CacheTrouble."""
        about = {"kind": "features", "key": f"{model}-{key}", "model": model}
        name = _name("features", f"{model}-{key}")
        self._save_blob(name, about, lambda: {"features": features})
        with self._connect() as index:
            self._mark_ready(index, [name])

    def save_prompt(self, model: str, ids: np.ndarray) -> None:
        """Remember the ids of a prompt, so that the next can be told where it began to differ."""
        with self._connect() as index, _transaction(index):
            index.execute("DELETE FROM prompts WHERE model = ? AND ids = ?", (model, ids.tobytes()))
            index.execute("INSERT INTO prompts VALUES (?, ?, ?)", (model, ids.tobytes(), time.time()))
            index.execute(
                "DELETE FROM prompts WHERE model = ? AND rowid NOT IN "
                "(SELECT rowid FROM prompts WHERE model = ? ORDER BY rowid DESC LIMIT ?)",
                (model, model, KEPT_PROMPTS),
            )
        self.make_room()

    def prompts(self, model: str) -> Iterator[np.ndarray]:
        """Ids (T,) of the last prompts, the newest first."""
        if not self._is_there():
            return
        with self._connect() as index:
            query = "SELECT ids FROM prompts WHERE model = ? ORDER BY rowid DESC"  # clocks jump
            rows = index.execute(query, (model,)).fetchall()
        for (ids,) in rows:
            yield np.frombuffer(ids, np.int64)

    def other_models(self, model: str) -> int:
        """How many snapshots of other models, quantisations or kernels are here."""
        if not self._is_there():
            return 0
        with self._connect() as index:
            query = "SELECT COUNT(*) FROM snapshots WHERE model != ? AND NOT is_evicted"
            return int(index.execute(query, (model,)).fetchone()[0])

    def _save_blob(self, name: str, about: dict[str, Any], make: Callable[[], Tensors]) -> None:
        """Write one blob, unless it is here or a process is writing it; it stays marked as being written."""
        path = self._blobs / name
        with self._connect() as index, _transaction(index):
            row = index.execute("SELECT writer FROM blobs WHERE name = ?", (name,)).fetchone()
            if row and (path.exists() if row[0] is None else self._is_another_writing(row[0])):
                index.execute("UPDATE blobs SET used = ? WHERE name = ?", (time.time(), name))
                return
            index.execute(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, 0, ?, ?)",
                (name, about["kind"], about["model"], self._writer, time.time()),
            )
        aside = path.with_name(f"{name}.{self._writer}.{threading.get_ident()}.partial")
        try:
            size_bytes = blobs.write(aside, make(), about)
            with self._connect() as index, _transaction(index):
                query = "UPDATE blobs SET size_bytes = ? WHERE name = ? AND writer = ?"
                if index.execute(query, (size_bytes, name, self._writer)).rowcount:
                    aside.replace(path)
        except OSError as error:
            self.drop([name])
            raise CacheTrouble(f"the state was not saved: {path}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()

    def _mark_ready(self, index: sqlite3.Connection, names: Iterable[str]) -> None:
        """Of these blobs, those that are being written from here."""
        query = "UPDATE blobs SET writer = NULL WHERE name = ? AND writer = ?"
        index.executemany(query, [(name, self._writer) for name in names])

    # --- keeping house

    def make_room(self) -> None:
        """Sweep up after killed processes, then evict what is worth least until the budget is kept.

        A snapshot's worth is the tokens that it spares, by byte, over the time since it was last used.
        """
        with self._connect() as index, _transaction(index):
            self._sweep(index)
            total = index.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
            if total <= self.budget_bytes:
                return
            now, victims = time.time(), []
            for key, saved, used, size_bytes in index.execute(
                "SELECT key, saved_tokens, snapshots.used, size_bytes FROM snapshots "
                "JOIN blobs ON name = 'snapshot-' || key || '.safetensors' WHERE NOT is_evicted"
            ):
                victims.append((saved / max(1, size_bytes) / (max(0.0, now - used) + FRESH_S), key, None))
            for name, used in index.execute("SELECT name, used FROM blobs WHERE kind = 'features'"):
                # As if they spared a token for each KiB: a picture through the encoder costs more than its
                # tokens through the model, and they are needed only where no state holds the picture.
                victims.append((1 / 1024 / (max(0.0, now - used) + FRESH_S), None, name))
            for _, key, name in sorted(victims, key=lambda victim: victim[0]):
                if total <= self.budget_bytes:
                    break
                names = [name] if name else _forget(index, [str(key)], is_evicted=True)
                total -= self._drop(index, names)

    def _sweep(self, index: sqlite3.Connection) -> None:
        """Remove what processes that are gone left half-written; once, also what does not fit together."""
        rows = index.execute("SELECT name, writer FROM blobs WHERE writer IS NOT NULL").fetchall()
        self._remove(index, [name for name, writer in rows if self._is_gone(writer)])
        if self._is_tidy:
            return
        files = {path.name for path in self._blobs.iterdir()}
        for name in files:
            if name.endswith(".safetensors") and not _has(index, name):
                self._unlink(name)
        for path in (*self._blobs.glob("*.partial"), *self.folder.glob(f"{self._index.name}.*.partial*")):
            if self._is_gone(path.name.split(".")[2]):
                path.unlink(missing_ok=True)
        ready = {row[0] for row in index.execute("SELECT name FROM blobs WHERE writer IS NULL")}
        self._remove(index, ready - files)
        lost = index.execute("SELECT DISTINCT key FROM needs WHERE blob NOT IN (SELECT name FROM blobs)")
        self._drop(index, _forget(index, [row[0] for row in lost.fetchall()], is_evicted=False))
        unneeded = index.execute(
            "SELECT name FROM blobs WHERE writer IS NULL AND kind != 'features' "
            "AND name NOT IN (SELECT blob FROM needs)"
        )
        self._drop(index, [row[0] for row in unneeded.fetchall()])
        index.execute(
            "DELETE FROM snapshots WHERE is_evicted AND key NOT IN "
            "(SELECT key FROM snapshots WHERE is_evicted ORDER BY used DESC LIMIT ?)",
            (KEPT_EVICTED,),
        )
        self._is_tidy = True

    def forget(self, keys: Sequence[str]) -> None:
        """Remove snapshots, and the blocks that no other needs; quietly where the index is out of reach."""
        with contextlib.suppress(CacheTrouble), self._connect() as index, _transaction(index):
            self._drop(index, _forget(index, keys, is_evicted=False))

    def drop(self, names: Sequence[str]) -> None:
        """Remove blobs, and the snapshots that need them; quietly where the index is out of reach."""
        if self._can_write:
            with contextlib.suppress(CacheTrouble), self._connect() as index, _transaction(index):
                self._remove(index, names)

    def clear(self) -> int:
        """Remove everything. Returns the bytes that were freed. Raises CacheTrouble."""
        if not self._is_there():
            return 0
        with self._connect() as index:
            with _transaction(index):
                freed = index.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
                for table in ("blobs", "snapshots", "needs", "prompts"):
                    index.execute(f"DELETE FROM {table}")
                for path in self._blobs.iterdir():
                    self._unlink(path.name)
            with contextlib.suppress(sqlite3.OperationalError):  # locked
                index.execute("VACUUM")  # else what was asked stays in free pages
        return int(freed)

    def rows(self) -> list[Row]:
        """Snapshots that are here, the last used first."""
        if not self._is_there():
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
        if self._is_there():
            with self._connect() as index:
                kinds = index.execute("SELECT kind, SUM(size_bytes), COUNT(*) FROM blobs GROUP BY kind")
                for kind, size_bytes, count in kinds:
                    totals.by_kind[kind] = size_bytes
                    totals.size_bytes += size_bytes
                    totals.snapshots += count if kind == "snapshot" else 0
        return totals

    def check(self) -> Iterator[tuple[str, str | None]]:
        """Read every blob: its name, and what is wrong with it. Raises CacheTrouble."""
        if not self._is_there():
            return
        with self._connect() as index:
            names = [row[0] for row in index.execute("SELECT name FROM blobs WHERE writer IS NULL")]
        for name in names:
            try:
                self._read(name)
            except BadBlob as error:
                yield name, str(error)
            else:
                yield name, None

    # --- the index

    @property
    def _index(self) -> Path:
        return self.folder / "index.sqlite"

    def _is_there(self) -> bool:
        """Whether anything can be found."""
        try:
            return self._index.exists() or (self._can_write and self._blobs.exists())
        except OSError:  # whoever connects says why
            return True

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: threads and processes share nothing but the file.

        A damaged index is removed and made again from what the blobs say of themselves.
        """
        try:
            index = self._open() if self._can_write else _open_read_only(self._index)
        except (OSError, sqlite3.Error) as error:
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        try:
            yield index
        except sqlite3.Error as error:
            if _is_damage(error) and self._can_write:
                self._remove_index()
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        finally:
            index.close()

    def _open(self) -> sqlite3.Connection:
        if not self._blobs.exists():
            self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
        if not self._index.exists():
            self._make_index()
        try:
            return _open(self._index)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self._remove_index()
            self._make_index()
            return _open(self._index)

    def _make_index(self) -> None:
        """Make it aside, and let it appear whole: others may be doing the same."""
        aside = self._index.with_name(f"{self._index.name}.{self._writer}.partial")
        try:
            with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as index:
                aside.chmod(0o600)
                index.executescript(_SCHEMA)
                self._read_blobs_into(index)
                index.execute(f"PRAGMA user_version = {_VERSION}")
                index.execute("PRAGMA journal_mode = WAL")
            try:
                os.link(aside, self._index)
            except FileExistsError:
                pass  # another was first
            except OSError:  # a file system without links
                aside.replace(self._index)
            self._is_tidy = False
        finally:
            aside.unlink(missing_ok=True)

    def _remove_index(self) -> None:
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                self._index.with_name(self._index.name + suffix).unlink()

    def _read_blobs_into(self, index: sqlite3.Connection) -> None:
        with _transaction(index):
            for path in self._blobs.glob("*.safetensors"):
                try:
                    about, stat = blobs.describe(path), path.stat()
                    name = path.name
                    if _name(about["kind"], about["key"]) != name:
                        raise BadBlob(f"{name} holds something else than its name says")
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
                except (BadBlob, OSError, LookupError, TypeError, *_UNFIT):
                    path.unlink(missing_ok=True)

    def _remove(self, index: sqlite3.Connection, names: Iterable[str]) -> None:
        """Remove blobs and every snapshot that needs one of them."""
        gone = set(names)
        for name in [*gone]:
            keys = index.execute("SELECT key FROM needs WHERE blob = ?", (name,)).fetchall()
            gone |= {*_forget(index, [row[0] for row in keys], is_evicted=False)}
        self._drop(index, gone)

    def _drop(self, index: sqlite3.Connection, names: Iterable[str]) -> int:
        """Remove blobs that nothing needs. Returns their bytes."""
        size_bytes = 0
        for name in names:
            row = index.execute("SELECT size_bytes FROM blobs WHERE name = ?", (name,)).fetchone()
            index.execute("DELETE FROM blobs WHERE name = ?", (name,))
            self._unlink(name)
            size_bytes += row[0] if row else 0
        return size_bytes

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._blobs / name).unlink()

    def _is_another_writing(self, writer: str) -> bool:
        return writer != self._writer and not self._is_gone(writer)

    def _is_gone(self, writer: str) -> bool:
        """Of this process only this store is not: any other had the process's number before."""
        import psutil  # costs 50 ms, and is seldom needed

        process = writer.partition("-")[0]
        if writer == self._writer or not process.isdecimal():
            return writer != self._writer
        return int(process) == os.getpid() or not psutil.pid_exists(int(process))


def _open(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        index.execute("PRAGMA synchronous = NORMAL")
        _check_version(index)
    except BaseException:
        index.close()
        raise
    return index


def _open_read_only(path: Path) -> sqlite3.Connection:
    # Without a log beside it nobody writes to it; "immutable" makes no files, where "ro" makes a log.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    index = sqlite3.connect(uri, timeout=BUSY_S, isolation_level=None, uri=True)
    try:
        _check_version(index)
    except BaseException:
        index.close()
        raise
    return index


def _check_version(index: sqlite3.Connection) -> None:
    version = index.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:  # an empty file has 0
        raise sqlite3.DatabaseError(f"its tables have version {version}")


def _is_damage(error: sqlite3.Error) -> bool:
    """Not one of the subclasses, such as a lock or a full disk."""
    return type(error) is sqlite3.DatabaseError


@contextlib.contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def _has(index: sqlite3.Connection, name: str) -> bool:
    return index.execute("SELECT 1 FROM blobs WHERE name = ?", (name,)).fetchone() is not None


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


def _name(kind: str, key: str) -> str:
    return f"{kind}-{key}.safetensors"
