"""Weights to 4 or 8 bits in groups of 32 columns, each with the scale of least squared error found.

The search is defined to the last bit, so that another implementation can be held to it. All is
float32, each operation rounded to nearest even, none fused. Of one group w[0..31]:

    sum(x)     s[i] = x[i] + x[i + 16] for i < 16, then s[i] + s[i + 8], ... down to one number
    m          the greatest w if it is at least -(the least w), else the least w
    f(x)       x rounded to fp16, as float32: to the nearest, ties to even; where |x| < 2^-14, fp16's
               subnormals, away from zero to a multiple of 2^-24. -0 becomes +0
    q(d)       round(w * (1 / d)) to the nearest even, cut to the format's range; all 0 where d = 0
    error(d)   sum((w - q(d) * d) ** 2)

    1. d is the best of the starts f(m / -x), x in STARTS in this order
    2. for q = q(d): d' = f(sum(w * q) / sum(q * q)), or 0 where sum(q * q) = 0

Of two scales the earlier is kept unless the later has the smaller error. The scale is negative where
m is positive: so m may use -8, which has no counterpart above. The first start is what rounding
without a search takes; the search never does worse.

What fp16 can't hold: weights beyond MAX_WEIGHT (no model has them) and those that are not numbers
are refused. Subnormal scales have few digits: rounded up, no weight is cut, and q is chosen for the
rounded scale, so that a weight is off by half a step and never by more than 3e-8 beyond that. Processors
convert fp16 subnormals to float32 in full, whatever their denormal mode (F16C, AVX-512, NEON).
"""

import numpy as np
from numpy.typing import NDArray

from qwen35.weights.numbers import Floats, Numbers, to_float32
from qwen35.weights.tiles import (
    GROUP,
    Q4,
    Q8,
    TILE_COLUMNS,
    TILE_FORMATS,
    TILE_ROWS,
    TileFormat,
    decode_blocks,
    encode_blocks,
    matrix_bytes,
)

MAX_WEIGHT = 2.0**18  # m / -7.25, and the refined scale after it, then stay within fp16's 65504

# Measured on normal and heavy-tailed weights: these and one refinement take 5 % off the rms error of
# the first alone; thirty starts take 6 %.
STARTS = {Q4: (8.0, 7.25, 8.75), Q8: (127.0, 126.0)}

_CHUNK_BLOCKS = 384  # 393k weights: measured best between numpy's cost of a call and the size of caches


def quantise_q4(w: Numbers) -> bytes:
    """The q4 tiles of `w` (N, K). Raises ValueError for weights that cannot be held."""
    return quantise(w, Q4)


def quantise_q8(w: Numbers) -> bytes:
    """The q8 tiles of `w` (N, K). Raises ValueError for weights that cannot be held."""
    return quantise(w, Q8)


