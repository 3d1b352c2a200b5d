"""Reading from the disk beside other work: first what is waited for, then what may be needed later.

While something is read that is waited for, nothing else begins: it would take its share of the disk.
"""

from collections import deque
from collections.abc import Sequence
from threading import Condition, Lock, Thread
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError
from qwen35.experts.files import RecordFile
from qwen35.weights.checksum import checksum
from qwen35.weights.manifest import PACK_AGAIN

NUM_READERS = 8
LATER_AT_ONCE = 2  # of what may be needed later: enough for the disk, and few to be in the way of the rest


class Check(NamedTuple):
    """Bytes [begin, end) of a read, the checksum that they must have, and what they are."""

    begin: int
    end: int
    checksum: str
    name: str


class Read:
    """Bytes on their way from a file into `memory` (N) uint8. Its `error` is known when it is done."""

    __slots__ = ("checks", "error", "file", "memory", "offset")

    def __init__(
        self, file: RecordFile, offset: int, memory: NDArray[np.uint8], checks: Sequence[Check]
    ) -> None:
        self.file, self.offset, self.memory, self.checks = file, offset, memory, checks
        self.error: BaseException | None = None

    def work(self) -> None:
        """Read and check. Raises CheckpointError that names the file, and what of it is damaged."""
        self.file.read_into(self.offset, self.memory.data)
        for begin, end, wanted, name in self.checks:
            if checksum(self.memory[begin:end].data) != wanted:
                path = self.file.path
                raise CheckpointError(f"{path}: {name} is damaged. {PACK_AGAIN}", path=path)


class Readers(Protocol):
    """A pool of threads over two queues. Mutable; one owner calls it, from one thread."""

    def submit(self, reads: Sequence[Read], *, is_urgent: bool) -> None: ...

    def hurry(self, reads: Sequence[Read]) -> None:
        """Somebody waits for what was only meant for later."""

    def cancel(self, reads: Sequence[Read]) -> None:
        """Take back what nobody has begun, wait for the others: their memory is the caller's again."""

    def take_back(self, reads: Sequence[Read]) -> list[Read]:
        """Those of them that nobody had begun: they, and their memory, are the caller's again."""
        ...

    def is_done(self, read: Read) -> bool: ...

    def wait(self, reads: Sequence[Read]) -> None:
        """Return when all are done; raises nothing: see their `error`."""

    def close(self) -> None:
        """Drop what nobody has begun, and wait for the rest. To close twice is nothing."""


class ThreadReaders:
    """Readers in Python, whose threads take turns for its lock with whoever waits for them."""

    def __init__(self, num_threads: int = NUM_READERS) -> None:
        self._urgent: deque[Read] = deque()
        self._later: deque[Read] = deque()
        self._under_way: set[Read] = set()  # waiting or begun
        self._urgent_begun = self._later_begun = 0
        # Taken by its own name, never by a condition's: that would lose it where Ctrl-C comes just then.
        self._lock = Lock()
        self._offered, self._finished = Condition(self._lock), Condition(self._lock)  # for threads, for owner
        self._is_open = True
        self._threads = [
            Thread(target=self._run, name=f"disk-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, reads: Sequence[Read], *, is_urgent: bool) -> None:
        with self._lock:
            self._under_way.update(reads)
            (self._urgent if is_urgent else self._later).extend(reads)
            self._offered.notify(len(reads))

    def hurry(self, reads: Sequence[Read]) -> None:
        with self._lock:
            for read in reads:
                if read in self._later:
                    self._later.remove(read)
                    self._urgent.append(read)

    def cancel(self, reads: Sequence[Read]) -> None:
        self.take_back(reads)
        self.wait(reads)

    def take_back(self, reads: Sequence[Read]) -> list[Read]:
        taken = []
        with self._lock:
            for read in reads:
                for waiting in (self._urgent, self._later):
                    if read in waiting:
                        waiting.remove(read)
                        self._under_way.discard(read)
                        taken.append(read)
        return taken

    def is_done(self, read: Read) -> bool:
        return read not in self._under_way

    def wait(self, reads: Sequence[Read]) -> None:
        with self._lock:
            while any(read in self._under_way for read in reads):
                self._finished.wait()

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            self._under_way.difference_update(self._urgent, self._later)
            self._urgent.clear()
            self._later.clear()
            self._offered.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            read, is_urgent = taken
            try:
                read.work()
            except BaseException as error:  # for the thread that waits
                read.error = error
            with self._lock:
                self._count(is_urgent, -1)
                self._under_way.discard(read)
                self._finished.notify_all()
                if self._may_begin_later():
                    self._offered.notify(LATER_AT_ONCE)

    def _take(self) -> tuple[Read, bool] | None:
        """The next read, begun, and whether somebody waits for it; None at the end."""
        with self._lock:
            while self._is_open:  # closing leaves both queues empty
                if self._urgent or self._may_begin_later():
                    is_urgent = bool(self._urgent)
                    self._count(is_urgent, 1)
                    return (self._urgent or self._later).popleft(), is_urgent
                self._offered.wait()
            return None

    def _may_begin_later(self) -> bool:
        return bool(self._later) and not self._urgent_begun and self._later_begun < LATER_AT_ONCE

    def _count(self, is_urgent: bool, change: int) -> None:
        if is_urgent:
            self._urgent_begun += change
        else:
            self._later_begun += change
