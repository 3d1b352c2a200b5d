"""The checksum of a tensor or a record: one number of 64 bits, computed at the speed of the memory.

SHA-256 takes 1 ms for an expert, more than its products; this is checked on every read. Of words w[0..n-1] of
64 bits (little-endian, the last one filled up with zeros) it is the sum of w[i] * BASE^i, modulo 2^64.

It finds for certain any one word that is not as it was, so each flipped bit: all powers of BASE are odd. But
for a chance of 2^-64 it finds other contents: pages that are zeroed, stale or from another place. Two words,
sectors or pages that changed places it finds but for a chance of 2^(v - 62), where 2^v is the largest power
of two that divides their distance in words: 2^-45 at most for the pages of an expert. (Both are 2^16 times as
likely in float32 made of bfloat16, whose lowest bits are zeros.)

It does not find zeros added at the end (sizes are checked at every open), nor two words swapped that differ
in their uppermost v + 2 bits alone, nor what somebody changed on purpose: that is for a file's SHA-256.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BASE = 0x9E3779B97F4A7C15  # as 8n + 5 it has 2^62 different powers, the most there are; else it is arbitrary

_ROW = 512  # words that are weighed at a time, a page: their weights stay in the fastest cache
_BLOCK = 512 * _ROW


class Checksum:
    """A checksum in the making, used as those of hashlib are."""

    def __init__(self) -> None:
        self._sum = 0
        self._power = 1  # of BASE, for the next word

    def update(self, data: bytes | memoryview) -> None:
        """Go on with `data`, whole words but at the end."""
        if len(data) % 8:
            data = bytes(data) + bytes(-len(data) % 8)
        words = np.frombuffer(data, "<u8")
        whole = len(words) - len(words) % _ROW
        for begin in range(0, whole, _BLOCK):
            self._add(words[begin : min(begin + _BLOCK, whole)].reshape(-1, _ROW))
        if whole < len(words):
            self._add(words[whole:].reshape(1, -1))

    def hexdigest(self) -> str:
        """The number as 16 digits: not every reader of JSON has integers of 64 bits."""
        return f"{self._sum:016x}"

    def _add(self, rows: NDArray[np.uint64]) -> None:
        R, W = rows.shape
        sums = np.einsum("rw,w->r", rows, _POWERS[:W])
        self._sum = (self._sum + self._power * int(np.dot(sums, _ROW_POWERS[:R]))) % 2**64
        self._power = self._power * pow(BASE, rows.size, 2**64) % 2**64


def checksum(data: bytes | memoryview) -> str:
    """Of all of `data`."""
    own = Checksum()
    own.update(data)
    return own.hexdigest()


def combined(parts: Iterable[tuple[int, str]]) -> str:
    """Of data that are zeros but for parts, whose offsets (multiples of 8) and checksums these are."""
    total = sum(int(checksum, 16) * pow(BASE, offset // 8, 2**64) for offset, checksum in parts)
    return f"{total % 2**64:016x}"


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^0 to base^(count - 1)."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


_POWERS = _powers(BASE, _ROW)
_ROW_POWERS = _powers(pow(BASE, _ROW, 2**64), _BLOCK // _ROW)
