"""The built-in model as arrays, to be written in some format; and packed models against arrays."""

import json
import shutil
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import qwen35
from qwen35.weights.checkpoint import SINGLE_FILE
from qwen35.weights.manifest import read_manifest
from qwen35.weights.names import place_of
from qwen35.weights.packed import PackedModel

MINI = Path(qwen35.__file__).parent / "builtin" / "mini-bf16"

Floats = NDArray[np.float32]
Arrays = dict[str, Floats]  # by official names

# Of the weights' own size, the root of mean squares: what rounding to a tile format takes. The embedding of
# the built-in model is the worst: 0.0104 in q8, and 0.0117 of what Q4_1 has left of it.
BOUNDS = {"q4": 0.16, "q8": 0.012, "f32": 1e-6}


@cache
def mini_arrays() -> Arrays:
    tensors = load_file(MINI / SINGLE_FILE)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def single_experts(arrays: Mapping[str, Floats]) -> Arrays:
    """Stacks of experts as one tensor for each projection of each."""
    found: Arrays = {}
    for name, array in arrays.items():
        head, _, kind = name.partition(".mlp.experts.")
        if kind not in ("gate_up_proj", "down_proj"):
            found[name] = array
            continue
        for e, matrix in enumerate(array):
            parts = (
                {"down": matrix}
                if kind == "down_proj"
                else dict(zip(("gate", "up"), np.split(matrix, 2), strict=True))
            )
            for projection, part in parts.items():
                found[f"{head}.mlp.experts.{e}.{projection}_proj.weight"] = part
    return found


def is_linear(name: str) -> bool:
    """Of the modules that quantisers take: the text model's matrices, but for routers and small gates."""
    inner = name.partition(".layers.")[2]
    small = (".in_proj_a.", ".in_proj_b.", ".conv1d.", ".mlp.gate.", ".shared_expert_gate.")
    return "_proj" in inner and not any(each in name for each in small)


def write_folder(
    folder: Path, tensors: Mapping[str, torch.Tensor], quantisation: Mapping[str, Any] | None = None
) -> Path:
    """A folder in Hugging Face layout: the built-in model's small files, and these weights."""
    shutil.copytree(MINI, folder, ignore=shutil.ignore_patterns(SINGLE_FILE))
    if quantisation is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": dict(quantisation)}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / SINGLE_FILE)
    return folder


def stored(name: str, array: Floats) -> torch.Tensor:
    """In the type that official files have it in."""
    is_float32 = name.endswith((".A_log", ".linear_attn.norm.weight"))
    return torch.from_numpy(array.copy()).to(torch.float32 if is_float32 else torch.bfloat16)


def assert_packed(folder: Path, expected: Mapping[str, Floats], exact: Collection[str] = ()) -> None:
    """Each of `expected` is in the packed `folder` and nothing else: those in `exact` to the last bit.

    The others went through a rounding of ours, and what the manifest says it took is what it did.
    """
    manifest = read_manifest(folder)
    filled: set[str] = set()
    errors: dict[str, list[tuple[float, float]]] = {}
    with PackedModel.open(folder, load="mmap") as model:
        for name, wanted in single_experts(expected).items():
            place = place_of(name)
            if place.projection is None:
                entry, format_name = place.parameter, manifest.tensors[place.parameter].format
                found = model.dequantised(place.parameter)
            else:
                assert place.expert is not None
                entry = place.parameter.partition(".mlp.experts.")[0]
                format_name = manifest.experts[entry].format
                found = model.dequantised_expert(entry, place.expert, place.projection)
            filled.add(entry)
            assert found.shape == wanted.shape, name
            if name in exact:
                assert np.array_equal(found, wanted), name
            squares = float((wanted.astype(np.float64) ** 2).sum())
            squared_error = float(((found.astype(np.float64) - wanted) ** 2).sum())
            assert squared_error <= BOUNDS[format_name] ** 2 * squares, (name, format_name)
            errors.setdefault(entry, []).append((squared_error, squares))
    assert filled == manifest.tensors.keys() | manifest.experts.keys()
    for entry, told in manifest.imports.items():
        measured = np.sqrt(sum(e for e, _ in errors[entry]) / sum(s for _, s in errors[entry]))
        assert told.relative_error == pytest.approx(measured, rel=0.35, abs=1e-6), (
            entry
        )  # a sample of the rows
