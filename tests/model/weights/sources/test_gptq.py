"""GPTQ modules written bit by bit from the format's definition, and read back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from qwen35.errors import CheckpointError
from qwen35.weights.pack import pack
from qwen35.weights.source import Files, Grouped
from qwen35.weights.sources.gptq import tensors_of
from qwen35.weights.sources.open import files_of, open_source
from tests.model.weights.sources.mini import (
    Floats,
    assert_packed,
    mini_arrays,
    single_experts,
    stored,
    write_folder,
)

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Way:
    bits: int = 4
    group: int = 128
    is_symmetric: bool = True
    layout: str = "gptq"
    act_order: bool = False
    scale_dtype: torch.dtype = torch.float16

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group,
            "sym": self.is_symmetric,
            "desc_act": self.act_order,
            "checkpoint_format": self.layout,
        }


def words(numbers: Numbers, bits: int) -> torch.Tensor:
    """Numbers (n, k) packed along their first axis, the first in the low bits."""
    each = 32 // bits
    padded = np.zeros((-(-len(numbers) // each) * each, numbers.shape[1]), np.int64)
    padded[: len(numbers)] = numbers
    packed = np.zeros((len(padded) // each, numbers.shape[1]), np.int64)
    for i in range(each):
        packed |= padded[i::each] << bits * i
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


def module(w: Floats, way: Way, seed: int = 0) -> tuple[dict[str, torch.Tensor], Floats]:
    """The tensors of a module with the weight `w` (out, in), and what they stand for."""
    rng = np.random.default_rng(seed)
    out, inputs = w.shape
    group = way.group if way.group > 0 else inputs
    groups = -(-inputs // group)
    order = np.arange(inputs) // group
    if way.act_order:
        order = rng.permutation(order)
    half = 1 << way.bits - 1
    scales = np.zeros((groups, out), np.float32)
    for g in range(groups):
        scales[g] = abs(w[:, order == g]).max(1) / (half - 1) + 1e-3
    stored = torch.from_numpy(scales).to(way.scale_dtype)
    scales = stored.float().numpy()
    shape = groups, out
    zeros = np.full(shape, half) if way.is_symmetric else rng.integers(half - 2, half + 3, shape)
    q = np.clip(np.round(w.T / scales[order]) + zeros[order], 0, 2 * half - 1).astype(np.int64)  # (in, out)
    tensors = {
        "qweight": words(q, way.bits),
        "qzeros": words((zeros - (way.layout == "gptq")).T, way.bits).T.contiguous(),
        "scales": stored,
        "g_idx": torch.from_numpy(order.astype(np.int32)),
    }
    return tensors, (scales[order] * (q - zeros[order])).T.astype(np.float32)


def read_module(folder: Path, tensors: dict[str, torch.Tensor], way: Way) -> tuple[Files, Any]:
    folder.mkdir()
    save_file({f"m.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    files = files_of(folder)
    found, taken = tensors_of(files, way.settings)
    assert taken >= files.tensors.keys()
    return files, found["m.weight"]


WAYS = {
    "symmetric": (Way(), "q4"),
    "v2": (Way(layout="gptq_v2"), "q4"),
    "bf16 scales": (Way(scale_dtype=torch.bfloat16, group=32), "q4"),
    "one group": (Way(group=-1), "q4"),
    "asymmetric": (Way(is_symmetric=False), "q8"),
    "asymmetric v2": (Way(is_symmetric=False, layout="gptq_v2"), "q8"),
    "act-order": (Way(act_order=True), None),
    "8 bits": (Way(bits=8), "q8"),
    "8 bits, asymmetric": (Way(bits=8, is_symmetric=False), "q8"),
}


@pytest.mark.parametrize("name", WAYS)
def test_values(tmp_path: Path, name: str) -> None:
    way, exact_in = WAYS[name]
    w = (np.random.default_rng(1).standard_normal((40, 256)) * 0.05).astype(np.float32)
    tensors, expected = module(w, way)

    files, tensor = read_module(tmp_path / "m", tensors, way)

    assert (tensor.shape, tensor.exact_in) == ((40, 256), exact_in)
    for begin, end in ((0, 40), (0, 16), (16, 40), (32, 33)):
        rows = tensor.read(files.read_into, 256, begin, end)
        assert isinstance(rows, Grouped) == (name not in ("act-order", "8 bits, asymmetric"))
        values = rows.to_float32() if isinstance(rows, Grouped) else rows
        assert np.array_equal(values, expected[begin:end])


def test_order_without_the_setting_is_found_in_the_data(tmp_path: Path) -> None:
    way = Way(act_order=True)
    tensors, expected = module(np.eye(32, 256, dtype=np.float32), way)

    files, tensor = read_module(tmp_path / "m", tensors, replace(way, act_order=False))

    assert np.array_equal(tensor.read(files.read_into, 256, 0, 32), expected)


def test_columns_come_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, expected = module(np.random.default_rng(2).normal(size=(96, 128)).astype("f"), Way())
    monkeypatch.setattr("qwen35.weights.sources.packed_words._STRIP_BYTES", 16 * 4 * 24)

    files, tensor = read_module(tmp_path / "m", tensors, Way())

    for begin in range(0, 96, 16):
        rows = tensor.read(files.read_into, 128, begin, begin + 16)
        assert np.array_equal(rows.to_float32(), expected[begin : begin + 16])


def test_mini_with_experts_in_gptq(tmp_path: Path) -> None:
    """As the official checkpoints have it: the routed experts alone, the MTP layer's not."""
    way = Way(group=32)
    tensors, expected, exact = {}, {}, set()
    for name, array in single_experts(mini_arrays()).items():
        if ".mlp.experts." in name and not name.startswith("mtp."):
            parts, expected[name] = module(array, way)
            tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
            exact.add(name)
        else:
            tensors[name], expected[name] = stored(name, array), array
    folder = write_folder(tmp_path / "mini-gptq", tensors, way.settings)

    for quant in ("q4", "q8"):
        packed = pack(folder, tmp_path / quant, quant)  # type: ignore[arg-type]

        assert_packed(packed.folder, expected, exact)
        assert packed.manifest.source.dtype == "GPTQ BF16"  # most of mini's weights
        assert {entry.format for name, entry in packed.manifest.experts.items() if "mtp" not in name} == {
            "q4"
        }
        assert [(e.encoding, e.relative_error) for e in packed.manifest.imports.values()] == [
            ("GPTQ-Int4", 0.0)
        ] * 4


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    tensors, _ = module(np.eye(32, 256, dtype=np.float32), Way())
    cases: list[tuple[str, dict[str, torch.Tensor], dict[str, Any], str]] = [
        ("bits", tensors, {"bits": 3}, "GPTQ in 3 bits; supported: 4 and 8"),
        (
            "layout",
            tensors,
            {"checkpoint_format": "marlin"},
            "'marlin' is not known; supported: gptq, gptq_v2",
        ),
        (
            "group",
            tensors,
            {"group_size": 64},
            r"'m.scales' is \[2, 32\], expected \[4, 32\] in 4 bits and groups",
        ),
        ("half", {k: v for k, v in tensors.items() if k != "scales"}, {}, "'m.qweight' has no 'm.scales'"),
    ]
    for name, some, changed, reason in cases:
        (tmp_path / name).mkdir()
        save_file({f"m.{key}": tensor for key, tensor in some.items()}, tmp_path / name / "model.safetensors")
        with pytest.raises(CheckpointError, match=reason):
            tensors_of(files_of(tmp_path / name), Way().settings | changed)


def test_the_method_in_a_file_of_its_own(tmp_path: Path) -> None:
    import json

    tensors, _ = module(np.zeros((32, 256), np.float32), Way())
    folder = write_folder(tmp_path / "old", {f"m.{name}": tensor for name, tensor in tensors.items()})
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128, "sym": True}))

    assert open_source(folder).tensors["m.weight"].encoding == "GPTQ-Int4"
