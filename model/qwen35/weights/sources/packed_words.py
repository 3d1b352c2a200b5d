"""Small whole numbers packed into 32-bit words, and matrices of words that are read by columns."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen35.weights.header import ITEM_BYTES, TensorInfo
from qwen35.weights.numbers import Floats
from qwen35.weights.source import Grouped, ReadInto
from qwen35.weights.tiles import GROUP

Words = NDArray[np.uint32]

_STRIP_BYTES = 32 << 20  # read at once of a matrix whose columns are wanted
_KEPT_BYTES = 128 << 20
_DTYPES = {"I32": "<u4", "U32": "<u4", "BF16": "<u2", "F16": "<f2", "F32": "<f4"}

# Of each byte its two nibbles, the low one first, as the two bytes of a word.
_NIBBLES = np.array([[byte & 15, byte >> 4] for byte in range(256)], np.uint8).view("<u2").ravel()


def unpack(words: Words, bits: int) -> NDArray[np.uint8]:
    """(N, K * bits / 32) words to (N, K) numbers, those in the low bits first. `bits` is 4 or 8."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return octets if bits == 8 else _NIBBLES.take(octets).view(np.uint8)


def weights_of(q: NDArray[np.int8], scales: Floats, group: int) -> Grouped | Floats:
    """`q` (N, K) with `scales` (N, groups) of `group` columns each, the last perhaps fewer."""
    K = q.shape[1]
    if group % GROUP == 0 and K % GROUP == 0:
        return Grouped(q, np.repeat(scales, group // GROUP, axis=1)[:, : K // GROUP])
    return q * np.repeat(scales, group, axis=1)[:, :K]


class Strips:
    """Columns of matrices that lie row by row: whole strips are read, and the last few kept. Mutable.

    Rows of packed tiles are columns there. To read each by itself would be thousands of small reads.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, int], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def read(self, files: ReadInto, info: TensorInfo, begin: int, end: int) -> NDArray[Any]:
        """Columns [begin, end) of the matrix at `info`. Raises CheckpointError."""
        height, width = info.shape
        strip = max(1, min(width, _STRIP_BYTES // (height * ITEM_BYTES[info.dtype])))
        parts = []
        for index in range(begin // strip, -(-end // strip)):
            first = index * strip
            columns = self._strip(files, info, first, min(first + strip, width))
            parts.append(columns[:, max(0, begin - first) : end - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _strip(self, files: ReadInto, info: TensorInfo, begin: int, end: int) -> NDArray[Any]:
        key = (info.path, info.begin, begin)
        with self._lock:  # whoever else wants it would read the same
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            height, width = info.shape
            strip = np.empty((height, end - begin), _DTYPES[info.dtype])
            if strip.shape == info.shape:
                files(info.path, info.begin, strip.reshape(-1).view(np.uint8).data)
            else:
                for row in range(height):
                    at = info.begin + (row * width + begin) * strip.itemsize
                    files(info.path, at, strip[row].view(np.uint8).data)
            self._kept[key] = strip
            while sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
            return strip
