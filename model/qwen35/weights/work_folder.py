"""The unfinished pack: data files and a journal in a hidden folder beside the target, one process at a time.

    .NAME.packing/lock            held by flock while a process packs
    .NAME.packing/journal.jsonl   what is packed (its identity), then a line for each item written
    .NAME.packing/files/NAME/     what becomes the target, by one rename

The target's files lie a folder deeper than a search for models looks, so nothing unfinished is
listed; and the rename comes when all is written and synced.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, NoReturn

from qwen35.errors import UnwritableError
from qwen35.weights.checksum import Checksum
from qwen35.weights.loss import NO_LOSS, Loss

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LINE = re.compile(rb'\{"checksum": "([0-9a-f]{16})"(?:, "loss": \[([^,\]]+), ([^\]]+)\])?\}')
_WRITE_BEHIND = 16 << 20
_KEPT = 1 << 30  # bytes of a file that stay in the system's cache, for the first load
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Paths alone; the functions below act on them."""

    root: Path
    files: Path

    @classmethod
    def beside(cls, target: Path) -> "WorkFolder":
        root = target.parent / f".{target.name}.packing"
        return cls(root, root / "files" / target.name)

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def remove(self) -> None:
        """The lock last: while it is there, nobody else begins."""
        shutil.rmtree(self.root / "files", ignore_errors=True)
        with suppress(OSError):  # Windows keeps an open lock; somebody may just have made it anew
            self.journal.unlink(missing_ok=True)
            self.lock.unlink(missing_ok=True)
            self.root.rmdir()


@contextmanager
def locked(work: WorkFolder, target: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the work folder, making it if need be. A lock that a dead process left is none.

    Where another process holds it, `on_wait` is called (and takes its time) until that has ended; without
    one, UnwritableError is raised.
    """
    with writing(work.root):
        while (file := _hold(work)) is None and on_wait:
            on_wait()
    if file is None:
        raise UnwritableError(
            f"{target}: is being packed by another process. Wait for it, or choose another folder.",
            path=str(target),
        )
    try:
        yield
    finally:
        if not work.journal.exists():  # nothing to go on from: leave nothing
            work.remove()
        file.close()


def _hold(work: WorkFolder) -> BinaryIO | None:
    """The lock's file, locked; None where another process has it."""
    while True:
        work.root.mkdir(parents=True, exist_ok=True)
        try:
            file = work.lock.open("ab")
        except FileNotFoundError:  # whoever had it finished and took the folder away
            continue
        if not _try_lock(file):
            file.close()
            return None
        try:
            if sys.platform == "win32" or os.path.samestat(os.fstat(file.fileno()), work.lock.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # taken away between opening and locking


def _try_lock(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Journal:
    """The items written so far, in their order. Mutable; one owner, which holds the lock."""

    def __init__(self, path: Path, checksums: list[str], losses: list[Loss]) -> None:
        self._path = path
        self.checksums = checksums
        self.losses = losses

    @classmethod
    def open(cls, path: Path, identity: str) -> "Journal | None":
        """The journal at `path`, begun if there is none; None if it is that of something else.

        A last line that a kill cut off does not count.
        """
        first = json.dumps({"identity": identity}).encode()
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        if not lines:
            path.write_bytes(first + b"\n")
        elif lines[0] != first:
            return None
        matches = [_LINE.fullmatch(line) for line in lines[1:]]
        whole = [match for match in takewhile(bool, matches) if match]
        losses = [Loss(float(match[2]), float(match[3])) if match[2] else NO_LOSS for match in whole]
        journal = cls(path, [match[1].decode() for match in whole], losses)
        journal.cut(len(whole))
        return journal

    def cut(self, num_items: int) -> None:
        """Forget what comes after the first `num_items`."""
        del self.checksums[num_items:], self.losses[num_items:]
        with self._path.open("r+b") as file:
            for _ in range(num_items + 1):
                file.readline()
            file.truncate(file.tell())

    def add(self, checksum: str, loss: Loss = NO_LOSS) -> None:
        self.checksums.append(checksum)
        self.losses.append(loss)
        more = "" if loss == NO_LOSS else f', "loss": [{loss.squared_error!r}, {loss.squares!r}]'
        with self._path.open("ab") as file:
            file.write(f'{{"checksum": "{checksum}"{more}}}\n'.encode())


class DataFile:
    """A data file that grows item by item, with the SHA-256 of all of it. Mutable; one owner."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._sha256 = hashlib.sha256()
        self.end = 0  # bytes that are written and counted
        self._handed_over = 0  # of these, to the disk

    def check(self, offset: int, size_bytes: int, checksum: str) -> bool:
        """Whether an item of that checksum comes next, after zeros up to `offset`; then it counts."""
        own, whole = Checksum(), self._sha256.copy()
        self._file.seek(self.end)
        gap = bytes(offset - self.end)
        if self._file.read(len(gap)) != gap:
            return False
        whole.update(gap)
        rest = size_bytes
        while rest:
            piece = self._file.read(min(rest, 4 << 20))
            if not piece:
                return False
            rest -= len(piece)
            whole.update(piece)
            own.update(piece)
        if own.hexdigest() != checksum:
            return False
        self._sha256 = whole
        self.end = self._handed_over = offset + size_bytes
        return True

    def begin(self, offset: int) -> None:
        """Drop what lies behind the counted bytes, and fill with zeros up to `offset`."""
        self._file.truncate(self.end)
        self._file.seek(self.end)
        self.write(bytes(offset - self.end))

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while len(rest):
            rest = rest[self._file.write(rest) :]
        self._sha256.update(data)
        self.end += len(data)
        if self.end - self._handed_over >= _WRITE_BEHIND:
            self._hand_over()

    def _hand_over(self) -> None:
        """Let the disk begin, so that `finish` has little to wait for; and let go of what it has long had.

        What comes then goes into that memory: to get new memory is slow in virtual machines.
        """
        if sys.platform == "linux":  # where pages "not needed" are written out, and kept until they are
            for begin, end in (
                (self._handed_over, self.end),
                (max(0, self._handed_over - _KEPT), max(0, self.end - _KEPT)),
            ):
                if begin < end:  # a length of zero would mean all of the file
                    os.posix_fadvise(self._file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)
        self._handed_over = self.end

    def finish(self, size_bytes: int) -> str:
        """Fill up to `size_bytes`, put it on the disk, close. Returns the SHA-256."""
        self.begin(size_bytes)
        os.fsync(self._file.fileno())
        self._file.close()
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()


def write_synced(path: Path, data: bytes) -> None:
    """Write aside, put on the disk, then rename: `path` is there whole or not at all."""
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the system says against writing, as UnwritableError."""
    try:
        yield
    except OSError as error:
        _explain(error, place)


def _explain(error: OSError, place: Path) -> NoReturn:
    if error.errno in _FULL:
        raise UnwritableError(
            f"{place}: the disk is full ({error.strerror}). What is packed so far is kept: make room and "
            "run the same command again, or delete that folder.",
            path=str(place),
        ) from None
    raise UnwritableError(f"{place}: cannot be written ({error.strerror}).", path=str(place)) from None
