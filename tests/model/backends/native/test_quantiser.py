"""The native quantiser against the plain one: every byte is the same, on every kind of kernels."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from qwen35.backends.native.library import Context
from qwen35.backends.native.quantiser import NativeQuantiser
from qwen35.weights.numbers import Floats, Numbers, to_float32
from qwen35.weights.quantize import MAX_WEIGHT, quantise
from qwen35.weights.tiles import Q4, Q8, TileFormat

F = np.float32
# Rows and columns: one, whole blocks, one less, one more, a group without its partner, true odd shapes.
SIZES = [(1, 1), (16, 64), (15, 63), (9, 33), (24, 96), (40, 130), (3, 4304), (70, 24)]
DTYPES = ("float32", "float16", "bfloat16")
BOTH = pytest.mark.parametrize("tile", [Q4, Q8], ids=lambda tile: tile.name)


@pytest.fixture
def native(context: Context) -> NativeQuantiser:
    return NativeQuantiser(context)


def stored(values: Floats, dtype: str) -> Numbers:
    """`values` as a checkpoint of that type has them."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if dtype == "float16":
        values = np.where(np.isfinite(values), values.clip(-65504, 65504), values)
    return values.astype(dtype)


def spreads(n: int, k: int) -> Iterator[Floats]:
    """Weights as models have them and as they don't: of every size that fp16 scales have, and none."""
    random = np.random.default_rng(n * k)
    for scale in (1e-2, 3e3, 1e-4, 1e-6, 1e-8, 1e-38):
        yield (scale * random.standard_t(2, (n, k))).clip(-MAX_WEIGHT, MAX_WEIGHT).astype(F)
    yield np.round(4 * random.standard_normal((n, k))).astype(F) / F(8)  # ties, within and between
    yield random.choice(np.array([0, -0.0, 1e-3, -1, MAX_WEIGHT, -MAX_WEIGHT], F), (n, k))
    yield np.full((n, k), -0.0, F)


@cache
def cases(n: int, k: int, tile: TileFormat) -> list[tuple[Numbers, bytes]]:
    """Weights of each type, and what the plain quantiser makes of them."""
    all_weights = [stored(values, dtype) for values in spreads(n, k) for dtype in DTYPES]
    return [(w, quantise(w, tile)) for w in all_weights]


@BOTH
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_every_byte_is_that_of_the_plain_one(
    native: NativeQuantiser, tile: TileFormat, n: int, k: int
) -> None:
    for index, (w, expected) in enumerate(cases(n, k, tile)):
        assert bytes(native(w, tile)) == expected, index


@BOTH
def test_float32_subnormals_count_in_full(native: NativeQuantiser, tile: TileFormat) -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 24, (32, 128)).astype(np.uint32)
    bits[::2] |= np.uint32(1 << 31)
    w = bits.view(F)

    assert bytes(native(w, tile)) == quantise(w, tile)


@BOTH
def test_all_numbers_of_16_bits_are_read_alike(native: NativeQuantiser, tile: TileFormat) -> None:
    """In their order, so that those of a group are of one size and none hides the others."""
    every = np.arange(1 << 16, dtype=np.uint16)
    for numbers in (every.view(np.float16), every):
        values = to_float32(numbers)
        held = numbers[np.abs(values) <= MAX_WEIGHT]  # nor NaN
        w = held[: len(held) // 256 * 256].reshape(-1, 256)
        assert bytes(native(w, tile)) == quantise(w, tile)


@BOTH
def test_values_that_are_quantised_already_pass_as_in_the_plain_one(
    native: NativeQuantiser, tile: TileFormat
) -> None:
    random = np.random.default_rng(6)
    q = random.integers(tile.lowest, tile.highest + 1, (32, 8, 32))
    w = (q * random.uniform(1e-3, 1e-2, (32, 8, 1)).astype(np.float16).astype(F)).reshape(32, 256).astype(F)

    assert bytes(native(w, tile)) == quantise(w, tile)


def test_rows_need_not_lie_together(native: NativeQuantiser) -> None:
    w = np.random.default_rng(2).standard_normal((40, 200)).astype(F)

    assert bytes(native(w[::2, 30:171], Q4)) == quantise(w[::2, 30:171], Q4)
    assert bytes(native(w.T, Q8)) == quantise(w.T, Q8)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_refuses_what_the_plain_one_refuses(native: NativeQuantiser, tile: TileFormat, dtype: str) -> None:
    values = (np.nan, np.inf, -np.inf) if dtype == "float16" else (np.nan, np.inf, -np.inf, 3e5, -3e5)
    for value in values:
        for place in ((0, 0), (18, 70), (7, 31), (19, 79)):
            wide = np.random.default_rng(3).standard_normal((20, 80)).astype(F)
            wide[place] = value
            w = stored(wide, dtype)
            reason = "beyond 262,144" if np.isfinite(value) else "not numbers"
            for quantiser in (native, quantise):
                with pytest.raises(ValueError, match=reason):
                    quantiser(w, tile)


def test_calls_in_many_threads_at_once(native: NativeQuantiser) -> None:
    w = [np.random.default_rng(seed).standard_normal((64, 256)).astype(F) for seed in range(16)]

    with ThreadPoolExecutor(8) as pool:
        found = [bytes(tiles) for tiles in pool.map(native, w, [Q4, Q8] * 8)]

    assert found == [quantise(x, tile) for x, tile in zip(w, [Q4, Q8] * 8, strict=True)]
