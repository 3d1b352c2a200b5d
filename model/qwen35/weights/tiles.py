"""How a matrix lies in a packed file: the tiles that the kernels read, and the way back.

A matrix has N rows (outputs) and K columns (inputs). Rows are padded with zero weights to a multiple
of 16, columns to one of 64, and cut into blocks of 16 x 64, stored row block by row block and from
left to right within it. A block is two groups of 32 columns; each row of a group has one scale.

    q4, 576 bytes    64 bytes of scales, fp16[2 groups][16 rows], then 8 lines of 64 bytes: byte
                     4r + b of line j holds q + 8 of column 4j + b (low nibble) and of column
                     32 + 4j + b (high nibble) of row r; q in [-8, 7]
    q8, 1088 bytes   the same scales, then 16 lines of 64 bytes: byte 4r + b of line j holds q of
                     column 4j + b of row r, as int8; lines 0 to 7 are group 0, 8 to 15 group 1
    f32              no tiles and no padding: float32, row by row

All little-endian; a weight is q * scale. Padding is q = 0 (in q4: nibble 8); a group of nothing but
zeros has the scale 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16
TILE_COLUMNS = 64
GROUP = 32  # columns that share a scale
LINE = 64  # a cache line, and what the kernels' loads want: every matrix begins at a multiple
SCALE_BYTES = 64  # of one block: 2 groups of 16 rows in fp16


@dataclass(frozen=True, slots=True)
class TileFormat:
    """A block format: its size, and the range of q."""

    name: str
    block_bytes: int
    lowest: int
    highest: int


Q4 = TileFormat("q4", 576, -8, 7)
Q8 = TileFormat("q8", 1088, -127, 127)
F32 = "f32"
TILE_FORMATS = {tile.name: tile for tile in (Q4, Q8)}
FORMATS = (
    *TILE_FORMATS,
    F32,
)  # "q4m" (with a minimum) and others may come: readers refuse what they don't know


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def num_blocks(n: int, k: int) -> int:
    return -(-n // TILE_ROWS) * -(-k // TILE_COLUMNS)


def matrix_bytes(format_name: str, n: int, k: int) -> int:
    """Bytes of an (n, k) matrix, padding included; a multiple of 64 for every tile format."""
    if format_name == F32:
        return 4 * n * k
    return num_blocks(n, k) * TILE_FORMATS[format_name].block_bytes


def encode_blocks(
    tile: TileFormat, q: NDArray[np.float32], scales: NDArray[np.float32]
) -> NDArray[np.uint32]:
    """Blocks as rows of words, (B, block_bytes / 4).

    `q` holds whole numbers, (32 columns, 2 groups, B, 16 rows); `scales` (2, B, 16) fit into fp16.
    """
    _, _, B, _ = q.shape
    blocks = np.empty((B, tile.block_bytes // 4), "<u4")
    blocks[:, : SCALE_BYTES // 4] = scales.transpose(1, 0, 2).reshape(B, 32).astype("<f2").view("<u4")
    if tile is Q4:
        both = q[:, 1] * np.float32(16)
        both += q[:, 0]
        both += np.float32(8 * 16 + 8)
        lines = _words(both.astype(np.uint8))  # (8, B, 16)
        blocks[:, SCALE_BYTES // 4 :].reshape(B, 8, TILE_ROWS)[:] = lines.transpose(1, 0, 2)
    else:
        lines = _words(q.astype(np.int8).view(np.uint8))  # (8, 2, B, 16)
        blocks[:, SCALE_BYTES // 4 :].reshape(B, 2, 8, TILE_ROWS)[:] = lines.transpose(2, 1, 0, 3)
    return blocks


def decode_blocks(tile: TileFormat, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The weights of `blocks` (B, block_bytes), as (B, 16 rows, 64 columns)."""
    B = len(blocks)
    scales = np.ascontiguousarray(blocks[:, :SCALE_BYTES]).view("<f2").astype(np.float32)
    lines = blocks[:, SCALE_BYTES:]
    if tile is Q4:
        lines = lines.reshape(B, 1, 8, TILE_ROWS, 4)
        q = np.concatenate([lines & 15, lines >> 4], axis=1).astype(np.float32) - np.float32(8)
    else:
        q = lines.view(np.int8).reshape(B, 2, 8, TILE_ROWS, 4).astype(np.float32)
    q *= scales.reshape(B, 2, 1, TILE_ROWS, 1)  # q is (B, group, line, row, column in line)
    return q.transpose(0, 3, 1, 2, 4).reshape(B, TILE_ROWS, TILE_COLUMNS)


def _words(values: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Four columns side by side in one word: (32, ...) bytes to (8, ...) words.

    A line is then moved as 16 words: 4 to 5 times as fast as byte by byte.
    """
    columns = values.reshape(8, 4, *values.shape[1:])
    words = columns[:, 0].astype("<u4")
    for b in range(1, 4):
        words |= columns[:, b].astype("<u4") << np.uint32(8 * b)
    return words
