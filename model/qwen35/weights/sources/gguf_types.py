"""GGUF's types of tensor data: blocks of 32 or 256 weights to numbers, as ggml defines them.

Types whose groups of 32 are whole numbers with one scale are given so, to pass without a second rounding;
those with a minimum, or with a scale for each 16, are multiplied out.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qwen35.weights.numbers import Floats, Numbers
from qwen35.weights.source import Exact, Grouped, Rows

Octets = NDArray[np.uint8]
Decoder = Callable[[Octets], Rows]  # (rows, bytes of a row) to (rows, weights)

# Weights and bytes of a block.
BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}
# All types by their numbers in the files; those without a block above are named when they are refused.
TYPE_NAMES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
}
TYPE_NAMES |= {11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
TYPE_NAMES |= {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8"}
TYPE_NAMES |= {25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0"}
TYPE_NAMES |= {39: "MXFP4", 40: "NVFP4", 41: "Q1_0"}

# The smaller tile format that holds a type's numbers as they are.
EXACT: dict[str, Exact] = {"Q4_0": "q4", "Q5_0": "q8", "Q8_0": "q8", "IQ4_NL": "q8", "MXFP4": "q8"}

_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def decode(type_name: str, rows: Octets) -> Rows:
    """The weights of whole rows of blocks (N, bytes)."""
    return _DECODERS[type_name](rows)


def _halves(octets: Octets) -> Octets:
    """(..., n) bytes to (..., 2, n) numbers: the low nibbles, then the high ones."""
    numbers = np.empty((*octets.shape[:-1], 2, octets.shape[-1]), np.uint8)
    np.bitwise_and(octets, 15, out=numbers[..., 0, :])
    np.right_shift(octets, 4, out=numbers[..., 1, :])
    return numbers


def _fp16(octets: Octets) -> Floats:
    """(..., 2n) bytes to (..., n) numbers."""
    return np.ascontiguousarray(octets).view("<f2").astype(np.float32)


def _blocks(type_name: str, rows: Octets) -> Octets:
    size_bytes = BLOCKS[type_name][1]
    return rows.reshape(len(rows), rows.shape[1] // size_bytes, size_bytes)


def _q4_0(rows: Octets) -> Grouped:
    """In long strides: this is what most files hold, and what is packed as fast as the disk gives it."""
    N, K = len(rows), rows.shape[1] // 18 * 32
    halves = rows.view("<u2").reshape(N, K // 32, 9)  # a scale, and 16 bytes of two numbers each
    packed = np.ascontiguousarray(halves[..., 1:]).view("<u8")
    q = np.empty((N, K // 32, 2), np.complex128)  # of 16 bytes each, to be copied in one piece
    for part, numbers in enumerate((packed, packed >> np.uint64(4))):
        numbers &= np.uint64(0x0F0F0F0F0F0F0F0F)
        q[..., part] = numbers.view(np.complex128)[..., 0]
    octets = q.view(np.uint8).reshape(N, K)
    octets -= np.uint8(8)
    return Grouped(octets.view(np.int8), halves[..., 0].view("<f2").astype(np.float32))


def _q4_1(rows: Octets) -> Floats:
    blocks = _blocks("Q4_1", rows)
    return _scaled(_halves(blocks[..., 4:]), _fp16(blocks[..., :4]), len(rows))


def _q5_0(rows: Octets) -> Grouped:
    blocks = _blocks("Q5_0", rows)
    q = _halves(blocks[..., 6:])
    q |= _fifth_bits(blocks[..., 2:6])
    q -= np.uint8(16)
    return Grouped(q.reshape(len(rows), -1).view(np.int8), _fp16(blocks[..., :2])[..., 0])


def _q5_1(rows: Octets) -> Floats:
    blocks = _blocks("Q5_1", rows)
    q = _halves(blocks[..., 8:])
    q |= _fifth_bits(blocks[..., 4:8])
    return _scaled(q, _fp16(blocks[..., :4]), len(rows))


def _fifth_bits(octets: Octets) -> Octets:
    """Of 32 numbers, from 4 bytes, as (..., 2, 16) numbers of 0 or 16."""
    bits = np.unpackbits(octets, axis=-1, bitorder="little")
    return np.left_shift(bits, 4).reshape(*octets.shape[:-1], 2, 16)


def _scaled(q: Octets, scale_and_minimum: Floats, num_rows: int) -> Floats:
    w = q.reshape(*q.shape[:-2], 32).astype(np.float32)
    w *= scale_and_minimum[..., :1]
    w += scale_and_minimum[..., 1:]
    return w.reshape(num_rows, -1)


def _q8_0(rows: Octets) -> Grouped:
    blocks = _blocks("Q8_0", rows)
    q = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    return Grouped(q.reshape(len(rows), -1), _fp16(blocks[..., :2])[..., 0])


def _q2_k(rows: Octets) -> Floats:
    """16 groups of 16: a scale and a minimum of 4 bits each, numbers of 2 bits, 32 apart in a byte."""
    blocks = _blocks("Q2_K", rows)
    d = _fp16(blocks[..., 80:84])
    scales = (blocks[..., :16] & 15) * d[..., :1]
    minima = (blocks[..., :16] >> 4) * d[..., 1:]
    q = _quarters(blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 32))  # (..., 2, 4, 32)
    w = q.reshape(*blocks.shape[:2], 16, 16).astype(np.float32)
    w *= scales[..., None]
    w -= minima[..., None]
    return w.reshape(len(rows), -1)


def _q3_k(rows: Octets) -> Floats:
    """16 groups of 16: scales of 6 bits, numbers of 2 bits, and a mask of those from which no 4 is taken."""
    blocks = _blocks("Q3_K", rows)
    packed = blocks[..., 96:108]
    low = _halves(packed[..., :8]).reshape(*blocks.shape[:2], 16)
    high = _quarters(packed[..., 8:]).reshape(*blocks.shape[:2], 16)
    scales = (low | high << 4).astype(np.float32) - np.float32(32)
    scales *= _fp16(blocks[..., 108:])
    q = _quarters(blocks[..., 32:96].reshape(*blocks.shape[:2], 2, 32))  # (..., 2, 4, 32)
    mask = np.unpackbits(blocks[..., None, :32], axis=-2, bitorder="little")  # (..., 8, 32)
    w = q.reshape(mask.shape).astype(np.float32)
    w -= np.float32(4) * (1 - mask)
    w = w.reshape(*blocks.shape[:2], 16, 16)
    w *= scales[..., None]
    return w.reshape(len(rows), -1)


def _quarters(octets: Octets) -> Octets:
    """(..., n) bytes to (..., 4, n) numbers of two bits, the lowest first."""
    return np.stack([octets >> shift & 3 for shift in (0, 2, 4, 6)], axis=-2)


def _scales_and_minima(packed: Octets) -> tuple[Octets, Octets]:
    """Eight of each, of 6 bits, from 12 bytes."""
    low, middle, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=-1)
    minima = np.concatenate([middle & 63, high >> 4 | (middle >> 6) << 4], axis=-1)
    return scales, minima


def _q4_k(rows: Octets) -> Floats:
    """Eight groups of 32 with a scale and a minimum each, numbers of 4 bits."""
    blocks = _blocks("Q4_K", rows)
    q = _halves(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))  # (..., 4, 2, 32)
    return _with_minima(q, blocks)


def _q5_k(rows: Octets) -> Floats:
    """As Q4_K, and a byte for each of 32 columns with the fifth bits of the eight groups."""
    blocks = _blocks("Q5_K", rows)
    q = _halves(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32))
    fifth = np.empty((*blocks.shape[:2], 8, 32), np.uint8)
    for group in range(8):
        np.left_shift(blocks[..., 16:48] >> group & 1, 4, out=fifth[..., group, :])
    q |= fifth.reshape(q.shape)
    return _with_minima(q, blocks)


def _with_minima(q: Octets, blocks: Octets) -> Floats:
    d = _fp16(blocks[..., :4])
    scales, minima = _scales_and_minima(blocks[..., 4:16])
    w = q.reshape(*blocks.shape[:2], 8, 32).astype(np.float32)
    w *= (scales * d[..., :1])[..., None]
    w -= (minima * d[..., 1:])[..., None]
    return w.reshape(len(blocks), -1)


def _q6_k(rows: Octets) -> Floats:
    """16 groups of 16 with scales of 8 bits; numbers of 6 bits, 4 of them in one place, 2 in another."""
    blocks = _blocks("Q6_K", rows)
    q = np.empty((*blocks.shape[:2], 2, 4, 32), np.uint8)
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 2, 32)
    np.bitwise_and(low, 15, out=q[..., :2, :])
    np.right_shift(low, 4, out=q[..., 2:, :])
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 32)
    for place in range(4):
        q[..., place, :] |= (high >> 2 * place & 3) << 4
    w = q.reshape(*blocks.shape[:2], 16, 16).astype(np.float32)
    w -= np.float32(32)
    w *= (blocks[..., 192:208].view(np.int8) * _fp16(blocks[..., 208:]))[..., None]
    return w.reshape(len(rows), -1)


def _iq4_nl(rows: Octets) -> Grouped:
    blocks = _blocks("IQ4_NL", rows)
    q = _IQ4.take(_halves(blocks[..., 2:]))
    return Grouped(q.reshape(len(rows), -1), _fp16(blocks[..., :2])[..., 0])


def _iq4_xs(rows: Octets) -> Grouped:
    """Eight groups of 32 with scales of 6 bits, whose products with the block's are more than fp16 holds."""
    blocks = _blocks("IQ4_XS", rows)
    low = np.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], axis=-1).reshape(*blocks.shape[:2], 8)
    high = np.stack([blocks[..., 2:4] >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(low.shape)
    scales = (low | high << 4).astype(np.float32) - np.float32(32)
    scales *= _fp16(blocks[..., :2])
    q = _IQ4.take(_halves(blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16)))
    return Grouped(q.reshape(len(rows), -1), scales.reshape(len(rows), -1))


def _mxfp4(rows: Octets) -> Grouped:
    """A power of two for each 32 numbers; halves of numbers are counted, so that all are whole."""
    blocks = _blocks("MXFP4", rows)
    q = _MXFP4.take(_halves(blocks[..., 1:]))
    scales = np.ldexp(np.float32(1), blocks[..., 0].astype(np.int32) - 128)
    return Grouped(q.reshape(len(rows), -1), scales)


def _plain(dtype: str) -> Callable[[Octets], Numbers]:
    return lambda rows: rows.view(dtype)


_DECODERS: dict[str, Decoder] = {
    "F32": _plain("<f4"),
    "F16": _plain("<f2"),
    "BF16": _plain("<u2"),
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}
assert _DECODERS.keys() == BLOCKS.keys()


def row_bytes(type_name: str, num_weights: int) -> int:
    values, size_bytes = BLOCKS[type_name]
    return num_weights // values * size_bytes
