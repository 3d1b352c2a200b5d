"""The tiles against index arithmetic, and the search against its definition, one group at a time."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from qwen35.weights.quantize import MAX_WEIGHT, dequantise, quantise, quantise_q4, quantise_q8
from qwen35.weights.tiles import Q4, Q8, TileFormat, matrix_bytes

Floats = NDArray[np.float32]

F = np.float32
SIZES = [(1, 1), (3, 24), (16, 64), (17, 40), (24, 72), (40, 130), (5, 4304), (300, 24)]
BOTH = pytest.mark.parametrize("tile", [Q4, Q8], ids=lambda tile: tile.name)


def weights(n: int, k: int, seed: int = 0) -> Floats:
    return (0.02 * np.random.default_rng(seed).standard_t(5, (n, k))).astype(F)


def q_and_scale(tiles: bytes, tile: TileFormat, k: int, row: int, column: int) -> tuple[int, float]:
    """One weight, found by the offsets that the format's description gives."""
    block = (row // 16) * -(-k // 64) + column // 64
    start = block * (576 if tile is Q4 else 1088)
    r, group, c = row % 16, column % 64 // 32, column % 32
    line, b = divmod(c, 4)
    scale = np.frombuffer(tiles, "<f2", 1, start + 2 * (16 * group + r))[0]
    if tile is Q4:
        byte = tiles[start + 64 + 64 * line + 4 * r + b]
        return (byte >> 4 if group else byte & 15) - 8, float(scale)
    byte = tiles[start + 64 + 64 * (8 * group + line) + 4 * r + b]
    return byte - 256 if byte > 127 else byte, float(scale)


def search(w: list[np.float32], tile: TileFormat) -> tuple[list[int], float]:
    """The definition in `quantize`, a number at a time."""

    def total(x: list[np.float32]) -> np.float32:
        while len(x) > 1:
            half = len(x) // 2
            x = [x[i] + x[i + half] for i in range(half)]
        return x[0]

    def rounded(d: np.float32) -> list[np.float32]:
        if d == 0:
            return [F(0)] * 32
        inverse = F(1) / d
        return [F(min(max(round(float(x * inverse)), tile.lowest), tile.highest)) for x in w]

    def error(d: np.float32) -> np.float32:
        rest = [x - q * d for x, q in zip(w, rounded(d), strict=True)]
        return total([e * e for e in rest])

    def fp16(x: np.float32) -> np.float32:
        if abs(x) < 2.0**-14:
            return F(math.copysign(math.ceil(abs(x) * F(2.0**24)) / 2**24, x))
        return F(np.float16(x))

    greatest, least = max(w), min(w)
    m = greatest if greatest >= -least else least
    starts = [fp16(m / F(-x)) for x in ((8, 7.25, 8.75) if tile is Q4 else (127, 126))]
    d = starts[0]
    for other in starts[1:]:
        d = other if error(other) < error(d) else d
    q = rounded(d)
    norm = total([x * x for x in q])
    refined = fp16(total([x * y for x, y in zip(w, q, strict=True)]) / norm) if norm else F(0)
    d = refined if error(refined) < error(d) else d
    return [int(x) for x in rounded(d)], float(d)


@BOTH
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_every_weight_lies_where_the_format_says(tile: TileFormat, n: int, k: int) -> None:
    tiles = quantise(weights(n, k), tile)

    assert len(tiles) == matrix_bytes(tile.name, n, k)
    found = dequantise(tiles, tile.name, n, k)
    assert found.shape == (n, k)
    columns = range(k) if k < 200 else range(0, k, 37)
    for row in {0, n // 2, n - 1}:
        for column in columns:
            q, scale = q_and_scale(tiles, tile, k, row, column)
            assert found[row, column] == F(q) * F(scale)


@BOTH
def test_the_search_is_the_defined_one_to_the_last_bit(tile: TileFormat) -> None:
    special = np.zeros((12, 32), F)
    special[1, 7] = 1
    special[2, 7] = -1
    special[3, 3:5] = (-0.5, 0.5)  # a tie of magnitudes
    special[4] = np.linspace(-1, 1, 32)
    special[5] = 1e-5 * np.linspace(-1, 1.1, 32)  # subnormal scales
    special[6] = 4e-8 * np.linspace(-1, 1, 32)  # below fp16's least
    special[7] = MAX_WEIGHT
    special[8] = -MAX_WEIGHT * np.linspace(0, 1, 32)
    special[9] = np.arange(-8, 24) % 16 - 8
    special[10] = 3e-7 * np.linspace(-1, 1, 32)
    special[11] = -0.0
    rows = np.concatenate([special, weights(20, 32), 30 * weights(4, 32, seed=1)])

    tiles = quantise(rows, tile)

    for row, w in enumerate(rows):
        q, scale = search(list(w), tile)
        found = [q_and_scale(tiles, tile, 32, row, column) for column in range(32)]
        assert found == [(x, scale) for x in q], row


@BOTH
def test_padding_is_zero_weights(tile: TileFormat) -> None:
    tiles = quantise(weights(17, 40) + F(1), tile)

    for row, column in ((0, 40), (16, 63), (17, 0), (31, 39), (31, 63)):
        assert q_and_scale(tiles, tile, 40, row, column)[0] == 0
    assert q_and_scale(tiles, tile, 40, 17, 0) == (0, 0.0)
    empty = quantise(np.zeros((16, 64), F), tile)
    assert empty == (bytes(64) + b"\x88" * 512 if tile is Q4 else bytes(1088))


@BOTH
@pytest.mark.parametrize("k", [24, 64, 4304, 25000])
def test_row_blocks_are_independent(tile: TileFormat, k: int) -> None:
    w = weights(40, k)

    assert quantise(w, tile) == quantise(w[:16], tile) + quantise(w[16:], tile)


@BOTH
@pytest.mark.parametrize("spread", ["normal", "heavy tails"])
def test_the_search_never_does_worse_than_plain_rounding(tile: TileFormat, spread: str) -> None:
    random = np.random.default_rng(3)
    w = random.standard_normal((96, 1024)) if spread == "normal" else random.standard_t(5, (96, 1024))
    w = (0.03 * w).astype(F)
    groups = w.reshape(96, -1, 32)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)
    scales = (largest / (-8 if tile is Q4 else -127)).astype(np.float16).astype(F)
    plain = np.clip(np.rint(groups / scales), tile.lowest, tile.highest) * scales

    found = dequantise(quantise(w, tile), tile.name, *w.shape).reshape(groups.shape)

    searched_error = ((found - groups).astype(float) ** 2).sum(-1)
    plain_error = ((plain - groups).astype(float) ** 2).sum(-1)
    assert (searched_error <= plain_error * (1 + 1e-5)).all()
    assert searched_error.sum() < 0.95 * plain_error.sum()


@pytest.mark.parametrize(
    ("quantised", "name", "bound"), [(quantise_q4, "q4", 0.083), (quantise_q8, "q8", 0.0052)]
)
def test_relative_error_of_normal_weights(quantised: object, name: str, bound: float) -> None:
    w = (0.02 * np.random.default_rng(5).standard_normal((128, 2048))).astype(F)

    found = dequantise(quantised(w), name, *w.shape)  # type: ignore[operator]

    assert np.sqrt(((found - w) ** 2).mean() / (w**2).mean()) < bound


@BOTH
def test_values_that_are_quantised_already_pass_unchanged(tile: TileFormat) -> None:
    random = np.random.default_rng(6)
    q = random.integers(tile.lowest, tile.highest + 1, (32, 8, 32))
    q[..., 5] = tile.lowest  # as in a Q4_0 block: the largest weight is at the end of the range
    scales = random.uniform(1e-3, 1e-2, (32, 8, 1)).astype(np.float16).astype(F)
    w = (q * scales).reshape(32, 256).astype(F)

    assert np.array_equal(dequantise(quantise(w, tile), tile.name, 32, 256), w)


@BOTH
def test_tiny_weights_stay_within_a_step_of_fp16(tile: TileFormat) -> None:
    for magnitude in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        w = (magnitude * np.random.default_rng(7).uniform(-1, 1, (64, 256))).astype(F)

        error = np.abs(dequantise(quantise(w, tile), tile.name, 64, 256) - w).max()

        assert error <= magnitude * (0.14 if tile is Q4 else 0.01) + 3.1e-8


@BOTH
@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "not numbers"), (np.inf, "not numbers"), (-np.inf, "not numbers"), (3e5, "beyond 262,144")],
)
def test_weights_that_cannot_be_held_are_refused(tile: TileFormat, value: float, reason: str) -> None:
    w = weights(20, 80)
    w[18, 70] = value

    with pytest.raises(ValueError, match=reason):
        quantise(w, tile)
