"""Pictures to features: positions and frames in numpy, the encoder in the library.

The plain form is `network/vision.py`.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.layers import Layers
from qwen35.backends.native.library import Context
from qwen35.backends.native.rotary import Floats, vision_tables
from qwen35.config import VisionConfig


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


def encode_pictures(
    context: Context,
    layers: Layers,
    config: VisionConfig,
    patches: NDArray[np.float32],
    grids: Sequence[tuple[int, int, int]],
) -> Floats:
    """Features (M, D) of patches (P, values) in merge order; `grids` are (time, height, width) each."""
    merge = config.spatial_merge_size
    coordinates, positions, frames = [], [], []
    for (height, width), run in groupby((h, w) for t, h, w in grids for _ in range(t)):
        count = len(list(run))  # frames of one size in a row share what depends on size alone
        frame = patch_coordinates(height, width, merge)
        learned = interpolate_positions(layers.vision_positions, frame, height, width)
        coordinates.append(np.tile(frame, (count, 1)))
        positions.append(np.tile(learned, (count, 1)))
        frames += [height * width] * count
    patches = np.ascontiguousarray(patches, np.float32)
    assert patches.shape == (sum(frames), config.patch_values)
    cos, sin = vision_tables(np.concatenate(coordinates), config.hidden_size // config.num_heads)
    added = np.ascontiguousarray(np.concatenate(positions), np.float32)
    lengths = np.array(frames, np.int32)
    features = np.empty((len(patches) // merge**2, config.out_hidden_size), np.float32)
    context.call(
        "qw_vision",
        layers.vision,
        patches.ctypes.data,
        len(patches),
        added.ctypes.data,
        np.ascontiguousarray(cos).ctypes.data,
        np.ascontiguousarray(sin).ctypes.data,
        lengths.ctypes.data,
        len(lengths),
        features.ctypes.data,
    )
    return features
