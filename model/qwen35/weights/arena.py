"""Bytes of files in memory: read into one block of their own, or mapped.

Mutable: an Arena owns its memory until `close`, or until the last array on it is gone.
"""

import contextlib
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError, DoesNotFit
from qwen35.weights.reading import read_into

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all

_READERS = 4  # a disk's queue wants more than one; past four nothing was gained
_PIECE = 16 << 20

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Extent:
    """A whole file of `size_bytes`."""

    path: Path
    size_bytes: int


def read_files(extents: Sequence[Extent], on_progress: OnProgress | None = None) -> list[Bytes]:
    """Each file's bytes, one after another in one page-aligned block, on huge pages where there are any.

    Sizes are multiples of a page. Read by a few threads, in order, `on_progress` from this one.
    Raises CheckpointError, and DoesNotFit where memory is short.
    """
    total = sum(extent.size_bytes for extent in extents)
    block = _allocate(total)
    arrays, pieces, start = [], [], 0
    for extent in extents:
        array = block[start : start + extent.size_bytes]
        arrays.append(array)
        pieces += [
            (extent.path, begin, array[begin : begin + _PIECE]) for begin in range(0, array.size, _PIECE)
        ]
        start += extent.size_bytes
    num_read = 0
    with ThreadPoolExecutor(_READERS, "read") as pool:
        try:
            for num_bytes in pool.map(_read_piece, pieces):
                num_read += num_bytes
                if on_progress:
                    on_progress(num_read, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return arrays


def map_files(extents: Sequence[Extent]) -> list[Bytes]:
    """Each file's bytes as the system's cache holds them, read only, shared between processes."""
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


def _allocate(num_bytes: int) -> Bytes:
    try:
        memory = mmap.mmap(-1, num_bytes)
    except (OSError, ValueError, MemoryError, OverflowError):
        raise DoesNotFit(
            f"No memory for {num_bytes / 1e9:.1f} GB of weights. Close other programs, or use a smaller "
            "model."
        ) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _read_piece(piece: tuple[Path, int, Bytes]) -> int:
    path, begin, target = piece
    read_into(path, begin, memoryview(target.data))
    return target.size
