from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen35.errors import CheckpointError
from qwen35.weights.pack import pack
from qwen35.weights.source import Files, Grouped, SourceTensor
from qwen35.weights.sources.compressed_tensors import tensors_of
from qwen35.weights.sources.open import files_of
from tests.model.weights.sources.mini import (
    Floats,
    assert_packed,
    is_linear,
    mini_arrays,
    single_experts,
    stored,
    write_folder,
)


def settings(bits: int, group: int | None, layout: str = "pack-quantized") -> dict[str, Any]:
    weights = {"num_bits": bits, "group_size": group, "symmetric": True, "type": "int"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}


def words(numbers: np.ndarray, bits: int) -> torch.Tensor:
    """Numbers (n, k) packed along their last axis, the first in the low bits."""
    each = 32 // bits
    packed = np.zeros((len(numbers), -(-numbers.shape[1] // each)), np.int64)
    for i in range(each):
        part = numbers[:, i::each]
        packed[:, : part.shape[1]] |= part << bits * i
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


def module(
    w: Floats, bits: int, group: int, *, zeros: bool = False
) -> tuple[dict[str, torch.Tensor], Floats]:
    """The tensors of a module with the weight `w` (out, in), and what they stand for."""
    out, inputs = w.shape
    half = 1 << bits - 1
    blocks = w.reshape(out, -1, group)
    scales = torch.from_numpy(abs(blocks).max(2) / (half - 1)).to(torch.bfloat16)
    s = scales.float().numpy()[..., None]
    zero = np.random.default_rng(0).integers(-2, 3, s.shape) if zeros else np.zeros(s.shape, np.int64)
    q = np.clip(np.round(blocks / s) + zero, -half, half - 1).astype(np.int64)
    tensors = {
        "weight_packed": words(q.reshape(out, inputs) + half, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([out, inputs]),
    }
    if zeros:
        tensors["weight_zero_point"] = words((zero[..., 0] + half).T, bits).T.contiguous()
    return tensors, ((q - zero) * s).reshape(out, inputs).astype(np.float32)


def read_module(
    folder: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]
) -> tuple[Files, SourceTensor]:
    folder.mkdir()
    save_file({f"m.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    files = files_of(folder)
    found, taken = tensors_of(files, values)
    assert taken >= files.tensors.keys()
    return files, found["m.weight"]


def assert_reads(files: Files, tensor: SourceTensor, expected: Floats) -> None:
    assert tensor.shape == expected.shape
    for begin, end in ((0, 40), (16, 32), (33, 40)):
        rows = tensor.read(files.read_into, expected.shape[1], begin, end)
        values = rows.to_float32() if isinstance(rows, Grouped) else rows
        assert np.array_equal(values, expected[begin:end])


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [128, 256])
def test_packed_values(tmp_path: Path, bits: int, group: int, zeros: bool) -> None:
    w = np.random.default_rng(1).normal(size=(40, 256)).astype("f")
    tensors, expected = module(w, bits, group, zeros=zeros)

    files, tensor = read_module(tmp_path / "m", tensors, settings(bits, group if group == 128 else None))

    assert tensor.exact_in == ("q4" if bits == 4 and not zeros else "q8")
    assert_reads(files, tensor, expected)


def test_modules_of_several_widths(tmp_path: Path) -> None:
    """As config.json tells of patterns of names, the widths are told by the modules' own shapes."""
    values = settings(4, 128)
    values["config_groups"]["group_1"] = settings(8, 128)["config_groups"]["group_0"]
    for bits in (4, 8):
        tensors, expected = module(np.random.default_rng(1).normal(size=(40, 256)).astype("f"), bits, 128)
        files, tensor = read_module(tmp_path / str(bits), tensors, values)
        assert_reads(files, tensor, expected)


def test_one_number_a_byte(tmp_path: Path) -> None:
    w = np.random.default_rng(1).normal(size=(40, 256)).astype("f")
    scale = torch.from_numpy(abs(w).max(1, keepdims=True) / 127)
    q = torch.from_numpy(w / scale.numpy()).round().to(torch.int8)
    expected = q.float().numpy() * scale.numpy()
    files, tensor = read_module(
        tmp_path / "int8", {"weight": q, "weight_scale": scale}, settings(8, None, "int-quantized")
    )
    assert tensor.exact_in == "q8"
    assert_reads(files, tensor, expected)

    blocks = torch.from_numpy(np.array([[0.5, 0.25]], np.float32))
    codes = torch.from_numpy(w).to(torch.float8_e4m3fn)
    files, tensor = read_module(
        tmp_path / "fp8", {"weight": codes, "weight_scale": blocks}, settings(8, None, "float-quantized")
    )
    assert_reads(files, tensor, codes.float().numpy() * np.repeat([[0.5, 0.25]], 128, axis=1).astype("f"))


def test_mini_in_compressed_tensors(tmp_path: Path) -> None:
    tensors, expected, exact = {}, {}, set()
    for name, array in single_experts(mini_arrays()).items():
        if is_linear(name) and "linear_attn" not in name:
            parts, expected[name] = module(array, 4, 32)
            tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
            exact.add(name)
        else:
            tensors[name], expected[name] = stored(name, array), array
    folder = write_folder(tmp_path / "mini-ct", tensors, settings(4, 32))

    packed = pack(folder, tmp_path / "packed")

    assert_packed(packed.folder, expected, exact)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    tensors, _ = module(np.ones((8, 64), np.float32), 4, 32)
    with pytest.raises(
        CheckpointError, match=r"the compressed-tensors format 'nvfp4-pack-quantized' cannot be read"
    ):
        read_module(tmp_path / "nvfp4", tensors, settings(4, 32, "nvfp4-pack-quantized"))
    with pytest.raises(
        CheckpointError, match=r"2 scales for 64 rows or columns, in groups that config\.json does"
    ):
        read_module(tmp_path / "group", tensors, settings(4, 16))
    with pytest.raises(CheckpointError, match=r"'m\.weight_packed' is in 2 bits; supported: 4 and 8"):
        read_module(tmp_path / "bits", tensors, settings(2, 32))
    order = {"weight_g_idx": torch.zeros(64, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match=r"'m\.weight_g_idx' shows act-order"):
        read_module(tmp_path / "order", tensors | order, settings(4, 32))
