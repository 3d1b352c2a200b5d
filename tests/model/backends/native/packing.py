"""Weights in the kernels' layout, made in numpy: a plain second writing of what `weights.tiles` describes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.library import Matrix

ROWS, COLUMNS, GROUP = 16, 64, 32


def aligned(size_bytes: int, alignment: int = 64) -> NDArray[np.uint8]:
    """Fresh memory whose address is a multiple of `alignment`."""
    spare = np.zeros(size_bytes + alignment, np.uint8)
    start = -spare.ctypes.data % alignment
    return spare[start : start + size_bytes]


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix as the kernels read it, and what it means."""

    data: NDArray[np.uint8]
    format: str
    q: NDArray[np.int8]  # (Np, Kp); of f32: empty
    scales: NDArray[np.float32]  # (Np, Kp / 32)
    dequantised: NDArray[np.float32]  # (N, K)

    @property
    def struct(self) -> Matrix:
        return Matrix.of(self.data.ctypes.data, self.format, *self.dequantised.shape)


def pack(w: NDArray[np.float32], format_name: str) -> PackedMatrix:
    """Round `w` (N, K) in the simplest way, and lay it out."""
    n, k = w.shape
    if format_name == "f32":
        data = aligned(w.nbytes)
        data[:] = np.ascontiguousarray(w, np.float32).view(np.uint8).reshape(-1)
        return PackedMatrix(data, "f32", np.empty(0, np.int8), np.empty(0, np.float32), w)
    top = 7 if format_name == "q4" else 127
    padded = np.zeros((-(-n // ROWS) * ROWS, -(-k // COLUMNS) * COLUMNS), np.float32)
    padded[:n, :k] = w
    groups = padded.reshape(len(padded), -1, GROUP)
    scales = (np.abs(groups).max(-1) / top).astype(np.float16)
    wide = scales.astype(np.float32)
    safe = np.where(wide == 0, np.float32(1), wide)
    q = np.rint(groups / safe[..., None]).clip(-top - (format_name == "q4"), top).astype(np.int8)
    q[wide == 0] = 0
    dequantised = (q * wide[..., None]).astype(np.float32).reshape(padded.shape)[:n, :k]
    data = lay_out(q.reshape(padded.shape), scales, format_name)
    return PackedMatrix(data, format_name, q.reshape(padded.shape), wide, dequantised)


def lay_out(q: NDArray[np.int8], scales: NDArray[np.float16], format_name: str) -> NDArray[np.uint8]:
    Np, Kp = q.shape
    q = q.reshape(Np // ROWS, ROWS, Kp // COLUMNS, 2, 8, 4)  # row block, row, k-block, group, line, byte
    lines = q.transpose(0, 2, 3, 4, 1, 5).reshape(Np // ROWS, Kp // COLUMNS, 2, 8 * 64)
    if format_name == "q4":
        nibbles = (lines + 8).astype(np.uint8)
        body = nibbles[:, :, 0] | nibbles[:, :, 1] << 4
    else:
        body = lines.reshape(Np // ROWS, Kp // COLUMNS, -1).view(np.uint8)
    heads = scales.reshape(Np // ROWS, ROWS, Kp // COLUMNS, 2).transpose(0, 2, 3, 1)
    heads = np.ascontiguousarray(heads).view(np.uint8).reshape(*body.shape[:2], 64)
    blocks = np.concatenate([heads, body], axis=-1)
    data = aligned(blocks.size)
    data[:] = blocks.reshape(-1)
    return data


def quantise_activations(x: NDArray[np.float32], kp: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """q (M, Kp) and scales (M, Kp / 32): per group of 32 max |x| / 127, rounded half to even.

    Groups that would have a denormal scale are zero.
    """
    padded = np.zeros((len(x), kp), np.float32)
    padded[:, : x.shape[1]] = x
    groups = padded.reshape(len(x), -1, GROUP)
    most = np.abs(groups).max(-1)
    is_zero = most < np.float32(1.5e-36)
    safe = np.where(is_zero, np.float32(127), most)
    scales = np.where(is_zero, np.float32(0), safe / np.float32(127))
    q = np.rint(groups * (np.float32(127) / safe)[..., None]).astype(np.int32)
    return q.reshape(len(x), kp), scales


def fused_multiply_add(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """a * b + c rounded once, for float32.

    The product is exact in float64. The sum is rounded to odd there, so that the rounding to float32
    that follows cannot go astray (Boldo and Melquiond 2008).
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    part = total - product  # two-sum: the error of `total`, exactly
    error = (product - (total - part)) + (addend - part)
    is_even = total.view(np.int64) & 1 == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & is_even, np.nextafter(total, towards), total).astype(np.float32)


def multiply(w: PackedMatrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (M, K) times the transpose of w, with the numerics that all kernels share: (M, N)."""
    q, scales = quantise_activations(x, w.q.shape[1])
    total = np.zeros((len(x), len(w.q)), np.float32)
    for g in range(w.scales.shape[1]):
        columns = slice(g * GROUP, (g + 1) * GROUP)
        dot = q[:, columns] @ w.q[:, columns].astype(np.int32).T
        scale = w.scales[:, g] * scales[:, g, None]
        total = fused_multiply_add(dot.astype(np.float32), scale, total)
    return total[:, : len(w.dequantised)]
