"""The index of the saved states: an SQLite file that many processes share, and the files that it stands for.

A row comes before its file and is marked ready after it, so that what a killed process leaves is known and
swept up by the next one that saves. Files come and go only under the index's lock, together with their rows.
"""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35.cache import blobs
from qwen35.cache.blobs import BadBlob

BUSY_S = 2.0  # a lock that is held longer is not waited for: the answer goes on without the cache
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


class Index:
    """The folder's index, for one process; a connection of its own for each use."""

    def __init__(self, folder: Path, *, can_write: bool) -> None:
        self.folder, self.can_write = folder, can_write
        self.path = folder / "index.sqlite"
        self.blobs = folder / "blobs"
        # A process's number alone may be that of one that was killed: in a container it often is.
        self.writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.is_tidy = False  # what does not fit together was swept up

    def is_there(self) -> bool:
        """Whether anything can be found."""
        try:
            return self.path.exists() or (self.can_write and self.blobs.exists())
        except OSError:  # whoever connects says why
            return True

    @contextlib.contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: threads and processes share nothing but the file.

        A damaged index is removed and made again from what the blobs say of themselves.
        """
        try:
            index = self._open() if self.can_write else _open_read_only(self.path)
        except (OSError, sqlite3.Error) as error:
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        try:
            yield index
        except sqlite3.Error as error:
            if _is_damage(error) and self.can_write:
                self._remove_index()
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        finally:
            index.close()

    def _open(self) -> sqlite3.Connection:
        if not self.blobs.exists():
            self.blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
        if not self.path.exists():
            self._make_index()
        try:
            return _open(self.path)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self._remove_index()
            self._make_index()
            return _open(self.path)

    def _make_index(self) -> None:
        """Make it aside, and let it appear whole: others may be doing the same."""
        aside = self.path.with_name(f"{self.path.name}.{self.writer}.{threading.get_ident()}.partial")
        try:
            with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as index:
                aside.chmod(0o600)
                index.executescript(_SCHEMA)
                self._read_blobs_into(index)
                index.execute(f"PRAGMA user_version = {_VERSION}")
                index.execute("PRAGMA journal_mode = WAL")
            try:
                os.link(aside, self.path)
            except FileExistsError:
                pass  # another was first
            except OSError:  # a file system without links
                aside.replace(self.path)
            self.is_tidy = False
        finally:
            aside.unlink(missing_ok=True)

    def _remove_index(self) -> None:
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).unlink()

    def _read_blobs_into(self, index: sqlite3.Connection) -> None:
        with transaction(index):
            for path in self.blobs.glob("*.safetensors"):
                try:
                    about, stat = blobs.describe(path), path.stat()
                    name = path.name
                    if blob_name(about["kind"], about["key"]) != name:
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
                        insert(index, snapshot, stat.st_mtime)
                except (BadBlob, OSError, LookupError, TypeError, *_UNFIT):
                    path.unlink(missing_ok=True)

    def remove(self, index: sqlite3.Connection, names: Iterable[str]) -> None:
        """Remove blobs and every snapshot that needs one of them."""
        gone = set(names)
        for name in [*gone]:
            keys = index.execute("SELECT key FROM needs WHERE blob = ?", (name,)).fetchall()
            gone |= {*forget(index, [row[0] for row in keys], is_evicted=False)}
        self.drop(index, gone)

    def drop(self, index: sqlite3.Connection, names: Iterable[str]) -> int:
        """Remove blobs that nothing needs. Returns their bytes."""
        size_bytes = 0
        for name in names:
            row = index.execute("SELECT size_bytes FROM blobs WHERE name = ?", (name,)).fetchone()
            index.execute("DELETE FROM blobs WHERE name = ?", (name,))
            self.unlink(name)
            size_bytes += row[0] if row else 0
        return size_bytes

    def unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.blobs / name).unlink()

    def is_gone(self, writer: str) -> bool:
        """Of this process only this store is not: any other had the process's number before."""
        import psutil  # costs 50 ms, and is seldom needed

        process = writer.partition("-")[0]
        if writer == self.writer or not process.isdecimal():
            return writer != self.writer
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
def transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def has(index: sqlite3.Connection, name: str) -> bool:
    return index.execute("SELECT 1 FROM blobs WHERE name = ?", (name,)).fetchone() is not None


def size_of(index: sqlite3.Connection, name: str) -> int:
    """Bytes of a blob that is here, or of the room for it."""
    return int(index.execute("SELECT size_bytes FROM blobs WHERE name = ?", (name,)).fetchone()[0])


def insert(index: sqlite3.Connection, snapshot: Snapshot, now: float) -> None:
    index.execute(
        "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, "
        "COALESCE((SELECT uses FROM snapshots WHERE key = ?), 0), 0)",
        (
            *(snapshot.key, snapshot.model, snapshot.num_tokens, snapshot.saved_tokens, snapshot.label),
            *(now, now, snapshot.key),
        ),
    )
    need(index, snapshot)


def need(index: sqlite3.Connection, snapshot: Snapshot) -> None:
    """From now on its blobs do not go while others make room."""
    names = [blob_name("snapshot", snapshot.key), *(blob_name("block", key) for key in snapshot.block_keys)]
    index.executemany("INSERT OR IGNORE INTO needs VALUES (?, ?)", [(snapshot.key, name) for name in names])


def forget(index: sqlite3.Connection, keys: Sequence[str], *, is_evicted: bool) -> list[str]:
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


def blob_name(kind: str, key: str) -> str:
    return f"{kind}-{key}.safetensors"
