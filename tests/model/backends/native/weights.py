"""A plain model's parameters packed in memory, and the plain model that means the same."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from tests.model.backends.native.packing import PackedMatrix, aligned, pack

F32 = ("mlp.gate.weight", "shared_expert_gate.weight", "conv1d.weight", "pos_embed.weight")
PAGE = 4096


class MemoryWeights:
    """Stands for a PackedModel. `format_name` is that of all matrices but those that stay f32."""

    def __init__(self, model: Qwen35, format_name: str) -> None:
        self.config: ModelConfig = model.config
        self.meaning = copy.deepcopy(model)  # the same weights, dequantised
        self._matrices: dict[str, PackedMatrix] = {}
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._experts: dict[int | str, tuple[NDArray[np.uint8], int, str]] = {}
        for name, parameter in self.meaning.named_parameters():
            if ".experts." in name:
                continue
            values = parameter.detach().float().numpy()
            if values.ndim < 2 or "conv1d" in name or "pos_embed" in name:
                self._vectors[name] = values.copy()
                continue
            chosen = "f32" if name.endswith(F32) else format_name
            packed = pack(values.reshape(len(values), -1), chosen)
            self._matrices[name] = packed
            parameter.data = torch.from_numpy(packed.dequantised).reshape(parameter.shape).clone()
        if model.config.text.moe:
            for index, layer in enumerate(self.meaning.language_model.layers):
                self._experts[index] = self._pack_experts(layer.mlp.experts, format_name)
            if self.meaning.mtp is not None:
                experts = self.meaning.mtp.layers[0].mlp.experts
                self._experts["mtp.layers.0"] = self._pack_experts(experts, format_name)

    def close(self) -> None:
        pass

    @staticmethod
    def _pack_experts(experts: torch.nn.Module, format_name: str) -> tuple[NDArray[np.uint8], int, str]:
        records = []
        for gate_up, down in zip(experts.gate_up_proj.data, experts.down_proj.data, strict=True):
            size = len(gate_up) // 2
            parts = [pack(w.numpy(), format_name) for w in (gate_up[:size], gate_up[size:], down)]
            for place, part in zip((gate_up[:size], gate_up[size:], down), parts, strict=True):
                place.copy_(torch.from_numpy(part.dequantised))
            records.append(np.concatenate([part.data for part in parts]))
        stride = -(-len(records[0]) // PAGE) * PAGE
        data = aligned(stride * len(records), PAGE)
        for i, record in enumerate(records):
            data[i * stride : i * stride + len(record)] = record
        return data, stride, format_name

    def has(self, name: str) -> bool:
        return name in self._matrices or name in self._vectors

    def matrix(self, name: str) -> tuple[int, str, int, int]:
        packed = self._matrices[name]
        return packed.data.ctypes.data, packed.format, *packed.dequantised.shape

    def wait_for(self, prefix: str) -> None:
        """All of it is there."""

    def vector(self, name: str) -> NDArray[np.float32]:
        return self._vectors[name]

    def experts(self, layer: int | str) -> tuple[int, int]:
        data, stride, _ = self._experts[layer]
        return data.ctypes.data, stride

    def expert_format(self, layer: int | str) -> str:
        return self._experts[layer][2]
