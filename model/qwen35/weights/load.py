"""Fill the network from a checkpoint: every parameter once, from every tensor, one at a time.

What is missing, unknown or misshapen shows in the headers, so it is said before any data is read.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.network.model import Qwen35
from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.header import TensorInfo
from qwen35.weights.names import Place, expert_places, place_of

HEAD = "lm_head.weight"
NUM_NAMED = 5  # tensors of each kind that an error names; the rest are counted


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Qwen35:
    """The model of `folder` in eval mode, its parameters frozen, in `dtype` (None: the file's own).

    `on_progress` hears bytes read and bytes in all, after each tensor. Raises CheckpointError.
    """
    checkpoint = Checkpoint.open(folder)
    config = config_for(checkpoint, config)
    with _NoInit(), torch.device("meta"):
        model = Qwen35(config)
    assert not list(model.buffers()), "a buffer would stay empty"
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    places = plan(checkpoint, shapes, is_tied=config.tie_word_embeddings)
    for name, parameter in model.named_parameters():
        # exp(A_log) is taken in float32: rounding it first would change every decay.
        if not name.endswith(".A_log"):
            parameter.data = parameter.data.to(dtype or getattr(torch, config.dtype))
    model.to_empty(device=device).requires_grad_(False)
    parameters = dict(model.named_parameters())
    sizes = {name: checkpoint.tensors[name].size_bytes for name in places}
    # One for all that is cast or moved: buffers that come and go leave holes in the heap. Where
    # nothing is, its pages are never touched and cost nothing.
    scratch = torch.empty(max(sizes.values()), dtype=torch.uint8)
    num_read = 0
    for name, place in places.items():
        parameter = parameters[place.parameter]
        _fill(parameter[place.index(shapes[place.parameter])], checkpoint, name, scratch)
        num_read += sizes[name]
        if on_progress:
            on_progress(num_read, sum(sizes.values()))
    return model.eval()


def config_for(checkpoint: Checkpoint, config: ModelConfig) -> ModelConfig:
    """`config` with the MTP module that the files hold: re-saves often drop it and keep the key."""
    has_mtp = any(place_of(name).parameter.startswith("mtp.") for name in checkpoint.tensors)
    return replace(config, text=replace(config.text, num_mtp_layers=int(has_mtp)))


def plan(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], *, is_tied: bool) -> dict[str, Place]:
    """Where each tensor to be read goes, in the order in which they lie in the files.

    `shapes` are those of the parameters. The head of a tied model is the embedding: a copy of it in
    the files is left unread. Raises one CheckpointError for all that does not fit.
    """
    names: dict[Place, str] = {}
    unknown = []
    for name in sorted(checkpoint.tensors, key=lambda name: _position(checkpoint.tensors[name])):
        place = place_of(name)
        if is_tied and place.parameter == HEAD:
            continue
        if place in names:
            unknown.append(f"{name} (the same as {names[place]})")
        names.setdefault(place, name)
    wanted = _wanted_places(shapes, names)
    missing = [str(place) for place in wanted if place not in names]
    misshapen = []
    for place, name in names.items():
        found, expected = checkpoint.tensors[name].shape, wanted.get(place)
        if expected is None:
            unknown.append(name)
        elif found != expected:
            misshapen.append(f"{name} is {list(found)}, expected {list(expected)}")
    problems = [
        f"{len(cases)} {kind}: {', '.join(cases[:NUM_NAMED])}{', ...' if len(cases) > NUM_NAMED else ''}"
        for kind, cases in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if cases
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint.folder}: the weight files do not fit config.json. Tensors {'; '.join(problems)}.",
            path=str(checkpoint.folder),
        )
    return {name: place for place, name in names.items()}


def _wanted_places(
    shapes: Mapping[str, tuple[int, ...]], found: Container[Place]
) -> dict[Place, tuple[int, ...]]:
    """Every place to fill and its shape. A fused parameter is filled whole, unless its experts were found."""
    wanted: dict[Place, tuple[int, ...]] = {}
    for parameter, shape in shapes.items():
        pieces = list(expert_places(parameter, shape))
        if Place(parameter) in found or not any(piece in found for piece in pieces):
            pieces = [Place(parameter)]
        wanted |= {place: place.shape(shape) for place in pieces}
    return wanted


def _position(info: TensorInfo) -> tuple[Path, int]:
    return info.path, info.begin


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
