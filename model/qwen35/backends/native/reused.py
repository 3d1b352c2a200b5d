"""Memory for large outputs that are forgotten soon: fresh pages would cost more than writing them."""

import sys

import numpy as np
from numpy.typing import NDArray

MOST_KEPT = 2  # the caller still holds what the last step gave while the next one is made


class ReusedRows:
    """Arrays (M, N) float32, not initialised. Mutable: it gives memory again that nobody holds any longer."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.float32]] = []
        self._own_references = 0  # to each of them, where nobody else holds it

    def take(self, num_rows: int, width: int) -> NDArray[np.float32]:
        """(num_rows, width). It is the caller's as long as any view of it lives. Raises MemoryError."""
        for index in range(len(self._kept)):
            rows, columns = self._kept[index].shape
            is_free = self._references(index) == self._own_references
            if is_free and rows >= num_rows and columns == width:
                return self._kept[index][:num_rows]
        fresh = np.empty((num_rows, width), np.float32)
        self._kept = [*self._kept[1 - MOST_KEPT :], fresh]
        del fresh
        self._own_references = self._references(-1)
        return self._kept[-1][:]

    def _references(self, index: int) -> int:
        """Views are counted: they hold the array that they are of."""
        return sys.getrefcount(self._kept[index])
