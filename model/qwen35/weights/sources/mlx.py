"""MLX re-saves, quantised or not: told by the convolution's axes, (C, W, 1), never by the names alone.

    names    language_model.model.*, language_model.lm_head.*, vision_tower.*; experts stacked in switch_mlp
    norms    of the text model have 1 added, but not linear attention's own
    patches  (D, 2, side, side, C) for (D, C, 2, side, side)
    weights  unquantised, or `weight` as words of 4 or 8 bits along the inputs, `scales` and `biases` for each
             group of them: W = q * scale + bias

A norm was rounded to 16 bits with its 1: what that took cannot be had back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35.errors import CheckpointError
from qwen35.weights.formats import is_converted_convolution, refuse_unknown_types
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import Floats, to_float32
from qwen35.weights.source import Exact, Files, OfPieces, PlainTensor, ReadInto, SourceTensor
from qwen35.weights.sources.packed_words import unpack

SHIFTED = (
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
)
# The first that matches is taken.
_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.visual."),
    ("model.layers.", "model.language_model.layers."),
)
_STACK = ".mlp.switch_mlp."
BITS = (4, 8)


def is_converted(files: Files) -> bool:
    return any(is_converted_convolution(name, info) for name, info in files.tensors.items())


def tensors_of(files: Files, values: Mapping[str, Any]) -> dict[str, SourceTensor]:
    """By official names. Raises CheckpointError for widths that cannot be read."""
    scaled = {name.removesuffix(".scales") for name in files.tensors if name.endswith(".scales")}
    found: dict[str, SourceTensor] = {}
    plain: dict[str, TensorInfo] = {}
    for name, info in files.tensors.items():
        module, _, part = name.rpartition(".")
        if module in scaled and part in ("scales", "biases"):
            continue
        place = _official(name)
        if module in scaled and part == "weight":
            tensors = _quantised(files, module, info, values)
        else:
            plain[name] = info
            tensors = _plain(name, info)
        if _STACK in place:
            head, _, projection = place.partition(_STACK)
            found |= {f"{head}.mlp.experts.{e}.{projection}": each for e, each in enumerate(tensors)}
        else:
            found[place] = tensors[0]
    refuse_unknown_types(plain)
    return found


def _official(name: str) -> str:
    for prefix, official in _PREFIXES:
        if name.startswith(prefix):
            return official + name.removeprefix(prefix)
    return name


def _plain(name: str, info: TensorInfo) -> list[SourceTensor]:
    if _STACK in name:
        return [PlainTensor(piece) for piece in info.slices()]
    if name.endswith("linear_attn.conv1d.weight"):
        channels, width, _ = info.shape  # the same numbers in the same order
        return [PlainTensor(TensorInfo(info.dtype, (channels, 1, width), info.path, info.begin, info.end))]
    if name.endswith("patch_embed.proj.weight"):
        return [ChannelsLast((info,))]
    if name.endswith(SHIFTED):
        return [ShiftedNorm((info,))]
    return [PlainTensor(info)]


def _quantised(files: Files, module: str, info: TensorInfo, values: Mapping[str, Any]) -> list[SourceTensor]:
    scales, biases = (files.tensors.get(f"{module}.{part}") for part in ("scales", "biases"))
    settings = values.get("quantization") or values.get("quantization_config") or {}
    own = settings.get(module)
    group = (own if isinstance(own, dict) else settings).get("group_size", 64)
    # Each module may have its own width, which its shapes tell.
    bits = info.shape[-1] * 32 // (scales.shape[-1] * group) if scales and group else 0
    if scales is None or biases is None or bits not in BITS or info.dtype != "U32":
        raise CheckpointError(
            f"{info.path}: '{module}' is in MLX's {settings.get('mode', 'affine')} format of "
            f"{bits or 'unknown'} bits; supported: affine, of 4 or 8 bits. Use the model's bf16 files.",
            path=str(info.path),
        )
    pieces = [each.slices() if len(each.shape) == 3 else [each] for each in (info, scales, biases)]
    return [AffineTensor(tuple(each), bits, group) for each in zip(*pieces, strict=True)]


@dataclass(frozen=True, slots=True)
class ShiftedNorm(OfPieces):
    """With the 1 taken off again."""

    pieces: tuple[TensorInfo, ...]
    exact_in: Exact | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pieces[0].shape

    @property
    def encoding(self) -> str:
        return self.pieces[0].dtype

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Floats:
        return to_float32(PlainTensor(self.pieces[0]).read(files, k, begin, end)) - np.float32(1)


@dataclass(frozen=True, slots=True)
class ChannelsLast(OfPieces):
    """The patch embedding, its channels moved to where they belong."""

    pieces: tuple[TensorInfo, ...]
    exact_in: Exact | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        D, frames, *sides, C = self.pieces[0].shape
        return D, C, frames, *sides

    @property
    def encoding(self) -> str:
        return self.pieces[0].dtype

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Floats:
        rows = to_float32(PlainTensor(self.pieces[0]).read(files, k, begin, end))
        C = self.shape[1]
        moved = rows.reshape(end - begin, k // C, C).swapaxes(1, 2)
        return np.ascontiguousarray(moved).reshape(end - begin, k)


@dataclass(frozen=True, slots=True)
class AffineTensor(OfPieces):
    pieces: tuple[TensorInfo, ...]  # words, scales, biases
    bits: int
    group: int
    exact_in: Exact | None = None  # a minimum of its own for each group: neither tile has that

    @property
    def shape(self) -> tuple[int, ...]:
        out, words = self.pieces[0].shape
        return out, words * 32 // self.bits

    @property
    def encoding(self) -> str:
        return f"MLX-{self.bits}bit"

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Floats:
        info, scales, biases = self.pieces
        words = np.empty((end - begin, info.shape[1]), "<u4")
        files(info.path, info.begin + begin * words.shape[1] * 4, words.reshape(-1).view(np.uint8).data)
        w = unpack(words, self.bits).astype(np.float32).reshape(end - begin, -1, self.group)
        for part, apply in ((scales, np.multiply), (biases, np.add)):
            apply(w, to_float32(PlainTensor(part).read(files, part.shape[1], begin, end))[..., None], out=w)
        return w.reshape(end - begin, k)
