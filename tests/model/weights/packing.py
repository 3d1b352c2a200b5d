"""What the tests of packing share: checkpoints of any size, and folders compared byte by byte."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE
from qwen35.weights.manifest import read_manifest
from qwen35.weights.packed import packed_config
from qwen35.weights.placement import WORKING_BYTES, place
from qwen35.weights.shapes import parameter_shapes
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import Shape, reference_model

Tensors = dict[str, Tensor]


def tiny_checkpoint(folder: Path, shape: Shape) -> Path:
    folder.mkdir(parents=True)
    write_checkpoint(folder, reference_model(shape), shape)
    return folder


def read_tensors(folder: Path) -> Tensors:
    """By our names, whatever the files call them; experts as they lie there."""
    tensors: Tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    return tensors


def rewrite(folder: Path, tensors: Tensors) -> None:
    """Replace the weight files by a single one, with `tensors` under official names."""
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink(missing_ok=True)
    official = {
        name if name.startswith(("mtp.", "lm_head.")) else f"model.{name}": tensor.contiguous()
        for name, tensor in tensors.items()
    }
    save_file(official, folder / SINGLE_FILE)


def fuse_experts(tensors: Tensors) -> Tensors:
    """From one tensor for each expert's projection to stacks of all."""
    fused = {name: tensor for name, tensor in tensors.items() if ".mlp.experts." not in name}
    prefixes = {name.partition(".experts.")[0] for name in tensors.keys() - fused.keys()}
    for prefix in prefixes:
        if f"{prefix}.experts.gate_up_proj" in tensors:
            parts = ("gate_up_proj", "down_proj")
            fused |= {f"{prefix}.experts.{part}": tensors[f"{prefix}.experts.{part}"] for part in parts}
            continue
        stacks: dict[str, list[Tensor]] = {"gate": [], "up": [], "down": []}
        while f"{prefix}.experts.{len(stacks['gate'])}.gate_proj.weight" in tensors:
            e = len(stacks["gate"])
            for projection, stack in stacks.items():
                stack.append(tensors[f"{prefix}.experts.{e}.{projection}_proj.weight"])
        gate_up = [torch.cat(pair) for pair in zip(stacks["gate"], stacks["up"], strict=True)]
        fused[f"{prefix}.experts.gate_up_proj"] = torch.stack(gate_up)
        fused[f"{prefix}.experts.down_proj"] = torch.stack(stacks["down"])
    return fused


def large_checkpoint(source: Path, folder: Path, **text: int) -> Path:
    """The tiny checkpoint in `source` grown by other sizes of its text model, bf16, fused experts."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors" and path.name != INDEX:
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    config["vision_config"]["out_hidden_size"] = config["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = parameter_shapes(ModelConfig.from_folder(folder))
    tensors = {
        name: (torch.randn(shape, generator=generator) * 0.05).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    rewrite(folder, tensors)
    return folder


def least_ram(folder: Path) -> int:
    """The least --ram with which a packed model runs, to the byte."""
    manifest = read_manifest(folder)
    config = packed_config(folder, manifest)
    low, high = WORKING_BYTES, whole_ram(folder)
    while low < high:
        middle = (low + high) // 2
        try:
            place(manifest, config, ram=middle)
            high = middle
        except DoesNotFit:
            low = middle + 1
    return low


def whole_ram(folder: Path) -> int:
    """The least --ram with which nothing of it stays on the disk."""
    return WORKING_BYTES + read_manifest(folder).data_bytes


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
