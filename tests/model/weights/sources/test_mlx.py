from pathlib import Path

import numpy as np
import pytest
import torch

from qwen35.errors import CheckpointError
from qwen35.weights.pack import pack
from qwen35.weights.sources.open import open_source
from tests.model.weights.sources.mini import (
    Floats,
    assert_packed,
    is_linear,
    mini_arrays,
    stored,
    write_folder,
)

NORMS = (".input_layernorm.weight", ".post_attention_layernorm.weight", ".q_norm.weight", ".k_norm.weight")


def convert(arrays: dict[str, Floats]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """As the re-saves have it, by their names, without MTP; and what that stands for, by official names."""
    converted, expected = {}, {}
    for name, array in arrays.items():
        if name.startswith("mtp."):
            continue
        expected[name] = array
        place = name.replace("model.language_model.", "language_model.model.").replace(
            "model.visual.", "vision_tower."
        )
        if name.endswith(NORMS) or name == "model.language_model.norm.weight":
            array = stored(name, array + 1).float().numpy()
            expected[name] = array - 1
        if name.endswith("conv1d.weight"):
            array = np.moveaxis(array, 2, 1)
        if name.endswith("patch_embed.proj.weight"):
            array = np.moveaxis(array, 1, 4)
        head, experts, kind = place.partition(".mlp.experts.")
        if kind == "gate_up_proj":
            gate, up = np.split(array, 2, axis=1)
            converted |= {
                f"{head}.mlp.switch_mlp.gate_proj.weight": gate,
                f"{head}.mlp.switch_mlp.up_proj.weight": up,
            }
        else:
            converted[f"{head}.mlp.switch_mlp.down_proj.weight" if experts else place] = array
    return converted, expected


def test_an_unquantised_re_save_is_the_original(tmp_path: Path) -> None:
    converted, expected = convert(mini_arrays())
    folder = write_folder(
        tmp_path / "mini-mlx", {name: stored(name, array) for name, array in converted.items()}
    )

    packed = pack(folder, tmp_path / "packed", "q8")

    assert packed.manifest.source.dtype == "MLX BF16"
    assert packed.manifest.imports == {}
    assert_packed(packed.folder, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_affine_groups(tmp_path: Path, bits: int) -> None:
    converted, expected = convert(mini_arrays())
    tensors: dict[str, torch.Tensor] = {}
    for name, array in converted.items():
        official = name.replace("language_model.model.", "model.language_model.").replace(
            "switch_mlp", "experts"
        )
        if not is_linear(official) or "visual" in name:
            tensors[name] = stored(name, array)
            continue
        module = name.removesuffix(".weight")
        blocks = array.reshape(*array.shape[:-1], -1, 32)
        low = torch.from_numpy(blocks.min(-1)).to(torch.bfloat16).float()
        scale = torch.from_numpy(np.ptp(blocks, -1) / (2**bits - 1) + 1e-6).to(torch.bfloat16).float()
        q = (torch.from_numpy(blocks) - low[..., None]) / scale[..., None]
        q = q.round().clip(0, 2**bits - 1).to(torch.int64)
        stands_for = (q * scale[..., None] + low[..., None]).reshape(array.shape).numpy()
        each = 32 // bits
        packed = (q.reshape(*array.shape[:-1], -1, each) << torch.arange(each) * bits).sum(-1)
        tensors[name] = packed.to(torch.uint32)
        tensors[f"{module}.scales"], tensors[f"{module}.biases"] = scale.bfloat16(), low.bfloat16()
        head, experts, projection = official.partition(".mlp.experts.")
        if experts and projection.startswith("down"):
            expected[f"{head}.mlp.experts.down_proj"] = stands_for
        elif experts:
            whole = expected[f"{head}.mlp.experts.gate_up_proj"] = expected[
                f"{head}.mlp.experts.gate_up_proj"
            ].copy()
            half = whole.shape[1] // 2
            np.copyto(whole[:, :half] if projection.startswith("gate") else whole[:, half:], stands_for)
        else:
            expected[official] = stands_for
    folder = write_folder(tmp_path / "mini-mlx", tensors, {"group_size": 32, "bits": bits})

    done = pack(folder, tmp_path / "packed", "q8")

    assert {entry.encoding for entry in done.manifest.imports.values()} == {f"MLX-{bits}bit"}
    assert_packed(done.folder, expected)


def test_other_widths_are_refused(tmp_path: Path) -> None:
    converted, _ = convert(mini_arrays())
    tensors = {name: stored(name, array) for name, array in converted.items()}
    name = "language_model.model.layers.0.linear_attn.out_proj"
    tensors[f"{name}.weight"] = torch.zeros(128, 12, dtype=torch.uint32)
    tensors |= {f"{name}.{part}": torch.zeros(128, 4) for part in ("scales", "biases")}
    folder = write_folder(tmp_path / "mini-mlx", tensors, {"group_size": 32, "bits": 3})

    with pytest.raises(
        CheckpointError, match=r"MLX's affine format of 3 bits; supported: affine, of 4 or 8 bits"
    ):
        open_source(folder)
