"""Fill the network from a checkpoint: every parameter once, one tensor at a time, never two copies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.weights.assign import assign, config_for
from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.manifest import is_packed
from qwen35.weights.names import expert_places
from qwen35.weights.packed import PackedModel


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Qwen35:
    """The model of `folder` in eval mode, its parameters frozen, in `dtype` (None: the file's own).

    `on_progress` hears bytes read and bytes in all, after each tensor. A packed folder is unpacked
    again: as much memory as the unquantised model takes. Raises CheckpointError.
    """
    if is_packed(folder):
        return _load_packed(folder, device, dtype, on_progress)
    checkpoint = Checkpoint.open(folder)
    config = config_for(checkpoint, config)
    model = _hollow(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    places = assign(checkpoint, shapes, is_tied=config.tie_word_embeddings)
    parameters = _allocate(model, device, dtype or getattr(torch, config.dtype))
    sizes = {name: checkpoint.tensors[name].size_bytes for name in places}
    # One for all that is cast or moved: buffers that come and go leave holes in the heap. Where
    # nothing is, its pages are never touched and cost nothing.
    scratch = torch.empty(max(sizes.values()), dtype=torch.uint8)
    num_read, num_bytes = 0, sum(sizes.values())
    for name, place in places.items():
        parameter = parameters[place.parameter]
        _fill(parameter[place.index(shapes[place.parameter])], checkpoint, name, scratch)
        num_read += sizes[name]
        if on_progress:
            on_progress(num_read, num_bytes)
    return model.eval()


def _load_packed(
    folder: Path,
    device: str | torch.device,
    dtype: torch.dtype | None,
    on_progress: Callable[[int, int], None] | None,
) -> Qwen35:
    """The network with the weights that the packed ones stand for: what packing costs, and nothing more."""
    with PackedModel.open(folder, load="mmap") as packed:
        model = _hollow(packed.config)
        parameters = _allocate(model, device, dtype or getattr(torch, packed.config.dtype))
        num_filled, num_all = 0, sum(p.numel() for p in parameters.values())
        for name, parameter in parameters.items():
            if packed.has(name):
                parameter.copy_(torch.from_numpy(packed.dequantised(name)))
            else:
                for place in expert_places(name, tuple(parameter.shape)):
                    layer = name.partition(".mlp.experts")[0]
                    assert place.expert is not None
                    assert place.projection is not None
                    weights = packed.dequantised_expert(layer, place.expert, place.projection)
                    parameter[place.index(tuple(parameter.shape))].copy_(torch.from_numpy(weights))
            num_filled += parameter.numel()
            if on_progress:
                on_progress(num_filled, num_all)
    return model.eval()


def _hollow(config: ModelConfig) -> Qwen35:
    """The network without memory for its parameters."""
    with _NoInit(), torch.device("meta"):
        model = Qwen35(config)
    assert not list(model.buffers()), "a buffer would stay empty"
    return model


def _allocate(model: nn.Module, device: str | torch.device, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Give every parameter of `model` memory on `device`, not yet written."""
    # Module.to_empty does as much, but from the meta device it imports for 1.3 s.
    for name, parameter in list(model.named_parameters()):
        # exp(A_log) is taken in float32: rounding it first would change every decay.
        kept = torch.float32 if name.endswith(".A_log") else dtype
        memory = torch.empty(parameter.shape, dtype=kept, device=device)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(memory, requires_grad=False))
    return dict(model.named_parameters())


def _fill(target: Tensor, checkpoint: Checkpoint, name: str, scratch: Tensor) -> None:
    dtype = checkpoint.dtype(name)
    if target.device.type == "cpu" and target.dtype == dtype:
        checkpoint.read(name, target)
    else:
        info = checkpoint.tensors[name]
        target.copy_(checkpoint.read(name, scratch[: info.size_bytes].view(dtype).view(info.shape)))


class _NoInit(TorchFunctionMode):
    """Leaves out the random initialisation of modules built under it.

    On the meta device it has no effect but imports sympy and more: 2.6 s and 75 MB.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
