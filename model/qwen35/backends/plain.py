"""The network itself as a backend: torch, on a CPU or a CUDA device.

It moves states between their one layout (numpy blocks) and the tensors that the network takes. On a
CPU that costs a gather of keys and values a step; the large matrices are shared, not copied.
"""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from qwen35.backends.base import PREFILL_CHUNK
from qwen35.errors import DoesNotFit
from qwen35.events import ExpertUse
from qwen35.network.attention import KeyValues
from qwen35.network.linear_attention import LinearState
from qwen35.network.model import Qwen35
from qwen35.network.text import LayerPast, Past
from qwen35.state import KVBlocks, LinearMemory, ModelState

# Of CUDA itself and its libraries, whose own needs do not go through torch's allocator.
_GPU_IS_FULL = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
)


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Turn torch's ways of running out of memory into DoesNotFit."""
    try:
        yield
    except RuntimeError as error:
        is_gpu = isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _GPU_IS_FULL)
        if not is_gpu and "can't allocate memory" not in str(error):
            raise
        # The traceback would hold all that the step had made, on the device too, while the error is held.
        traceback.clear_frames(error.__traceback__)
        where = "GPU memory" if is_gpu else "memory"
        raise DoesNotFit(
            f"Not enough {where} for this model and prompt. Use a smaller model, smaller pictures "
            "(--image-tokens) or a shorter prompt, or close other programs."
        ) from None


class PlainBackend:
    """Owns the loaded network. Stateless between calls: all that a sequence needs is in its ModelState."""

    prefill_chunk = PREFILL_CHUNK
    expert_use: ExpertUse | None = None
    layer_use: ExpertUse | None = None

    def __init__(self, model: Qwen35, quant: str = "") -> None:
        """`quant` names how linear layers are quantised, and what computes them; empty: they are not."""
        self.model = model
        self.name = f"plain (torch, {quant})" if quant else "plain (torch)"
        weight = model.language_model.norm.weight  # always where the computing is done
        self.device, self.dtype = weight.device, weight.dtype
        parts = str(torch.get_num_threads())  # sums are parted among them
        if self.device.type == "cuda":
            parts = torch.cuda.get_device_name(self.device)  # another card chooses other kernels
            self.name = f"{self.name} on {parts}"
        self.numerics = (
            f"plain-2 torch {torch.__version__} {self.device} {self.dtype} {parts} {quant}".rstrip()
        )

    def device_room(self) -> int | None:
        return int(torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else None

    def close(self) -> None:
        pass

    def save_hot(self) -> None:
        pass

    def new_state(self) -> ModelState:
        return ModelState(self.model.config.text, str(self.dtype).removeprefix("torch."))

    @memory_errors_explained()
    @torch.inference_mode()
    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Features (M, D) float32 of patches (P, values)."""
        assert self.model.visual is not None
        features = self.model.visual(torch.from_numpy(patches).to(self.device), list(grids))
        return features.float().cpu().numpy()

    @memory_errors_explained()
    @torch.inference_mode()
    def prefill(
        self, state: ModelState, ids: np.ndarray, position_ids: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        hidden = self._step(
            [state],
            torch.from_numpy(ids)[None],
            torch.from_numpy(position_ids)[:, None],
            None if features is None else torch.from_numpy(features),
        )
        return self.model.logits(hidden[0, -1]).float().cpu().numpy()

    @memory_errors_explained()
    @torch.inference_mode()
    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        positions = torch.tensor([state.num_tokens + state.mrope_delta for state in states])
        hidden = self._step(states, torch.from_numpy(ids)[:, None], positions.expand(3, -1)[..., None], None)
        return self.model.logits(hidden[:, 0]).float().cpu().numpy()

    def look_ahead(self, state: ModelState) -> None:
        """This path is for being right, not fast."""

    def forget(self, state: ModelState) -> None:
        pass

    def _step(
        self, states: Sequence[ModelState], ids: Tensor, position_ids: Tensor, features: Tensor | None
    ) -> Tensor:
        """Hidden states (B, T, D) of T more tokens for each of B sequences."""
        ids, position_ids = ids.to(self.device), position_ids.to(self.device)
        features = None if features is None else features.to(self.device)
        hidden, left = self.model(ids, position_ids, features, self._gather(states))
        self._scatter(states, left)
        for state in states:
            state.num_tokens += ids.shape[1]
        return hidden

    def _gather(self, states: Sequence[ModelState]) -> Past | None:
        """The rows' states as the network takes them; keys of shorter pasts are right-padded."""
        counts = [state.num_tokens for state in states]
        longest = max(counts)
        if longest == 0:
            return None
        layers: list[LayerPast] = []
        for rows in zip(*(state.layers for state in states), strict=True):
            if isinstance(rows[0], KVBlocks):
                padded = [[self._pad(part, longest) for part in row.gather()] for row in rows if row.k]
                layers.append(KeyValues(*(torch.stack(part) for part in zip(*padded, strict=True))))
            else:
                conv = torch.stack([self._tensor(row.conv).T for row in rows])
                layers.append(LinearState(conv, torch.stack([self._tensor(row.state) for row in rows])))
        is_ragged = min(counts) < longest
        return Past(layers, torch.tensor(counts, device=self.device) if is_ragged else None)

    def _pad(self, part: np.ndarray, length: int) -> Tensor:
        tensor = self._tensor(part)
        return torch.nn.functional.pad(tensor, (0, 0, 0, length - tensor.shape[1]))

    def _scatter(self, states: Sequence[ModelState], left: Sequence[LayerPast]) -> None:
        for index, layer in enumerate(left):
            for row, state in enumerate(states):
                memory = state.layers[index]
                if isinstance(layer, KeyValues):
                    assert isinstance(memory, KVBlocks)
                    memory.append(self._array(layer.k[row]), self._array(layer.v[row]))
                else:
                    state.layers[index] = LinearMemory(
                        self._array(layer.conv[row].T), self._array(layer.state[row])
                    )

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if array.dtype == np.uint16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(self.device)

    def _array(self, tensor: Tensor) -> np.ndarray:
        tensor = tensor.contiguous().cpu()
        return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
