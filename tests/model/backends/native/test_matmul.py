"""Matrix products over odd sizes: the kernels give what the numpy form gives, bit for bit."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qwen35.backends.native.library import Context
from tests.model.backends.native.packing import PackedMatrix, lay_out, multiply, pack

SIZES = [(16, 64), (24, 40), (40, 24), (72, 72), (1, 50), (130, 512), (48, 1024), (24, 4304), (512, 72)]
ROWS = [1, 2, 3, 4, 5, 8, 9, 70]


def run(context: Context, w: PackedMatrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.full((len(x), len(w.dequantised)), np.nan, np.float32)
    context.call("qw_matmul", ctypes.byref(w.struct), x.ctypes.data, len(x), y.ctypes.data)
    return y


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    """Rows of very different sizes, as activations are."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)) * 3)).astype(np.float32)


@pytest.mark.parametrize("format_name", ["q4", "q8"])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_every_kernel_is_the_numpy_form_bit_for_bit(
    context: Context, format_name: str, n: int, k: int
) -> None:
    w, x = pack(random(n, n, k), format_name), random(k, 70, k)
    expected = multiply(w, x)
    for num_rows in ROWS if context.isa != "scalar" or n * k < 10000 else (1, 5):
        assert np.array_equal(run(context, w, x[:num_rows]), expected[:num_rows]), num_rows


@pytest.mark.parametrize("format_name", ["q4", "q8"])
def test_the_greatest_integers_do_not_overflow(context: Context, format_name: str) -> None:
    """All weights and activations at the ends of their ranges, alike and in opposite signs."""
    lowest = -8 if format_name == "q4" else -127
    w = pack(np.zeros((32, 128), np.float32), format_name)
    q = np.full((32, 128), lowest, np.int8)
    q[16:] = -lowest - (format_name == "q4")
    scales = np.ones((32, 4), np.float16)
    extreme = PackedMatrix(
        lay_out(q, scales, format_name), format_name, q, scales.astype(np.float32), w.dequantised
    )
    x = np.stack([np.full(128, 1.0), np.full(128, -1.0), np.tile([1.0, -1.0], 64)]).astype(np.float32)
    assert np.array_equal(run(context, extreme, x), multiply(extreme, x))


def test_subnormal_and_negative_scales_count_in_full(context: Context) -> None:
    rng = np.random.default_rng(1)
    q = rng.integers(-7, 8, (16, 64)).astype(np.int8)
    scales = np.array([[6e-8, -3e-5]] * 8 + [[-1.5, 0.0]] * 8, np.float16)
    w = PackedMatrix(
        lay_out(q, scales, "q4"), "q4", q, scales.astype(np.float32), np.zeros((16, 64), np.float32)
    )
    x = random(2, 3, 64)
    assert np.array_equal(run(context, w, x), multiply(w, x))


def test_zero_and_tiny_rows(context: Context) -> None:
    w = pack(random(3, 16, 64), "q8")
    x = np.zeros((5, 64), np.float32)
    x[1] = 1e-43
    x[2, 5] = 1e-45
    x[3, :32], x[3, 32:] = 1.4e-36, 1.0  # beside a group that is none, one that would have a denormal scale
    x[4] = 1.6e-36
    y = run(context, w, x)
    assert np.array_equal(y, multiply(w, x))
    assert not y[:3].any()
    assert y[4].any()


@pytest.mark.parametrize(("n", "k"), [(7, 50), (64, 512)])
def test_f32_matrices_are_multiplied_in_float32(context: Context, n: int, k: int) -> None:
    w, x = pack(random(n, n, k), "f32"), random(k, 9, k)
    expected = x.astype(np.float64) @ w.dequantised.astype(np.float64).T
    size = np.abs(x).astype(np.float64) @ np.abs(w.dequantised).astype(np.float64).T
    assert np.all(np.abs(run(context, w, x) - expected) <= 1e-6 * size)


@pytest.mark.parametrize("format_name", ["q4", "q8", "f32"])
@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon"])
def test_kernels_agree_with_the_scalar_ones(
    make_context: Callable[..., Context], format_name: str, isa: str
) -> None:
    w, x = pack(random(5, 50, 200), format_name), random(6, 7, 200)
    assert np.array_equal(run(make_context(1, isa), w, x), run(make_context(1, "scalar"), w, x))


@pytest.mark.parametrize("format_name", ["q4", "q8", "f32"])
def test_threads_change_no_bit(make_context: Callable[..., Context], format_name: str) -> None:
    w, x = pack(random(7, 512, 512), format_name), random(8, 70, 512)
    alone = run(make_context(1), w, x)
    for num_threads in (2, 5):
        assert np.array_equal(run(make_context(num_threads), w, x), alone)


@pytest.mark.parametrize("format_name", ["q4", "q8"])
def test_eight_bit_activations_cost_half_a_percent(
    format_name: str, make_context: Callable[..., Context]
) -> None:
    """Against the product with the dequantised weights in float64."""
    rng = np.random.default_rng(9)
    w = pack(rng.standard_normal((256, 1024)).astype(np.float32), format_name)
    x = rng.standard_normal((16, 1024)).astype(np.float32)
    exact = x.astype(np.float64) @ w.dequantised.T
    error = run(make_context(), w, x) - exact
    assert np.sqrt((error**2).mean() / (exact**2).mean()) < 0.008
