"""The true shapes of the family: counted on the meta device, and two of them written, loaded and run."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.synthetic import SIZES, config_json, tensors, write_checkpoint
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35

# As the reference document prints them: text, vision with merger, MTP, total.
PRINTED = {
    "0.8b": ("0.752B", "100.6M", "20.5M", "0.873B"),
    "2b": ("1.882B", "331.4M", "60.8M", "2.274B"),
    "4b": ("4.206B", "333.5M", "120.6M", "4.660B"),
    "9b": ("8.954B", "456.0M", "243.3M", "9.653B"),
    "27b": ("26.896B", "460.7M", "424.7M", "27.781B"),
    "35b-a3b": ("34.661B", "446.6M", "844.6M", "35.952B"),
    "122b-a10b": ("122.112B", "451.3M", "2523.7M", "125.086B"),
    "397b-a17b": ("396.346B", "456.0M", "6595.6M", "403.398B"),
}
# Text with head, vision, MTP.
NUM_TENSORS = {
    "0.8b": (320, 153, 15),
    "2b": (320, 297, 15),
    "4b": (426, 297, 15),
    "9b": (427, 333, 15),
    "27b": (851, 333, 15),
    "35b-a3b": (693, 333, 785),
    "122b-a10b": (831, 333, 785),
    "397b-a17b": (1038, 333, 1553),
}
WORKING_MEMORY = 1.5e9  # bytes beside the weights: torch itself, activations, one tensor in flight


def printed(num_parameters: dict[str, int]) -> tuple[str, str, str, str]:
    text, vision, mtp = (num_parameters[part] for part in ("text", "vision", "mtp"))
    total = text + vision + mtp
    return f"{text / 1e9:.3f}B", f"{vision / 1e6:.1f}M", f"{mtp / 1e6:.1f}M", f"{total / 1e9:.3f}B"


def part_of(name: str) -> str:
    first = name.removeprefix("model.").split(".")[0]
    return {"visual": "vision", "mtp": "mtp"}.get(first, "text")


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_as_many_as_the_reference_prints(name: str) -> None:
    config = ModelConfig.from_dict(config_json(SIZES[name]), "config.json")
    with torch.device("meta"):
        model = Qwen35(config)
    counts = dict.fromkeys(("text", "vision", "mtp"), 0)
    for parameter_name, parameter in model.named_parameters():
        counts[part_of(parameter_name)] += parameter.numel()
    assert printed(counts) == PRINTED[name]


@pytest.mark.parametrize("name", SIZES)
def test_synthetic_checkpoints_hold_the_official_tensors(name: str) -> None:
    counts, num_tensors = (
        dict.fromkeys(("text", "vision", "mtp"), 0),
        dict.fromkeys(("text", "vision", "mtp"), 0),
    )
    for tensor_name, shape in tensors(SIZES[name]):
        counts[part_of(tensor_name)] += math.prod(shape)
        num_tensors[part_of(tensor_name)] += 1
    assert printed(counts) == PRINTED[name]
    assert tuple(num_tensors.values()) == NUM_TENSORS[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("0.8b", {}), ("35b-a3b", {"num_layers": 4, "has_mtp": False})],
    ids=["0.8B whole", "four layers of 35B-A3B"],
)
def test_a_true_shape_loads_once_and_runs(tmp_path: Path, name: str, changes: dict) -> None:
    """In a process of its own, whose peak memory is that of one copy of the weights."""
    size = replace(SIZES[name], **changes)
    write_checkpoint(size, tmp_path)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "tests.model.run_true_shape", str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        for shard in tmp_path.glob("*.safetensors"):
            shard.unlink()  # gigabytes: not left to pytest, which keeps its last three folders
    found = json.loads(result.stdout)
    num_parameters = sum(math.prod(shape) for _, shape in tensors(size))
    assert found["num_parameters"] == num_parameters
    assert found["is_finite"]
    assert found["spread"] > 0.01
    assert (found["image_tokens"], found["completion_tokens"]) == (8 * 12, 4)
    assert found["peak_bytes"] <= 2 * num_parameters + WORKING_MEMORY
