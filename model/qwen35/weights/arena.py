"""Bytes of files in memory: read into one block of their own, or mapped.

Mutable: a Reader fills its memory until all is there or `stop`; the memory lives as long as an array on it.
"""

import mmap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError, DoesNotFit
from qwen35.memory import allocate
from qwen35.weights.reading import read_into

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all

_NUM_THREADS = 4  # a disk's queue wants more than one; past four nothing was gained
_PIECE = 16 << 20

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Extent:
    """`size_bytes` of a file, from `offset` on; by default from its beginning."""

    path: Path
    size_bytes: int
    offset: int = 0


class Reader:
    """Reads files in the background into one page-aligned block of memory, on huge pages where there are any.

    `arrays` are the extents' bytes, in place from the start on; what `wait_for` was asked for is there when
    it returns. Sizes are multiples of a page.
    """

    def __init__(self, extents: Sequence[Extent], on_progress: OnProgress | None = None) -> None:
        """Start reading, each extent from its beginning, one after another.

        `on_progress` hears of it in `wait_for` alone. Raises DoesNotFit where memory is short.
        """
        self._extents, self._on_progress = extents, on_progress
        self._total = sum(extent.size_bytes for extent in extents)
        block = block_of(self._total)
        self.arrays: list[Bytes] = []
        start = 0
        for extent in extents:
            self.arrays.append(block[start : start + extent.size_bytes])
            start += extent.size_bytes
        begins = [range(0, extent.size_bytes, _PIECE) for extent in extents]
        self._waiting = [deque(each) for each in begins]  # pieces that no thread has taken, by extent
        self._missing = [set(each) for each in begins]  # pieces that are not there yet
        self._wanted = 0  # the extent that is read first
        self._num_read = 0
        self._error: BaseException | None = None
        self._changed = Condition()
        for number in range(_NUM_THREADS):
            # Daemons: a program that ends does not wait for gigabytes that nobody will look at.
            Thread(target=self._read, name=f"read-{number}", daemon=True).start()

    def wait_for(self, number: int, end: int) -> None:
        """Return when the first `end` bytes of an extent are there; it is read before the others now.

        Raises the CheckpointError of whichever file could not be read.
        """
        with self._changed:
            self._wanted = number
            while self._error is None and min(self._missing[number], default=end) < end:
                self._changed.wait()
                self._report()
            if self._error is not None:
                raise self._error
            self._report()

    def stop(self) -> None:
        """Read no further; the memory stays as it is."""
        with self._changed:
            self._on_progress = None  # whose owner may own this reader: no circle keeps the memory
            for pieces in self._waiting:
                pieces.clear()

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self._num_read, self._total)

    def _read(self) -> None:
        while (piece := self._take()) is not None:
            number, begin = piece
            target = self.arrays[number][begin : begin + _PIECE]
            extent = self._extents[number]
            try:
                read_into(extent.path, extent.offset + begin, memoryview(target.data))
            except BaseException as error:  # for the thread that waits
                self.stop()
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()
                return
            with self._changed:
                self._missing[number].discard(begin)
                self._num_read += target.size
                self._changed.notify_all()

    def _take(self) -> tuple[int, int] | None:
        with self._changed:
            for number in (self._wanted, *range(len(self._waiting))):
                if self._waiting[number]:
                    return number, self._waiting[number].popleft()
        return None


def map_files(extents: Sequence[Extent]) -> list[Bytes]:
    """Whole files as the system's cache holds them, read only, shared between processes."""
    arrays = []
    for extent in extents:
        try:
            with extent.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), extent.size_bytes, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: longer than the file
            raise CheckpointError(
                f"{extent.path}: cannot be mapped ({error}).", path=str(extent.path)
            ) from None
        arrays.append(np.frombuffer(mapped, np.uint8))
    return arrays


def block_of(num_bytes: int) -> Bytes:
    """Zeroed memory at a page's start, on huge pages where there are any. Raises DoesNotFit."""
    try:
        return np.frombuffer(allocate(num_bytes), np.uint8)
    except (OSError, ValueError, MemoryError, OverflowError):
        raise DoesNotFit(
            f"No memory for {num_bytes / 1e9:.1f} GB of weights. Close other programs, or use a smaller "
            "model."
        ) from None
