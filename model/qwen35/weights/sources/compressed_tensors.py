"""compressed-tensors (llm-compressor): whole numbers with scales, packed along the inputs or one a byte.

pack-quantized   weight_packed (out, in * bits / 32), q + half the range, the low bits first;
                 weight_scale (out, groups); weight_zero_point (out * bits / 32, groups) where asymmetric,
                 packed along the outputs; weight_shape (2,); weight_g_idx (in,) with act-order
int-quantized    weight int8 (out, in); weight_scale (out, 1) or (1,)
float-quantized  weight float8 (out, in); weight_scale (out, 1), (1,) or blocks

W[o, i] = scale[o, g] * (q[o, i] - zero[o, g])
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import Floats, to_float32
from qwen35.weights.source import Exact, Files, OfPieces, PlainTensor, ReadInto, Rows, SourceTensor
from qwen35.weights.sources.fp8 import DECODED
from qwen35.weights.sources.packed_words import unpack, weights_of

BITS = (4, 8)
_BLOCK = 128  # rows and columns that share a scale in FP8 blocks
FORMATS = ("pack-quantized", "int-quantized", "float-quantized")
_IGNORED = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".k_scale",
    ".v_scale",
    ".output_scale",
)


def tensors_of(files: Files, values: Mapping[str, Any]) -> tuple[dict[str, SourceTensor], set[str]]:
    """Raises CheckpointError for modules that are not whole, and for other formats, which it names."""
    where = str(files.path / "config.json")
    groups = [group for group in (values.get("config_groups") or {}).values() if isinstance(group, dict)]
    formats = {str(group.get("format") or values.get("format")) for group in groups}
    if unknown := sorted((formats or {str(values.get("format"))}) - {*FORMATS}):
        raise CheckpointError(
            f"{where}: the compressed-tensors format {unknown[0]!r} cannot be read; supported: "
            f"{', '.join(FORMATS)}. Use the model's bf16 or FP8 files."
        )
    weights = [group.get("weights") or {} for group in groups]
    bits = {int(each.get("num_bits") or 0) for each in weights}
    sizes = {int(each.get("group_size") or 0) for each in weights} | {_BLOCK}
    found: dict[str, SourceTensor] = {}
    taken = {name for name in files.tensors if name.endswith(_IGNORED)}
    for name in files.tensors:
        module, _, part = name.rpartition(".")
        names = [name, f"{module}.weight_scale", f"{module}.weight_zero_point", f"{module}.weight_g_idx"]
        if part not in ("weight_packed", "weight") or names[1] not in files.tensors:
            continue
        if part == "weight_packed":
            tensor: SourceTensor = _packed(files, module, bits, sizes)
        else:
            tensor = _scaled(files, module, sizes)
        found[f"{module}.weight"] = tensor
        taken.update(names, {f"{module}.weight_shape"})
    return found, taken


def _scaled(files: Files, module: str, sizes: set[int]) -> "ScaledTensor":
    weight, scale = files.tensors[f"{module}.weight"], files.tensors[f"{module}.weight_scale"]
    if weight.dtype != "I8" and weight.dtype not in DECODED:
        raise CheckpointError(
            f"{weight.path}: '{module}.weight' is of {weight.dtype} with a scale; supported: int8, FP8.",
            path=str(weight.path),
        )
    if f"{module}.weight_zero_point" in files.tensors:
        raise CheckpointError(
            f"{weight.path}: '{module}.weight_zero_point': zero points cannot be read with one number a "
            "byte. Use the model's bf16 or FP8 files.",
            path=str(weight.path),
        )
    height, width = scale.shape if len(scale.shape) == 2 else (prod(scale.shape), 1)
    return ScaledTensor(
        (weight, scale),
        _step(weight, weight.shape[0], height, {1, _BLOCK}),
        _step(weight, weight.shape[1], width, sizes),
    )


def _step(info: TensorInfo, size: int, count: int, candidates: set[int]) -> int:
    """How many of `size` rows or columns share one of `count` scales. Raises CheckpointError."""
    for step in (size, *sorted(candidates - {0, -1})):
        if step > 0 and -(-size // step) == count:
            return step
    raise CheckpointError(
        f"{info.path}: {count} scales for {size} rows or columns, in groups that config.json does not name.",
        path=str(info.path),
    )


def _packed(files: Files, module: str, bits: set[int], sizes: set[int]) -> "PackedTensor":
    packed, scale = files.tensors[f"{module}.weight_packed"], files.tensors[f"{module}.weight_scale"]
    if f"{module}.weight_g_idx" in files.tensors:
        raise CheckpointError(
            f"{packed.path}: '{module}.weight_g_idx' shows act-order, which cannot be read in this format. "
            "Use the model's bf16 or FP8 files.",
            path=str(packed.path),
        )
    shape = files.tensors.get(f"{module}.weight_shape")
    found = min(bits, default=0)
    if len(bits) > 1 and shape:  # which of them: read where it is not said, once a module
        found = packed.shape[1] * 32 // max(1, _num_columns(files, shape))
    if found not in BITS:
        raise CheckpointError(
            f"{packed.path}: '{module}.weight_packed' is in {found} bits; supported: 4 and 8. Use the "
            "model's bf16 or FP8 files.",
            path=str(packed.path),
        )
    zeros = files.tensors.get(f"{module}.weight_zero_point")
    group = _step(packed, packed.shape[1] * 32 // found, scale.shape[1], sizes)
    return PackedTensor((packed, scale, zeros) if zeros else (packed, scale), found, group)


def _num_columns(files: Files, info: TensorInfo) -> int:
    """The second of two int64 or int32."""
    numbers = np.empty(2, "<i8" if info.dtype == "I64" else "<i4")
    files.read_into(info.path, info.begin, numbers.view(np.uint8).data)
    return int(numbers[1])


@dataclass(frozen=True, slots=True)
class PackedTensor(OfPieces):
    pieces: tuple[TensorInfo, ...]  # packed, scale, and zero points or nothing
    bits: int
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        out, words = self.pieces[0].shape
        return out, words * 32 // self.bits

    @property
    def encoding(self) -> str:
        return f"compressed-tensors int{self.bits}"

    @property
    def exact_in(self) -> Exact | None:
        return "q4" if self.bits == 4 and len(self.pieces) == 2 else "q8"

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        packed, scale = self.pieces[:2]
        words = np.empty((end - begin, packed.shape[1]), "<u4")
        files(packed.path, packed.begin + begin * words.shape[1] * 4, words.reshape(-1).view(np.uint8).data)
        half = np.uint8(1 << self.bits - 1)
        q = (unpack(words, self.bits) - half).view(np.int8)
        scales = to_float32(PlainTensor(scale).read(files, scale.shape[1], begin, end))
        group = self.group
        if len(self.pieces) == 2:
            return weights_of(q, scales, group)
        zeros = self._zeros(files, begin, end)
        if self.bits == 4:
            return weights_of(q - np.repeat(zeros, group, axis=1)[:, :k], scales, group)
        difference = q.astype(np.int16) - np.repeat(zeros, group, axis=1)[:, :k]
        return difference * np.repeat(scales, group, axis=1)[:, :k]

    def _zeros(self, files: ReadInto, begin: int, end: int) -> NDArray[np.int8]:
        """(N, groups): packed along the outputs, as signed numbers."""
        info = self.pieces[2]
        each, groups = 32 // self.bits, info.shape[1]
        first, last = begin // each, -(-end // each)
        words = np.empty((last - first, groups), "<u4")
        files(info.path, info.begin + first * groups * 4, words.reshape(-1).view(np.uint8).data)
        numbers = unpack(np.ascontiguousarray(words.T), self.bits)  # (groups, outputs)
        signed = (numbers - np.uint8(1 << self.bits - 1)).view(np.int8)
        return signed[:, begin - first * each : end - first * each].T


@dataclass(frozen=True, slots=True)
class ScaledTensor(OfPieces):
    """One number a byte, whole or float8, with scales for the tensor, for each row, or for blocks."""

    pieces: tuple[TensorInfo, ...]  # weight, scale
    rows_step: int  # that share a scale
    group: int  # of columns that do

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pieces[0].shape

    @property
    def encoding(self) -> str:
        return "compressed-tensors " + ("int8" if self.pieces[0].dtype == "I8" else "FP8")

    @property
    def exact_in(self) -> Exact | None:
        return "q8" if self.pieces[0].dtype == "I8" else None

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        weight = self.pieces[0]
        codes = np.empty((end - begin, k), np.uint8)
        files(weight.path, weight.begin + begin * k, codes.reshape(-1).data)
        scales = self._scales(files, begin, end)  # (N, groups)
        group = self.group
        if weight.dtype == "I8":
            return weights_of(codes.view(np.int8), scales, group)
        w = DECODED[weight.dtype].take(codes)
        w *= np.repeat(scales, group, axis=1)[:, :k]
        return w

    def _scales(self, files: ReadInto, begin: int, end: int) -> Floats:
        scale, step = self.pieces[1], self.rows_step
        width = -(-self.shape[1] // self.group)
        scales = to_float32(PlainTensor(scale).read(files, width, begin // step, -(-end // step)))
        return scales[np.arange(begin, end) // step - begin // step]