def quantise(w: Numbers, tile: TileFormat) -> bytes:
    """The tiles of `w` (N, K), padded, in the layout of `tiles`.

    Row blocks are independent: tiles of rows 0..16m and of the rest, joined, are the tiles of both.
    Raises ValueError, with the reason, for weights that cannot be held.
    """
    n, k = w.shape
    row_blocks, column_blocks = -(-n // TILE_ROWS), -(-k // TILE_COLUMNS)
    tall = max(1, _CHUNK_BLOCKS // column_blocks)
    wide = min(column_blocks, _CHUNK_BLOCKS)
    pieces = []
    for top in range(0, row_blocks, tall):
        for left in range(0, column_blocks, wide):
            height, width = min(tall, row_blocks - top), min(wide, column_blocks - left)
            groups = _groups(w, top, left, height, width)
            q, scales = _search(groups.reshape(GROUP, -1), tile)
            pieces.append(encode_blocks(tile, q.reshape(groups.shape), scales.reshape(groups.shape[1:])))
    return b"".join(piece.data for piece in pieces)


def dequantise(tiles: bytes | memoryview | NDArray[np.uint8], format_name: str, n: int, k: int) -> Floats:
    """The weights (n, k) that `tiles` of a tile format stand for."""
    tile = TILE_FORMATS[format_name]
    data = np.frombuffer(tiles, np.uint8)
    assert data.size == matrix_bytes(format_name, n, k), "tiles of another shape"
    weights = decode_blocks(tile, data.reshape(-1, tile.block_bytes))
    by_row = weights.reshape(-(-n // TILE_ROWS), -1, TILE_ROWS, TILE_COLUMNS).transpose(0, 2, 1, 3)
    rows = by_row.reshape(-(-n // TILE_ROWS) * TILE_ROWS, -1)
    return np.ascontiguousarray(rows[:n, :k])


def _groups(w: Numbers, top: int, left: int, height: int, width: int) -> Floats:
    """Blocks [top, top + height) x [left, left + width) as (32 columns, 2 groups, blocks, 16 rows).

    Columns come first: sums over a group then add whole rows of numbers, in one order everywhere.
    """
    rows = slice(top * TILE_ROWS, (top + height) * TILE_ROWS)
    columns = slice(left * TILE_COLUMNS, (left + width) * TILE_COLUMNS)
    part = to_float32(w[rows, columns])
    shape = height * TILE_ROWS, width * TILE_COLUMNS
    if part.shape != shape:
        padded = np.zeros(shape, np.float32)
        padded[: part.shape[0], : part.shape[1]] = part
        part = padded
    cut = part.reshape(height, TILE_ROWS, width, 2, GROUP)
    groups = np.empty((GROUP, 2, height * width, TILE_ROWS), np.float32)
    groups.reshape(GROUP, 2, height, width, TILE_ROWS)[:] = cut.transpose(4, 3, 0, 2, 1)
    return groups


def _search(w: Floats, tile: TileFormat) -> tuple[Floats, Floats]:
    """Whole numbers q (32, G) and scales (G,) of `w` (32, G), by the definition above."""
    greatest, least = w.max(0), w.min(0)
    signed_max = np.where(greatest >= -least, greatest, least)
    if not np.all(np.abs(signed_max) <= MAX_WEIGHT):  # false for NaN as well
        finite = np.isfinite(w).all()
        raise ValueError(f"weights beyond {MAX_WEIGHT:,.0f}" if finite else "weights that are not numbers")
    scratch = np.empty_like(w), np.empty_like(w)
    starts = [_to_fp16(signed_max / np.float32(-start)) for start in STARTS[tile]]
    scale, error = starts[0], _error(w, tile, starts[0], scratch[0])
    for start in starts[1:]:
        scale, error = _better(w, tile, scale, error, start, scratch[0])
    q = _round(w, scale, tile, scratch[0])
    dot = _sum(np.multiply(w, q, out=scratch[1]))
    norm = _sum(np.multiply(q, q, out=scratch[1]))
    refined = _to_fp16(np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0))
    scale, _ = _better(w, tile, scale, error, refined, scratch[0])
    return _round(w, scale, tile, scratch[0]), scale


def _better(
    w: Floats, tile: TileFormat, scale: Floats, error: Floats, other: Floats, scratch: Floats
) -> tuple[Floats, Floats]:
    """For each group the scale of smaller error, and that error."""
    other_error = _error(w, tile, other, scratch)
    is_better = other_error < error
    return np.where(is_better, other, scale), np.where(is_better, other_error, error)


def _error(w: Floats, tile: TileFormat, scale: Floats, scratch: Floats) -> Floats:
    rest = _round(w, scale, tile, scratch)
    rest *= scale
    np.subtract(w, rest, out=rest)
    rest *= rest
    return _sum(rest)


def _round(w: Floats, scale: Floats, tile: TileFormat, out: Floats) -> Floats:
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    np.multiply(w, inverse, out=out)
    np.rint(out, out=out)
    return np.clip(out, np.float32(tile.lowest), np.float32(tile.highest), out=out)


def _sum(x: Floats) -> Floats:
    """Over the first axis, half onto half. `x` is used up."""
    half = len(x) // 2
    while half:
        np.add(x[:half], x[half : 2 * half], out=x[:half])
        half //= 2
    return x[0].copy()


def _to_fp16(scale: Floats) -> Floats:
    rounded = scale.astype(np.float16).astype(np.float32)
    magnitude = np.abs(scale)
    is_subnormal = magnitude < np.float32(2.0**-14)
    if is_subnormal.any():
        raised = np.ceil(magnitude * np.float32(2.0**24)) * np.float32(2.0**-24)
        rounded = np.where(is_subnormal, np.copysign(raised, scale), rounded)
    return rounded + np.float32(0)  # the sum makes +0 of -0
