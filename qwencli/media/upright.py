"""How a frame has to be turned to stand upright."""

import struct
from dataclasses import dataclass

import numpy as np

_NUMBERS = 9  # of a display matrix, row by row, each an int32


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done to a frame, in this order."""

    is_transposed: bool = False  # rows become columns
    is_mirrored: bool = False  # left and right
    is_flipped: bool = False  # top and bottom

    @classmethod
    def from_matrix(cls, matrix: bytes | None) -> "Turn":
        """That of a container's display matrix; angles between are rounded to quarter turns."""
        if matrix is None or len(matrix) < 4 * _NUMBERS:
            return cls()
        a, b, _, c, d, *_ = struct.unpack(f"={_NUMBERS}i", matrix[: 4 * _NUMBERS])
        # A pixel at (x, y) is shown at (a x + c y, b x + d y).
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, is_mirrored=c < 0, is_flipped=b < 0)
        return cls(False, is_mirrored=a < 0, is_flipped=d < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels` (height, width, 3)."""
        if self.is_transposed:
            pixels = pixels.transpose(1, 0, 2)
        if self.is_mirrored:
            pixels = pixels[:, ::-1]
        if self.is_flipped:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def turned(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after the turn; also of what becomes `size`, before it."""
        return size[::-1] if self.is_transposed else size
