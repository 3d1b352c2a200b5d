"""Cosines and sines of positions, in numpy: the tables that the library's rotations take.

The plain forms are in `network/rope.py` and `network/vision.py`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from qwen35.config import RopeConfig

Floats = NDArray[np.float32]

VISION_THETA = 10000.0


def frequency_axes(sections: tuple[int, int, int]) -> list[int]:
    """Which axis (0 time, 1 height, 2 width) turns each frequency: height takes 1, 4, ..., width 2, 5, ..."""
    axes = [0] * sum(sections)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = [axis] * len(axes[axis : 3 * sections[axis] : 3])
    return axes


def inverse_frequencies(rope: RopeConfig, rotary_dim: int) -> Floats:
    """Angle per position step of each pair of dimensions, (rotary_dim / 2,)."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    plain = (np.float32(1) / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.yarn_factor is None:
        return plain
    assert rope.yarn_original_context is not None
    context = rope.yarn_original_context

    # YaRN, section 3.2: fast dimensions keep their frequency, slow ones are slowed, a ramp lies between.
    def dim_with_turns(turns: float) -> float:
        return rotary_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(dim_with_turns(32.0)), 0)
    high = min(math.ceil(dim_with_turns(1.0)), rotary_dim - 1)
    ramp = (np.arange(rotary_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(
        max(high - low, 1e-3)
    )
    slowed = ramp.clip(0, 1)
    return plain * (1 - slowed) + plain / np.float32(rope.yarn_factor) * slowed


class TextRotary:
    """Tables of text positions, frequencies computed once."""

    def __init__(self, rope: RopeConfig, rotary_dim: int) -> None:
        self._axes = np.array(frequency_axes(rope.mrope_section))
        self._inverse = inverse_frequencies(rope, rotary_dim)
        self._scale = np.float32(1.0 if rope.yarn_factor is None else 0.1 * math.log(rope.yarn_factor) + 1.0)

    def tables(self, position_ids: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Cosines and sines, each (T, rotary_dim / 2) and contiguous, of positions (3, T)."""
        angles = np.ascontiguousarray(position_ids[self._axes].T, np.float32) * self._inverse
        return np.cos(angles) * self._scale, np.sin(angles) * self._scale


def vision_tables(coordinates: NDArray[np.int64], head_dim: int) -> tuple[Floats, Floats]:
    """Cosines and sines (P, head_dim / 2): half of the angles follow the row, half the column."""
    exponents = np.arange(0, head_dim // 2, 2, dtype=np.float32) / np.float32(head_dim // 2)
    inverse = (np.float32(1) / np.float32(VISION_THETA) ** exponents).astype(np.float32)
    angles = (coordinates.astype(np.float32)[:, :, None] * inverse).reshape(len(coordinates), -1)
    return np.cos(angles), np.sin(angles)
