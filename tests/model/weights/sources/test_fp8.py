import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen35.errors import CheckpointError
from qwen35.weights.checkpoint import SINGLE_FILE
from qwen35.weights.pack import pack
from qwen35.weights.sources.fp8 import DECODED
from qwen35.weights.sources.open import open_source
from tests.model.weights.sources.mini import (
    Floats,
    assert_packed,
    is_linear,
    mini_arrays,
    single_experts,
    stored,
    write_folder,
)

BLOCK = 128
SETTINGS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


def quantise(w: Floats, scale_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Floats]:
    """Codes, the scales of blocks, and what both stand for."""
    n, k = w.shape
    scales = np.zeros((-(-n // BLOCK), -(-k // BLOCK)), np.float32)
    for i, j in np.ndindex(scales.shape):
        scales[i, j] = abs(w[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]).max() / 448
    stored = torch.from_numpy(scales).to(scale_dtype)
    spread = np.kron(stored.float().numpy(), np.ones((BLOCK, BLOCK), np.float32))[:n, :k]
    codes = (torch.from_numpy(w) / torch.from_numpy(spread)).to(torch.float8_e4m3fn)
    return codes, stored, codes.float().numpy() * spread


def write_mini(folder: Path) -> tuple[Path, dict[str, Floats]]:
    tensors, expected = {}, {}
    for name, array in single_experts(mini_arrays()).items():
        if is_linear(name):
            tensors[name], tensors[f"{name}_scale_inv"], expected[name] = quantise(array, torch.bfloat16)
        else:
            tensors[name], expected[name] = stored(name, array), array
    return write_folder(folder, tensors, SETTINGS), expected


def test_every_code_is_decoded_as_torch_does() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for name, dtype in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        expected = codes.view(dtype).float().numpy()
        finite = np.isfinite(expected)
        assert np.array_equal(DECODED[name][finite], expected[finite])
        assert np.isnan(DECODED[name][~finite]).all()


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32])
def test_blocks_at_odd_edges(tmp_path: Path, scale_dtype: torch.dtype) -> None:
    name = "model.language_model.layers.0.linear_attn.in_proj_qkv.weight"
    codes, scales, expected = quantise(
        np.random.default_rng(0).normal(size=(300, 200)).astype("f"), scale_dtype
    )
    folder, _ = write_mini(tmp_path / "fp8")
    tensors = load_file(folder / SINGLE_FILE) | {name: codes, f"{name}_scale_inv": scales}
    save_file(tensors, folder / SINGLE_FILE)

    source = open_source(folder)

    tensor = source.tensors[name]
    assert (tensor.shape, tensor.encoding, tensor.exact_in) == ((300, 200), "FP8", None)
    for begin, end in ((0, 300), (120, 140), (256, 300), (299, 300)):
        assert np.array_equal(tensor.read(source.read_into, 200, begin, end), expected[begin:end])


def test_mini_in_fp8(tmp_path: Path) -> None:
    folder, expected = write_mini(tmp_path / "mini-fp8")

    packed = pack(folder, tmp_path / "packed", "q8")

    assert packed.manifest.source.dtype == "FP8"
    assert {entry.encoding for entry in packed.manifest.imports.values()} == {"FP8"}
    assert_packed(packed.folder, expected)


def test_transformers_reads_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, FineGrainedFP8Config

    folder, expected = write_mini(tmp_path / "mini-fp8")
    settings = FineGrainedFP8Config(dequantize=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=settings, dtype="float32")
    source = open_source(folder)
    parameters = {name: p.detach().float().numpy() for name, p in model.named_parameters()}

    compared = 0
    for name, tensor in source.tensors.items():
        if tensor.encoding == "FP8" and name in parameters:
            found = tensor.read(source.read_into, tensor.shape[1], 0, tensor.shape[0])
            assert np.allclose(found, parameters[name], rtol=4e-3, atol=0), name  # they round to bf16
            compared += 1
    assert compared > 10
    assert expected.keys() == source.tensors.keys()


def test_other_ways_of_fp8_are_refused(tmp_path: Path) -> None:
    folder, _ = write_mini(tmp_path / "fp8")
    tensors = load_file(folder / SINGLE_FILE)
    name = next(name for name in tensors if name.endswith("_scale_inv"))
    save_file({**tensors, name: tensors[name][:, :1].repeat(1, 3)}, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=rf"'{name}' is .*, expected .* in blocks of 128 x 128"):
        open_source(folder)

    save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=r"is FP8 without the scales of its blocks .* or the bf16 ones"):
        open_source(folder)

    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"quantised by 'bitsandbytes', which cannot be read \(supported: FP8"
    ):
        open_source(folder)
