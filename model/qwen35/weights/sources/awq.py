"""AWQ in 4 bits ("gemm" layout): whole numbers packed along a module's outputs, with zero points.

    qweight (in, out / 8)          eight outputs in a word, those of ORDER from the low bits up
    qzeros  (in / group, out / 8)  likewise
    scales  (in / group, out)

    W[o, i] = scales[g, o] * (q[i, o] - zero[g, o])

q - zero does not fit into 4 bits; 8 hold it exactly.
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
from qwen35.weights.sources.packed_words import Strips, Words, weights_of

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def tensors_of(files: Files, values: Mapping[str, Any]) -> tuple[dict[str, SourceTensor], set[str]]:
    """Raises CheckpointError for modules that are not whole, and for other layouts."""
    where = str(files.path / "config.json")
    bits = values.get("bits", values.get("w_bit"))
    group = values.get("group_size", values.get("q_group_size"))
    layout = str(values.get("version", "gemm")).lower()
    if bits != 4 or layout != "gemm" or not isinstance(group, int):
        raise CheckpointError(
            f"{where}: AWQ in {bits} bits, layout {layout!r}, groups of {group}; supported: 4 bits, 'gemm'. "
            "Use the model's bf16 or FP8 files."
        )
    strips = Strips()
    found: dict[str, SourceTensor] = {}
    taken: set[str] = set()
    for name, qweight in files.tensors.items():
        if not name.endswith(".qweight"):
            continue
        module = name.removesuffix(".qweight")
        names = [f"{module}.{part}" for part in ("qweight", "scales", "qzeros")]
        inputs, words = qweight.shape
        groups = -(-inputs // (group if group > 0 else inputs))
        shapes = [files.tensors[part].shape for part in names[1:] if part in files.tensors]
        if shapes != [(groups, 8 * words), (groups, words)]:
            raise CheckpointError(
                f"{qweight.path}: '{module}.scales' and '{module}.qzeros' are {[*map(list, shapes)]}, "
                f"expected {[[groups, 8 * words], [groups, words]]}.",
                path=str(qweight.path),
            )
        found[f"{module}.weight"] = AwqTensor(tuple(files.tensors[part] for part in names), group, strips)
        taken.update(names)
    return found, taken


@dataclass(frozen=True, slots=True)
class AwqTensor(OfPieces):
    pieces: tuple[TensorInfo, ...]  # qweight, scales, qzeros
    group_size: int  # -1: one group
    strips: Strips
    exact_in: Exact | None = "q8"

    @property
    def shape(self) -> tuple[int, ...]:
        inputs, words = self.pieces[0].shape
        return 8 * words, inputs

    @property
    def encoding(self) -> str:
        return "AWQ"

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        group = self.group_size if self.group_size > 0 else k
        q = self._outputs(files, self.pieces[0], begin, end)  # (N, K)
        zeros = self._outputs(files, self.pieces[2], begin, end)  # (N, groups)
        q -= np.repeat(zeros, group, axis=1)[:, :k]
        scales = to_float32(self.strips.read(files, self.pieces[1], begin, end)).T
        return weights_of(q, scales, group)

    def _outputs(self, files: ReadInto, info: TensorInfo, begin: int, end: int) -> NDArray[np.int8]:
        """Numbers of the outputs [begin, end), a row for each."""
        words: Words = self.strips.read(files, info, begin // 8, -(-end // 8))
        first = begin // 8 * 8
        # The words of eight outputs side by side, turned as words: eight times fewer than numbers.
        turned = np.ascontiguousarray(words.T)  # (N / 8, K)
        numbers = np.empty((len(turned), 8, turned.shape[1]), np.int8)
        for place, output in enumerate(ORDER):
            np.copyto(numbers[:, output], turned >> np.uint32(4 * place) & np.uint32(15), casting="unsafe")
        return numbers.reshape(-1, turned.shape[1])[begin - first : end - first]
