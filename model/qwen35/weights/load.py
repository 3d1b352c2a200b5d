"""Fill the network from a checkpoint: every parameter once, piece by piece, never two copies."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
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
from qwen35.weights.placement_torch import TorchPlacement, block_of, is_quantised

CAST_BYTES = 16 << 20  # read at a time of what is cast or moved


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read as one: a whole parameter, or the part of it at `index`."""

    parameter: str
    index: tuple[int | slice, ...]
    size_bytes: int
    fill: Callable[[Tensor], None]  # a contiguous tensor of its shape, of any dtype, on any device


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    place: Callable[[ModelConfig], TorchPlacement] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Qwen35:
    """The model of `folder` in eval mode, its parameters frozen, in `dtype` (None: the file's own).

    `place` says what lies where, given `config` as the files have it; without it all is on `device`.
    `on_progress` hears bytes read and bytes in all, after each tensor. A packed folder is unpacked
    again: as much memory as the unquantised model takes. Raises CheckpointError, and what `place` does.
    """
    with ExitStack() as stack:
        if is_packed(folder):
            packed = stack.enter_context(PackedModel.open(folder, load="mmap"))
            model = _hollow(packed.config)
            pieces = list(_pieces_of_packed(packed, _shapes(model)))
        else:
            checkpoint = Checkpoint.open(folder)
            model = _hollow(config_for(checkpoint, config))
            pieces = list(_pieces(checkpoint, model))
        placement = place(model.config) if place else None
        parameters = _allocate(model, device, dtype or getattr(torch, model.config.dtype), placement)
        if placement and not placement.is_resident:
            from qwen35.weights.offload import attach_hooks

            attach_hooks(model, placement, device, pieces)
            stack.pop_all()  # the pieces are read again and again
        quantise = _Quantiser(model, placement, parameters) if placement and placement.quant else None
        num_read, num_bytes = 0, sum(piece.size_bytes for piece in pieces)
        for piece in pieces:
            parameter = parameters[piece.parameter]
            if quantise and is_quantised(piece.parameter):
                quantise(piece)
            elif not parameter.is_meta:
                piece.fill(parameter[piece.index])
            num_read += piece.size_bytes
            if on_progress:
                on_progress(num_read, num_bytes)
    return model.eval()


def _pieces(checkpoint: Checkpoint, model: Qwen35) -> Iterator[Piece]:
    """In the order in which they lie in the files."""
    shapes = _shapes(model)
    # One for all that is cast or moved: buffers that come and go leave holes in the heap.
    scratch = torch.empty(CAST_BYTES, dtype=torch.uint8)
    places = assign(checkpoint, shapes, is_tied=model.config.tie_word_embeddings)
    for name, place in places.items():
        size_bytes = checkpoint.tensors[name].size_bytes
        index = place.index(shapes[place.parameter])
        yield Piece(place.parameter, index, size_bytes, partial(_fill, checkpoint, name, scratch))


def _fill(checkpoint: Checkpoint, name: str, scratch: Tensor, target: Tensor) -> None:
    dtype = checkpoint.dtype(name)
    if target.device.type == "cpu" and target.dtype == dtype:
        checkpoint.read(name, target)
        return
    scratch, target = scratch.view(dtype), target.view(-1)
    for first in range(0, target.numel(), scratch.numel()):
        part = target[first : first + scratch.numel()]
        part.copy_(checkpoint.read(name, scratch[: part.numel()], first))


def _pieces_of_packed(packed: PackedModel, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Piece]:
    """What the packed weights stand for: what packing costs, and nothing more."""
    for name, shape in shapes.items():
        places = [] if packed.has(name) else list(expert_places(name, shape))
        if not places:
            read = partial(packed.dequantised, name)
            yield Piece(name, (), 4 * torch.Size(shape).numel(), partial(_copy, read))
        layer = name.partition(".mlp.experts")[0]
        for place in places:
            assert place.expert is not None
            assert place.projection is not None
            read = partial(packed.dequantised_expert, layer, place.expert, place.projection)
            size_bytes = 4 * torch.Size(place.shape(shape)).numel()
            yield Piece(name, place.index(shape), size_bytes, partial(_copy, read))


def _copy(read: Callable[[], Any], target: Tensor) -> None:
    target.copy_(torch.from_numpy(read()))


class _Quantiser:
    """Puts quantised modules in the place of linear ones, each when its weight is read."""

    def __init__(
        self, model: Qwen35, placement: TorchPlacement, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        from qwen35.weights.bitsandbytes_linear import quantised_linear

        self._model, self._parameters = model, parameters
        assert placement.quant is not None
        self._make = partial(quantised_linear, quant=placement.quant, device=placement.device)
        weights = [parameter for name, parameter in parameters.items() if is_quantised(name)]
        # One for all, as above.
        self._scratch = torch.empty(max(map(torch.numel, weights)), dtype=weights[0].dtype)

    def __call__(self, piece: Piece) -> None:
        shape = self._parameters[piece.parameter].shape
        weight = self._scratch[: shape.numel()].view(shape)
        piece.fill(weight)
        owner, _, leaf = piece.parameter.removesuffix(".weight").rpartition(".")
        setattr(self._model.get_submodule(owner), leaf, self._make(weight))


def _hollow(config: ModelConfig) -> Qwen35:
    """The network without memory for its parameters."""
    with _NoInit(), torch.device("meta"):
        model = Qwen35(config)
    assert not list(model.buffers()), "a buffer would stay empty"
    return model


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _allocate(
    model: nn.Module, device: str | torch.device, dtype: torch.dtype, placement: TorchPlacement | None
) -> dict[str, nn.Parameter]:
    """Give parameters of `model` memory, not yet written; none to those on the disk or to be quantised."""
    # Module.to_empty does as much, but from the meta device it imports for 1.3 s.
    places = {block.name: block.where for block in placement.blocks} if placement else {}
    for name, parameter in list(model.named_parameters()):
        # exp(A_log) is taken in float32: rounding it first would change every decay.
        kept = torch.float32 if name.endswith(".A_log") else dtype
        where = places.get(block_of(name), device)
        if where == "disk" or (placement and placement.quant and is_quantised(name)):
            where = "meta"
        memory = torch.empty(parameter.shape, dtype=kept, device=where)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(memory, requires_grad=False))
    return dict(model.named_parameters())


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
