"""GPTQ in 4 or 8 bits: a module's weight as whole numbers, packed along its inputs and transposed.

    qweight (in * bits / 32, out)     numbers of consecutive inputs in a word, the low bits first
    scales  (in / group, out)
    qzeros  (in / group, out * bits / 32)    in "gptq" less 1, in "gptq_v2" as they are
    g_idx   (in,)                     the group of each input; without act-order i // group

    W[o, i] = scales[g, o] * (q[i, o] - zero[g, o])

With symmetric quantisation every zero is half the range, however it is written: readers take no notice of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import to_float32
from qwen35.weights.source import Exact, Files, OfPieces, ReadInto, Rows, SourceTensor
from qwen35.weights.sources.packed_words import Strips, unpack, weights_of

BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of config.json's quantization_config."""

    bits: int
    group_size: int  # -1: one group
    is_symmetric: bool
    has_act_order: bool
    zero_offset: int  # to be added to the zeros as they are written

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "Settings":
        try:
            bits, group_size = int(values["bits"]), int(values["group_size"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{where}: quantization_config lacks 'bits' or 'group_size'.") from None
        if bits not in BITS:
            raise CheckpointError(
                f"{where}: GPTQ in {bits} bits; supported: 4 and 8. Use the model's bf16 or FP8 files."
            )
        checkpoint_format = values.get("checkpoint_format") or "gptq"
        if checkpoint_format not in ("gptq", "gptq_v2"):
            raise CheckpointError(
                f"{where}: the GPTQ layout {checkpoint_format!r} is not known; supported: gptq, gptq_v2. "
                "Use the model's bf16 or FP8 files."
            )
        return cls(
            bits,
            group_size,
            is_symmetric=bool(values.get("sym", True)),
            has_act_order=bool(values.get("desc_act", False)),
            zero_offset=int(checkpoint_format == "gptq"),
        )


def tensors_of(files: Files, values: Mapping[str, Any]) -> tuple[dict[str, SourceTensor], set[str]]:
    """Raises CheckpointError for modules that are not whole, and for other widths."""
    where = str(files.path / "config.json")
    settings = Settings.from_dict(values, where)
    strips = Strips()
    found: dict[str, SourceTensor] = {}
    taken: set[str] = set()
    for name, qweight in files.tensors.items():
        if not name.endswith(".qweight"):
            continue
        module = name.removesuffix(".qweight")
        names = [f"{module}.{part}" for part in ("qweight", "scales", "qzeros", "g_idx")]
        pieces = tuple(files.tensors[part] for part in names if part in files.tensors)
        if len(pieces) < 3 or names[1] not in files.tensors or names[2] not in files.tensors:
            raise CheckpointError(
                f"{qweight.path}: '{name}' has no '{module}.scales' or no '{module}.qzeros' beside it.",
                path=str(qweight.path),
            )
        tensor = GptqTensor(pieces, settings, strips)
        tensor.check(module)
        found[f"{module}.weight"] = tensor
        taken.update(names)
    return found, taken


@dataclass(frozen=True, slots=True)
class GptqTensor(OfPieces):
    pieces: tuple[TensorInfo, ...]  # qweight, scales, qzeros, and g_idx or nothing
    settings: Settings
    strips: Strips

    @property
    def shape(self) -> tuple[int, ...]:
        height, out = self.pieces[0].shape
        return out, height * 32 // self.settings.bits

    @property
    def encoding(self) -> str:
        return f"GPTQ-Int{self.settings.bits}"

    @property
    def exact_in(self) -> Exact | None:
        if self.settings.has_act_order:  # neighbours have different scales
            return None
        return "q4" if self.settings.is_symmetric and self.settings.bits == 4 else "q8"

    @property
    def group(self) -> int:
        return self.settings.group_size if self.settings.group_size > 0 else self.shape[1]

    def check(self, module: str) -> None:
        """Raises CheckpointError for parts that do not fit each other."""
        qweight, scales, qzeros = self.pieces[:3]
        out, inputs = self.shape
        groups = -(-inputs // self.group)
        expected: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "scales": (scales.shape, (groups, out)),
            "qzeros": (qzeros.shape, (groups, -(-out * self.settings.bits // 32))),
        }
        if len(self.pieces) == 4:
            expected["g_idx"] = self.pieces[3].shape, (inputs,)
        for part, (found, wanted) in expected.items():
            if found != wanted:
                raise CheckpointError(
                    f"{qweight.path}: '{module}.{part}' is {list(found)}, expected {list(wanted)} in "
                    f"{self.settings.bits} bits and groups of {self.group}.",
                    path=str(qweight.path),
                )

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        qweight, scale, _ = self.pieces[:3]
        bits, group = self.settings.bits, self.group
        q = unpack(self.strips.read(files, qweight, begin, end).T, bits)  # (N, K)
        scales = to_float32(self.strips.read(files, scale, begin, end)).T  # (N, groups)
        zeros = self._zeros(files, begin, end)
        order = self._order(files)
        if order is None and (zeros == zeros.flat[0]).all() and int(zeros.flat[0]) == 1 << bits - 1:
            return weights_of((q - np.uint8(1 << bits - 1)).view(np.int8), scales, group)
        groups = np.arange(k) // group if order is None else order
        difference = q.astype(np.int16) - zeros[:, groups]
        if order is None and bits == 4:
            return weights_of(difference.astype(np.int8), scales, group)
        return difference * scales[:, groups]

    def _zeros(self, files: ReadInto, begin: int, end: int) -> NDArray[np.int16]:
        """(N, groups), as they are subtracted."""
        bits = self.settings.bits
        each = 32 // bits
        words = self.strips.read(files, self.pieces[2], begin // each, -(-end // each))
        written = unpack(words, bits)[:, begin % each :][:, : end - begin].T
        half = 1 << bits - 1
        if self.settings.is_symmetric and np.isin(written, (half - 1, half)).all():
            return np.full(written.shape, half, np.int16)
        return written.astype(np.int16) + np.int16(self.settings.zero_offset)

    def _order(self, files: ReadInto) -> NDArray[np.int32] | None:
        """The group of each input, where that is not its place divided by the group's size."""
        if len(self.pieces) < 4:
            return None
        info = self.pieces[3]
        order = np.empty(info.shape, "<i4")
        files(info.path, info.begin, order.view(np.uint8).data)
        if not order.any() or (order == np.arange(order.size) // self.group).all():
            return None
        if order.min() < 0 or order.max() >= self.pieces[1].shape[0]:
            raise CheckpointError(
                f"{info.path}: a 'g_idx' names groups that are not there.", path=str(info.path)
            )
        return order
