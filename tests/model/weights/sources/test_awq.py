from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen35.errors import CheckpointError
from qwen35.weights.pack import pack
from qwen35.weights.source import Grouped
from qwen35.weights.sources.awq import tensors_of
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

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight outputs each nibble of a word is of


def settings(group: int) -> dict[str, object]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}


def words(numbers: np.ndarray) -> torch.Tensor:
    """Numbers (rows, outputs) packed eight outputs to a word."""
    packed = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.int64)
    for nibble, output in enumerate(ORDER):
        packed |= numbers[:, output::8] << 4 * nibble
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


def module(w: Floats, group: int) -> tuple[dict[str, torch.Tensor], Floats]:
    """The tensors of a module with the weight `w` (out, in), and what they stand for."""
    out, inputs = w.shape
    blocks = w.reshape(out, -1, group)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)  # (out, groups)
    scales = torch.from_numpy(np.maximum((high - low) / 15, 1e-4).astype(np.float16))
    s = scales.float().numpy()
    zeros = np.clip(np.round(-low / s), 0, 15).astype(np.int64)
    q = np.clip(np.round(blocks / s[..., None]) + zeros[..., None], 0, 15).astype(np.int64)
    expected = ((q - zeros[..., None]) * s[..., None]).reshape(out, inputs).astype(np.float32)
    tensors = {
        "qweight": words(q.reshape(out, inputs).T),
        "qzeros": words(zeros.T),
        "scales": scales.T.contiguous(),
    }
    return tensors, expected


def test_values(tmp_path: Path) -> None:
    tensors, expected = module(np.random.default_rng(0).normal(size=(48, 256)).astype("f"), 128)
    save_file({f"m.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    files = files_of(tmp_path)

    found, taken = tensors_of(files, settings(128))

    assert taken == files.tensors.keys()
    assert found["m.weight"].shape == (48, 256)
    for begin, end in ((0, 48), (16, 32), (32, 48), (33, 37)):
        rows = found["m.weight"].read(files.read_into, 256, begin, end)
        assert isinstance(rows, Grouped)
        assert np.array_equal(rows.to_float32(), expected[begin:end])


def test_mini_in_awq(tmp_path: Path) -> None:
    tensors, expected, exact = {}, {}, set()
    for name, array in single_experts(mini_arrays()).items():
        if is_linear(name):
            parts, expected[name] = module(array, 32)
            tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
            exact.add(name)
        else:
            tensors[name], expected[name] = stored(name, array), array
    folder = write_folder(tmp_path / "mini-awq", tensors, settings(32))

    whole, rounded = pack(folder, tmp_path / "q8", "q8"), pack(folder, tmp_path / "q4")

    assert_packed(whole.folder, expected, exact)
    assert_packed(rounded.folder, expected)
    assert {entry.relative_error for entry in whole.manifest.imports.values()} == {0.0}
    assert all(0.02 < entry.relative_error < 0.15 for entry in rounded.manifest.imports.values())
    assert rounded.manifest.quant == "q4"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    tensors, _ = module(np.zeros((8, 32), np.float32), 32)
    save_file({f"m.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")

    for changed, reason in (
        ({"version": "gemv"}, "AWQ in 4 bits, layout 'gemv', groups of 32; supported: 4 bits, 'gemm'"),
        ({"bits": 8}, "AWQ in 8 bits"),
        ({"group_size": 16}, r"'m.scales' and 'm.qzeros' are \[\[1, 8\], \[1, 1\]\], expected \[\[2, 8\]"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            tensors_of(files_of(tmp_path), settings(32) | changed)
