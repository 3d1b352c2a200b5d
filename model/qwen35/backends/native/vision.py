"""Pictures to features: positions and frames in numpy, the encoder in the library.

The plain form is `network/vision.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.layers import Layers
from qwen35.backends.native.library import Context
from qwen35.backends.native.rotary import Floats, vision_tables
from qwen35.config import VisionConfig

_MOST_SIZES = 8


def patch_coordinates(height: int, width: int, merge: int) -> NDArray[np.int64]:
    """Row and column of each patch of one frame, in merge order: (height * width, 2)."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    blocks = grid.reshape(height // merge, merge, width // merge, merge, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def interpolate_positions(table: Floats, coordinates: NDArray[np.int64], height: int, width: int) -> Floats:
    """Learned positions for one frame: the square `table` (side ** 2, d) stretched over its grid.

    Bilinear with corners aligned. Returns (height * width, d).
    """
    side = round(len(table) ** 0.5)
    last = np.array([max(height - 1, 1), max(width - 1, 1)], np.float32)
    place = coordinates.astype(np.float32) * np.float32(side - 1) / last  # (P, 2)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    part = place - low
    (y0, x0), (y1, x1) = low.T, high.T
    dy, dx = part[:, :1], part[:, 1:]
    total = table[y0 * side + x0] * ((1 - dy) * (1 - dx))
    total += table[y0 * side + x1] * ((1 - dy) * dx)
    total += table[y1 * side + x0] * (dy * (1 - dx))
    total += table[y1 * side + x1] * (dy * dx)
    return total


class Frame(NamedTuple):
    """What is added to the patches of a frame, and turns their heads: depends on its size alone."""

    positions: Floats  # (P, d)
    cos: Floats  # (P, head_dim / 2)
    sin: Floats


class Frames:
    """Those of the sizes seen last. Mutable. Pictures of a batch and pairs of a clip have few sizes."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Frame] = {}

    def frame(self, config: VisionConfig, table: Floats, height: int, width: int) -> Frame:
        """Of height x width patches, with the learned positions of `table` (side ** 2, d)."""
        known = self._known.get((height, width))
        if known is None:
            if len(self._known) >= _MOST_SIZES:
                self._known.clear()
            coordinates = patch_coordinates(height, width, config.spatial_merge_size)
            positions = interpolate_positions(table, coordinates, height, width)
            tables = vision_tables(coordinates, config.hidden_size // config.num_heads)
            known = self._known[height, width] = Frame(np.ascontiguousarray(positions, np.float32), *tables)
        return known


def encode_pictures(
    context: Context,
    layers: Layers,
    config: VisionConfig,
    frames: Frames,
    patches: NDArray[np.float32],
    grids: Sequence[tuple[int, int, int]],
) -> Floats:
    """Features (M, D) of patches (P, values) in merge order; `grids` are (time, height, width) each."""
    sizes = [(height, width) for time, height, width in grids for _ in range(time)]
    patches = np.ascontiguousarray(patches, np.float32)
    assert patches.shape == (sum(height * width for height, width in sizes), config.patch_values)
    parts = [frames.frame(config, layers.vision_positions, *size) for size in sizes]
    positions, cos, sin = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    lengths = np.array([height * width for height, width in sizes], np.int32)
    features = np.empty((len(patches) // config.spatial_merge_size**2, config.out_hidden_size), np.float32)
    context.call(
        "qw_vision",
        layers.vision,
        patches.ctypes.data,
        len(patches),
        positions.ctypes.data,
        cos.ctypes.data,
        sin.ctypes.data,
        lengths.ctypes.data,
        len(lengths),
        features.ctypes.data,
    )
    return features
