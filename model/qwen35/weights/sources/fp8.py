"""FP8 as the official checkpoints have it: `X.weight` in float8, and a scale for each block of 128 x 128.

    W[i, j] = float(weight[i, j]) * weight_scale_inv[i // 128, j // 128]      (multiplied, in spite of "inv")

The blocks at the right and lower edges may be partial.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import Floats, to_float32
from qwen35.weights.source import Exact, Files, OfPieces, PlainTensor, ReadInto, SourceTensor

SCALE = "_scale_inv"


def tensors_of(files: Files, settings: Mapping[str, Any]) -> tuple[dict[str, SourceTensor], set[str]]:
    """Raises CheckpointError for scales that do not fit, and for other ways of FP8."""
    block = settings.get("weight_block_size")
    found: dict[str, SourceTensor] = {}
    taken: set[str] = set()
    for name, info in files.tensors.items():
        if info.dtype not in DECODED:
            continue
        scale = files.tensors.get(name + SCALE)
        if scale is None or not block:
            raise CheckpointError(
                f"{info.path}: '{name}' is FP8 without the scales of its blocks ('{name}{SCALE}', "
                "'weight_block_size' in config.json). Use the official FP8 files, or the bf16 ones.",
                path=str(info.path),
            )
        height, width = int(block[0]), int(block[1])
        expected = tuple(-(-size // step) for size, step in zip(info.shape, (height, width), strict=True))
        if scale.shape != expected:
            raise CheckpointError(
                f"{info.path}: '{name}{SCALE}' is {list(scale.shape)}, expected {list(expected)} for "
                f"{list(info.shape)} in blocks of {height} x {width}.",
                path=str(info.path),
            )
        found[name] = Fp8Tensor((info, scale), height, width)
        taken |= {name, name + SCALE}
    return found, taken | {name for name in files.tensors if name.endswith(".input_scale")}


@dataclass(frozen=True, slots=True)
class Fp8Tensor(OfPieces):
    pieces: tuple[TensorInfo, ...]
    block_rows: int
    block_columns: int
    exact_in: Exact | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pieces[0].shape

    @property
    def encoding(self) -> str:
        return "FP8"

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Floats:
        weight, scale = self.pieces
        codes = np.empty((end - begin, k), np.uint8)
        files(weight.path, weight.begin + begin * k, codes.reshape(-1).data)
        w = DECODED[weight.dtype].take(codes)
        first, last = begin // self.block_rows, -(-end // self.block_rows)
        scales = to_float32(PlainTensor(scale).read(files, scale.shape[1], first, last))
        rows = np.arange(begin, end) // self.block_rows - first
        for column in range(scales.shape[1]):  # a block's columns at once: its scales once for each row
            part = w[:, column * self.block_columns : (column + 1) * self.block_columns]
            part *= scales[rows, column, None]
        return w


def _decoded(exponent_bits: int, has_infinity: bool) -> Floats:
    """What each byte stands for: a sign, the exponent, the fraction; subnormals where the exponent is 0."""
    fraction_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(256)
    exponent = codes >> fraction_bits & (1 << exponent_bits) - 1
    fraction = (codes & (1 << fraction_bits) - 1) / 2**fraction_bits
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if has_infinity:
        values[exponent == 2**exponent_bits - 1] = np.nan
    else:
        values[codes & 127 == 127] = np.nan
    return np.where(codes >> 7, -values, values).astype(np.float32)


DECODED = {"F8_E4M3": _decoded(4, False), "F8_E5M2": _decoded(5, True)}
