import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwen35.errors import CheckpointError
from qwen35.weights.checkpoint import SINGLE_FILE, Checkpoint

LAYER = "model.language_model.layers.0."


@pytest.mark.parametrize(
    ("name", "tensor", "format_name"),
    [
        ("mlp.up_proj.weight_scale_inv", torch.ones(1, 1), "FP8"),
        ("mlp.up_proj.qweight", torch.ones(2, 2, dtype=torch.int32), "GPTQ or AWQ"),
        ("mlp.up_proj.weight_packed", torch.ones(2, 2, dtype=torch.int32), "compressed-tensors"),
        ("mlp.up_proj.weight.absmax", torch.ones(2), "bitsandbytes"),
        ("mlp.up_proj.biases", torch.ones(2, 2), "quantised MLX"),
        ("linear_attn.conv1d.weight", torch.ones(10, 4, 1), "MLX"),
    ],
)
def test_formats_that_cannot_be_run_are_named(
    tmp_path: Path, name: str, tensor: torch.Tensor, format_name: str
) -> None:
    save_file({f"{LAYER}norm.weight": torch.ones(2), LAYER + name: tensor}, tmp_path / SINGLE_FILE)

    advice = (
        "Use the model's unquantised"
        if format_name == "bitsandbytes"
        else "Pack them first: qwen models pack"
    )
    expected = f"'{LAYER}{name}' shows {format_name} weights, which cannot be run as they are. {advice}"
    with pytest.raises(CheckpointError, match=expected):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(("dtype", "spelled"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int64, "I64")])
def test_other_types_are_named(tmp_path: Path, dtype: torch.dtype, spelled: str) -> None:
    save_file({"x": torch.ones(2).to(dtype)}, tmp_path / SINGLE_FILE)

    with pytest.raises(
        CheckpointError, match=re.escape(f"'x' has the type {spelled}; supported: BF16, F16, F32")
    ):
        Checkpoint.open(tmp_path)


def test_the_official_convolution_passes(tmp_path: Path) -> None:
    save_file({f"{LAYER}linear_attn.conv1d.weight": torch.ones(10, 1, 4)}, tmp_path / SINGLE_FILE)

    assert len(Checkpoint.open(tmp_path).tensors) == 1
