"""Blocks that rest in memory or on the disk and come to the device to be run: accelerate's hooks."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qwen35.errors import DoesNotFit
from qwen35.weights.placement_torch import TorchPlacement, block_of
from qwen35.weights.tiles import LINE, round_up

if TYPE_CHECKING:
    from qwen35.weights.load import Piece


class BlocksOnDisk(Mapping[str, Tensor]):
    """Parameters by name, each read from the checkpoint whenever it is asked for.

    All blocks share one piece of memory, as large as the largest: a tensor is good until one of another
    block is asked for. Reading raises CheckpointError.
    """

    def __init__(self, parameters: Mapping[str, Tensor], pieces: Iterable["Piece"]) -> None:
        """`parameters`, on the meta device, have shape and dtype."""
        self._parameters = dict(parameters)
        self._pieces: dict[str, list[Piece]] = {name: [] for name in parameters}
        for piece in pieces:
            if piece.parameter in self._pieces:
                self._pieces[piece.parameter].append(piece)
        self._offsets: dict[str, int] = {}
        ends: dict[str, int] = {}
        for name, parameter in parameters.items():
            self._offsets[name] = ends.get(block_of(name), 0)
            ends[block_of(name)] = self._offsets[name] + round_up(parameter.nbytes, LINE)
        self._memory = torch.empty(max(ends.values(), default=0), dtype=torch.uint8)

    def __getitem__(self, name: str) -> Tensor:
        parameter, offset = self._parameters[name], self._offsets[name]
        memory = self._memory[offset : offset + parameter.nbytes]
        tensor = memory.view(parameter.dtype).view(parameter.shape)
        for piece in self._pieces[name]:
            piece.fill(tensor[piece.index])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def attach_hooks(
    model: nn.Module, placement: TorchPlacement, device: str | torch.device, pieces: Iterable["Piece"]
) -> None:
    """Have each block that rests elsewhere brought to `device` before it is run, and let go after.

    Parameters of blocks on the disk are on the meta device. Raises DoesNotFit where accelerate is missing.
    """
    try:
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
        from accelerate.utils import PrefixedDataset
    except ImportError as error:
        raise DoesNotFit(
            f"This model does not fit, and accelerate, which would leave parts of it on the disk, cannot be "
            f"loaded ({error}). Install it: pip install accelerate"
        ) from None

    class Hook(AlignDevicesHook):
        # Without their wrapper, which imports torch's compiler: 3 s and 74 MB.
        pre_forward = inspect.unwrap(AlignDevicesHook.pre_forward)
        post_forward = inspect.unwrap(AlignDevicesHook.post_forward)

    parameters = {name: p for name, p in model.named_parameters() if p.is_meta}
    on_disk = BlocksOnDisk(parameters, pieces)
    for block in placement.blocks:
        if block.where == placement.device:
            continue
        weights = PrefixedDataset(on_disk, f"{block.name}.") if block.where == "disk" else None
        hook = Hook(device, offload=True, weights_map=weights, place_submodules=True)
        add_hook_to_module(model.get_submodule(block.name), hook)
