"""Whole numbers with a scale for each 32 of them to tiles, without rounding them a second time."""

import numpy as np

from qwen35.weights.source import Grouped
from qwen35.weights.tiles import GROUP, Q4, SCALE_BYTES, TILE_COLUMNS, TILE_ROWS, TileFormat

_GREATEST = np.float32(65504)  # of fp16
_WORDS = TILE_COLUMNS // 4  # of four columns each
_GROUP_BYTES = np.dtype(f"V{GROUP}")  # copied in one piece, where single bytes would take as long each


def holds(tile: TileFormat, rows: Grouped) -> bool:
    """Whether the numbers lie in the tile's range and the scales in that of fp16, save for rounding.

    Raises ValueError, with the reason, for scales that are not numbers.
    """
    if not np.isfinite(rows.scales).all():
        raise ValueError("scales that are not numbers")
    if not rows.q.size:
        return True
    in_range = tile.lowest <= rows.q.min() and rows.q.max() <= tile.highest
    return bool(in_range and np.abs(rows.scales).max() <= _GREATEST)


def tiles_of(rows: Grouped, tile: TileFormat) -> tuple[memoryview, bool]:
    """Tiles in the layout of `tiles`, and whether they are exact: fp16 holds all scales as they are."""
    q, scales = _padded(rows)
    N, K = q.shape
    height, width = N // TILE_ROWS, K // TILE_COLUMNS
    blocks = np.empty((height, width, tile.block_bytes // 4), "<u4")
    halves = scales.astype("<f2")
    heads = blocks[..., : SCALE_BYTES // 4].view("<f2").reshape(height, width, 2, TILE_ROWS)
    heads[:] = halves.reshape(height, TILE_ROWS, width, 2).transpose(0, 2, 3, 1)
    lines = blocks[..., SCALE_BYTES // 4 :]
    if tile is Q4:
        groups = (q.view(np.uint8) + np.uint8(8)).view(_GROUP_BYTES).reshape(N, width, 2)
        octets = np.ascontiguousarray(groups[..., 1]).view("<u8")  # eight columns each
        octets <<= np.uint64(4)
        octets |= np.ascontiguousarray(groups[..., 0]).view("<u8")
        words = octets.view("<u4").reshape(height, TILE_ROWS, width, _WORDS // 2)
        lines.reshape(height, width, _WORDS // 2, TILE_ROWS)[:] = words.transpose(0, 2, 3, 1)
    else:
        words = q.view("<u4").reshape(height, TILE_ROWS, width, _WORDS)
        lines.reshape(height, width, _WORDS, TILE_ROWS)[:] = words.transpose(0, 2, 3, 1)
    is_exact = bool((halves.astype(np.float32) == scales).all())
    return blocks.reshape(-1).view(np.uint8).data, is_exact


def _padded(rows: Grouped) -> tuple[np.ndarray, np.ndarray]:
    """With rows to a multiple of 16 and columns to one of 64: zeros, and scales of zero."""
    n, k = rows.q.shape
    N, K = -(-n // TILE_ROWS) * TILE_ROWS, -(-k // TILE_COLUMNS) * TILE_COLUMNS
    if (n, k) == (N, K):
        return np.ascontiguousarray(rows.q), rows.scales
    q, scales = np.zeros((N, K), np.int8), np.zeros((N, K // GROUP), np.float32)
    q[:n, :k], scales[:n, : k // GROUP] = rows.q, rows.scales
    return q, scales
