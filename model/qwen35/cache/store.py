"""The states on disk, to be found and saved. Every read is checked: what is missing or damaged is a miss."""

import contextlib
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
from qwen35.cache.index import (
    CacheTrouble,
    Index,
    Snapshot,
    blob_name,
    forget,
    has,
    insert,
    need,
    size_of,
    transaction,
)
from qwen35.cache.room import make_room
from qwen35.state import BLOCK_TOKENS, ModelState

KEPT_PROMPTS = 64  # of each model, to tell where a prompt began to differ
_LOADERS = 4


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


@dataclass(frozen=True, slots=True)
class _Blob:
    """A file to be: what it says about itself beside kind and key, and what makes its tensors."""

    kind: str
    key: str
    about: dict[str, Any]
    make: Callable[[], Tensors]

    @property
    def name(self) -> str:
        return blob_name(self.kind, self.key)


class Store:
    """The folder, for one process; any number of them may use it at once, and any thread of each."""

    def __init__(self, folder: Path, budget_bytes: int, *, can_write: bool = True) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes
        self._index = Index(folder, can_write=can_write)
        self._blobs = self._index.blobs

    def read_only(self) -> "Store":
        """The same folder, in which nothing is changed."""
        return Store(self.folder, self.budget_bytes, can_write=False)

    # --- finding

    def lengths(self, model: str) -> list[int]:
        """Of the prefixes whose states were ever saved and may be here."""
        if not self._index.is_there():
            return []
        with self._index.connect() as index:
            found = index.execute("SELECT DISTINCT num_tokens FROM snapshots WHERE model = ?", (model,))
            return [row[0] for row in found]

    def deepest(self, keys: Mapping[int, str]) -> tuple[Snapshot | None, int]:
        """The longest of the prefixes with these keys (by length) whose state is here, and the length of
        the longest that was here and had to make room."""
        evicted = 0
        if not keys or not self._index.is_there():
            return None, 0
        with self._index.connect() as index:
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
        names = [blob_name("block", key) for key in block_keys]
        own = blob_name("snapshot", snapshot.key)
        with ThreadPoolExecutor(_LOADERS) as pool:
            own_tensors, *blocks = pool.map(self._read_or_drop, [own, *names])
        try:
            blobs.restore(state, snapshot.num_tokens, own_tensors, blocks)
        except BadBlob:
            self.drop([own, *names])
            raise

    def features(self, model: str, key: str) -> np.ndarray | None:
        """A picture's features (M, D); None where they are not here or are damaged."""
        name = blob_name("features", f"{model}-{key}")
        try:
            return self._read_or_drop(name)["features"] if (self._blobs / name).exists() else None
        except (BadBlob, OSError):
            return None

    def touch(self, key: str) -> None:
        """A snapshot was of use. Raises CacheTrouble."""
        with self._index.connect() as index:
            index.execute("UPDATE snapshots SET used = ?, uses = uses + 1 WHERE key = ?", (time.time(), key))

    def touch_features(self, model: str, key: str) -> None:
        """Raises CacheTrouble."""
        with self._index.connect() as index:
            name = blob_name("features", f"{model}-{key}")
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
        if blob_name(about["kind"], about["key"]) != name:
            raise BadBlob(f"{name} holds something else than its name says")
        return tensors

    # --- saving

    def save(self, snapshot: Snapshot, state: ModelState) -> None:
        """Make room for what is not here yet, and write it; nothing where there is not that much room.

        Raises CacheTrouble.
        """
        blocks = [
            _Blob("block", key, {"model": snapshot.model}, partial(blobs.block_tensors, state, number))
            for number, key in enumerate(snapshot.block_keys)
        ]
        about = {"model": snapshot.model, "num_tokens": snapshot.num_tokens}
        about |= {"blocks": list(snapshot.block_keys)}
        about |= {"saved_tokens": snapshot.saved_tokens, "label": snapshot.label}
        own = _Blob("snapshot", snapshot.key, about, partial(blobs.snapshot_tensors, state))
        wanted = [*blocks, own]
        if not self._write_all(wanted, snapshot):
            return
        with self._index.connect() as index, transaction(index):
            # Another process may have found a block damaged meanwhile, or cleared everything.
            is_whole = all(has(index, blob.name) for blob in wanted)
            if is_whole:
                insert(index, snapshot, time.time())
                # Ready all at once: until here they are swept up if this process is killed.
                self._mark_ready(index, [blob.name for blob in wanted])
            else:
                query = "SELECT name FROM blobs WHERE writer = ?"
                self._index.remove(index, [row[0] for row in index.execute(query, (self._index.writer,))])

    def save_features(self, model: str, key: str, features: np.ndarray) -> None:
        """Raises CacheTrouble."""
        blob = _Blob("features", f"{model}-{key}", {"model": model}, lambda: {"features": features})
        if self._write_all([blob]):
            with self._index.connect() as index:
                self._mark_ready(index, [blob.name])

    def save_prompt(self, model: str, ids: np.ndarray) -> None:
        """Remember the ids of a prompt, so that the next can be told where it began to differ."""
        with self._index.connect() as index, transaction(index):
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
        if not self._index.is_there():
            return
        with self._index.connect() as index:
            query = "SELECT ids FROM prompts WHERE model = ? ORDER BY rowid DESC"  # clocks jump
            rows = index.execute(query, (model,)).fetchall()
        for (ids,) in rows:
            yield np.frombuffer(ids, np.int64)

    def other_models(self, model: str) -> int:
        """How many snapshots of other models, quantisations or kernels are here."""
        if not self._index.is_there():
            return 0
        with self._index.connect() as index:
            query = "SELECT COUNT(*) FROM snapshots WHERE model != ? AND NOT is_evicted"
            return int(index.execute(query, (model,)).fetchone()[0])

    def _write_all(self, wanted: Sequence[_Blob], snapshot: Snapshot | None = None) -> bool:
        """Write what is not here, nor being written by a process; it stays marked as being written.

        Room is made before, so that the files never exceed the budget. `snapshot` is what the blobs are for.
        Returns whether there is enough of it.
        """
        try:
            with self._index.connect() as index, transaction(index):
                missing = [blob for blob in wanted if self._claim(index, blob)]
                if snapshot is not None:
                    need(index, snapshot)  # what is here already must not make room for the rest
                names = [blob.name for blob in missing]
                fits = sum(size_of(index, blob.name) for blob in wanted) <= self.budget_bytes
                if not fits:
                    self._index.remove(index, names)  # nothing else has to go for it
                if not (make_room(self._index, index, self.budget_bytes) and fits):
                    self._index.remove(index, names)
                    return False
        except OSError as error:
            raise CacheTrouble(f"the state cache in {self.folder} cannot be used ({error})") from None
        for blob in missing:
            self._write(blob)
        return True

    def _claim(self, index: sqlite3.Connection, blob: _Blob) -> bool:
        """Mark a blob as being written from here, with the bytes that it may take, unless it need not be."""
        row = index.execute("SELECT writer FROM blobs WHERE name = ?", (blob.name,)).fetchone()
        is_here = row and (
            (self._blobs / blob.name).exists() if row[0] is None else self._is_another_writing(row[0])
        )
        if is_here:
            index.execute("UPDATE blobs SET used = ? WHERE name = ?", (time.time(), blob.name))
            return False
        index.execute(
            "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(blob.name, blob.kind, blob.about["model"]),
                *(blobs.most_bytes(blob.make(), blob.about), self._index.writer, time.time()),
            ),
        )
        return True

    def _write(self, blob: _Blob) -> None:
        path = self._blobs / blob.name
        aside = path.with_name(f"{blob.name}.{self._index.writer}.{threading.get_ident()}.partial")
        about = {"kind": blob.kind, "key": blob.key} | blob.about
        try:
            size_bytes = blobs.write(aside, blob.make(), about)
            with self._index.connect() as index, transaction(index):
                query = "UPDATE blobs SET size_bytes = ? WHERE name = ? AND writer = ?"
                if index.execute(query, (size_bytes, blob.name, self._index.writer)).rowcount:
                    aside.replace(path)
        except OSError as error:
            self.drop([blob.name])
            raise CacheTrouble(f"the state was not saved: {path}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()

    def _mark_ready(self, index: sqlite3.Connection, names: Iterable[str]) -> None:
        """Of these blobs, those that are being written from here."""
        query = "UPDATE blobs SET writer = NULL WHERE name = ? AND writer = ?"
        index.executemany(query, [(name, self._index.writer) for name in names])

    # --- keeping house

    def make_room(self) -> None:
        """Keep to the budget. Raises CacheTrouble."""
        with self._index.connect() as index, transaction(index):
            make_room(self._index, index, self.budget_bytes)

    def forget(self, keys: Sequence[str]) -> None:
        """Remove snapshots, and the blocks that no other needs; quietly where the index is out of reach."""
        with contextlib.suppress(CacheTrouble), self._index.connect() as index, transaction(index):
            self._index.drop(index, forget(index, keys, is_evicted=False))

    def drop(self, names: Sequence[str]) -> None:
        """Remove blobs, and the snapshots that need them; quietly where the index is out of reach."""
        if self._index.can_write:
            with contextlib.suppress(CacheTrouble), self._index.connect() as index, transaction(index):
                self._index.remove(index, names)

    def clear(self) -> int:
        """Remove everything. Returns the bytes that were freed. Raises CacheTrouble."""
        if not self._index.is_there():
            return 0
        with self._index.connect() as index:
            with transaction(index):
                freed = index.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
                for table in ("blobs", "snapshots", "needs", "prompts"):
                    index.execute(f"DELETE FROM {table}")
                for path in self._blobs.iterdir():
                    self._index.unlink(path.name)
            with contextlib.suppress(sqlite3.OperationalError):  # locked
                index.execute("VACUUM")  # else what was asked stays in free pages
        return int(freed)

    def rows(self) -> list[Row]:
        """Snapshots that are here, the last used first."""
        if not self._index.is_there():
            return []
        with self._index.connect() as index:
            found = index.execute(
                "SELECT key, snapshots.model, num_tokens, label, created, snapshots.used, uses, size_bytes "
                "FROM snapshots JOIN blobs ON name = 'snapshot-' || key || '.safetensors' "
                "WHERE NOT is_evicted ORDER BY snapshots.used DESC"
            )
            return [Row(*row) for row in found]

    def totals(self) -> Totals:
        totals = Totals()
        if self._index.is_there():
            with self._index.connect() as index:
                kinds = index.execute("SELECT kind, SUM(size_bytes), COUNT(*) FROM blobs GROUP BY kind")
                for kind, size_bytes, count in kinds:
                    totals.by_kind[kind] = size_bytes
                    totals.size_bytes += size_bytes
                    totals.snapshots += count if kind == "snapshot" else 0
        return totals

    def check(self) -> Iterator[tuple[str, str | None]]:
        """Read every blob: its name, and what is wrong with it. Raises CacheTrouble."""
        if not self._index.is_there():
            return
        with self._index.connect() as index:
            names = [row[0] for row in index.execute("SELECT name FROM blobs WHERE writer IS NULL")]
        for name in names:
            try:
                self._read(name)
            except BadBlob as error:
                yield name, str(error)
            else:
                yield name, None

    def _is_another_writing(self, writer: str) -> bool:
        return writer != self._index.writer and not self._index.is_gone(writer)
