"""Weights rounded in place in a plain network, and what that does to each kind of its layers.

For `quality.py`, which prints the table.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import markdown, say
from benchmarks.synthetic import SIZES, TINY_SIZES, write_checkpoint
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.weights.load import load_model
from qwen35.weights.quantize import dequantise
from qwen35.weights.recipe import Recipe
from qwen35.weights.slabs import Quantiser
from qwen35.weights.tiles import F32, TILE_FORMATS, matrix_bytes

NUM_TOKENS, PICTURE = 64, (1, 16, 16)  # what goes through the random model: tokens, and a grid of patches
SHAPES = SIZES | TINY_SIZES
PIECE = 4096  # rows that are rounded at a time: numpy's copies of a whole embedding would be gigabytes

# By the class of the module, in the order of the table.
LAYER_KINDS = {
    "Embedding": "embedding",
    "GatedDeltaNet": "linear attention",
    "GatedAttention": "full attention",
    "MLP": "MLP",
    "SparseMoE": "mixture of experts",
    "VisionAttention": "vision attention",
    "VisionMLP": "vision MLP",
    "PatchMerger": "vision merger",
}

Formats = Callable[[str, tuple[int, ...]], str]  # of a parameter by name and shape: q4, q8 or f32


def default_recipe(name: str, shape: tuple[int, ...]) -> str:
    return Recipe("q4").format_of(name, shape)


def every_matrix(format_name: str) -> Formats:
    """The format for all that the default recipe rounds at all."""
    return lambda name, shape: F32 if default_recipe(name, shape) == F32 else format_name


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All that is a matrix or a stack of them, but for the draft layer, which no answer depends on."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("mtp."):
            yield name, parameter


def as_stack(name: str, parameter: Tensor) -> Tensor:
    """(1, N, K), or (E, N, K) where it holds all experts."""
    return parameter if "experts." in name else parameter.view(1, len(parameter), -1)


def bits_per_weight(model: nn.Module, formats: Formats) -> float:
    """Of all matrices, padding included."""
    num_bits = num_weights = 0
    for name, parameter in matrices(model):
        num_matrices, n, k = as_stack(name, parameter).shape
        num_bits += 8 * num_matrices * matrix_bytes(formats(name, tuple(parameter.shape)), n, k)
        num_weights += parameter.numel()
    return num_bits / num_weights


@contextmanager
def rounded(model: nn.Module, formats: Formats, quantiser: Quantiser) -> Iterator[dict[str, Tensor]]:
    """`model` (float32) with its matrices rounded, meanwhile. Yields what the rounded ones were before."""
    before: dict[str, Tensor] = {}
    try:
        for name, parameter in matrices(model):
            format_name = formats(name, tuple(parameter.shape))
            if format_name != F32:
                before[name] = parameter.clone()
                for matrix in as_stack(name, parameter):
                    for rows in matrix.split(PIECE):
                        rows.copy_(round_rows(rows, format_name, quantiser))
        yield before
    finally:
        for name, values in before.items():
            model.get_parameter(name).copy_(values)


def round_rows(rows: Tensor, format_name: str, quantiser: Quantiser) -> Tensor:
    tiles = quantiser(rows.numpy(), TILE_FORMATS[format_name])
    return torch.from_numpy(dequantise(tiles, format_name, *rows.shape))


@dataclass(frozen=True, slots=True)
class Layer:
    """One module with inputs that it got in a pass, and what it made of them."""

    kind: str
    name: str
    module: nn.Module
    call: Callable[[], Tensor]
    output: Tensor


def compare_layers(shape: str, num_layers: int, work: Path, quantiser: Quantiser) -> str:
    """A table of relative errors by kind of layer on a random checkpoint, written below `work`."""
    size = replace(SHAPES[shape], num_layers=num_layers, has_mtp=False)
    folder = work / "random"
    say(f"writing {num_layers} layers of the {shape} shape")
    write_checkpoint(size, folder)
    model = load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=torch.float32)
    layers = run_and_listen(model)
    rows = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        say(f"errors of {kind}")
        own = [layer for layer in layers if layer.kind == kind]
        cells: list[str] = []
        for formats in (every_matrix("q4"), every_matrix("q8"), default_recipe):
            cells += errors(own, formats, quantiser)
        names = [(f"{layer.name}.{name}", p) for layer in own for name, p in matrices(layer.module)]
        chosen = {default_recipe(name, tuple(p.shape)) for name, p in names} - {F32}
        rows.append([kind, str(len(own)), *cells, "/".join(sorted(chosen))])
    columns = [f"{what} {column}" for column in ("q4", "q8", "default") for what in ("weights", "output")]
    return markdown(("layer", "number", *columns, "default"), rows)


def run_and_listen(model: Qwen35) -> list[Layer]:
    """Random tokens, and a picture of noise, once through the model."""
    layers: list[Layer] = []

    def listen(name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            layers.append(Layer(kind, name, module, lambda: first(module.forward(*args)), first(output)))

        return hook

    handles = [
        module.register_forward_hook(listen(name, LAYER_KINDS[type(module).__name__]))
        for name, module in model.named_modules()
        if type(module).__name__ in LAYER_KINDS and ".mlp.shared_expert" not in name
    ]
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (1, NUM_TOKENS), generator=random)
    hidden, _ = model(ids, torch.arange(NUM_TOKENS).expand(3, 1, -1))
    assert model.visual is not None
    assert model.config.vision is not None
    patches = torch.randn(math.prod(PICTURE), model.config.vision.patch_values, generator=random)
    model.visual(patches, [PICTURE])
    for handle in handles:
        handle.remove()
    head = model.lm_head or model.language_model.embed_tokens
    name = "lm_head" if model.lm_head else "language_model.embed_tokens"
    layers.append(Layer("head", name, head, lambda: model.logits(hidden), model.logits(hidden)))
    return layers


def within(prefix: str, formats: Formats) -> Formats:
    """For the names that a module has for its own parameters."""
    return lambda name, shape: formats(f"{prefix}.{name}", shape)


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def errors(layers: Iterable[Layer], formats: Formats, quantiser: Quantiser) -> tuple[str, str]:
    """Relative errors of all their rounded weights and of all their outputs, as text."""
    weights, outputs = Relative(), Relative()
    for layer in layers:
        own = within(layer.name, formats)
        with rounded(layer.module, own, quantiser) as before:
            outputs.add(layer.output, layer.call())
            for name, values in before.items():
                weights.add(values, layer.module.get_parameter(name))
    return str(weights), str(outputs)


class Relative:
    """The root of the squared differences' sum over that of the squared values. Grows by `add`."""

    def __init__(self) -> None:
        self._error = self._size = 0.0

    def add(self, expected: Tensor, found: Tensor) -> None:
        for a, b in zip(expected.split(PIECE), found.split(PIECE), strict=True):
            self._error += (b - a).double().square().sum().item()
            self._size += a.double().square().sum().item()

    def __str__(self) -> str:
        return f"{math.sqrt(self._error / self._size):.2%}"
