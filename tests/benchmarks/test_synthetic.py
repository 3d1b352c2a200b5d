"""The models that benchmarks write: true to the formats that are read, the same shape for every engine."""

import struct
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from benchmarks.peers import Shape
from benchmarks.synthetic import SIZES, TINY_SIZES, bfloat16, tensors
from benchmarks.synthetic_gguf import BLOCK_TYPES, gguf_tensors, write_gguf
from benchmarks.synthetic_packed import RECIPES, write_packed
from qwen35.weights.packed import PackedModel
from qwen35.weights.verify import verify

SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}


def read_scalar(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return file.read(read_scalar(file, 10)).decode()
    return struct.unpack(SCALARS[kind], file.read(struct.calcsize(SCALARS[kind])))[0]


def read_value(file: BinaryIO) -> Any:
    kind = read_scalar(file, 4)
    if kind != 9:
        return read_scalar(file, kind)
    kind, count = read_scalar(file, 4), read_scalar(file, 10)
    return [read_scalar(file, kind) for _ in range(count)]


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, bytes]]]:
    """Metadata, and each tensor's dimensions, type and bytes, as the format's specification says."""
    names = {block.number: block for block in BLOCK_TYPES.values()}
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
        version, num_tensors, num_keys = struct.unpack("<IQQ", file.read(20))
        assert version == 3
        keys = {read_scalar(file, 8): read_value(file) for _ in range(num_keys)}
        infos = {}
        for _ in range(num_tensors):
            name, rank = read_scalar(file, 8), read_scalar(file, 4)
            shape = tuple(read_scalar(file, 10) for _ in range(rank))
            infos[name] = shape, read_scalar(file, 4), read_scalar(file, 10)
        start = -(-file.tell() // 32) * 32
        found = {}
        for name, (shape, number, offset) in infos.items():
            assert offset % 32 == 0
            file.seek(start + offset)
            block = names[number]
            found[name] = shape, number, file.read(prod(shape) // block.values * block.size_bytes)
        assert not file.read(32).strip(b"\0")
    return keys, found


@pytest.mark.parametrize("name", TINY_SIZES)
def test_a_packed_model_is_whole_and_its_weights_have_the_mean_zero(tmp_path: Path, name: str) -> None:
    write_packed(TINY_SIZES[name], tmp_path / name, RECIPES["default"])
    verify(tmp_path / name)
    with PackedModel.open(tmp_path / name) as model:
        for matrix in (
            "language_model.layers.0.linear_attn.in_proj_qkv.weight",
            "language_model.embed_tokens.weight",
        ):
            weights = model.dequantised(matrix)
            assert abs(weights.mean()) < 2e-4
            assert weights.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", TINY_SIZES)
def test_all_q4_leaves_8_bits_to_the_gates_and_the_tower_alone(tmp_path: Path, name: str) -> None:
    write_packed(TINY_SIZES[name], tmp_path / name, RECIPES["all-q4"])
    with PackedModel.open(tmp_path / name) as model:
        wide = [key for key, tensor in model.manifest.tensors.items() if tensor.format == "q8"]
    assert all(key.startswith("visual.") or "in_proj_a" in key or "in_proj_b" in key for key in wide)


@pytest.mark.parametrize("name", TINY_SIZES)
def test_a_gguf_file_holds_what_its_header_says(tmp_path: Path, name: str) -> None:
    size = TINY_SIZES[name]
    write_gguf(size, tmp_path / "model.gguf", "Q8_0")
    keys, found = read_gguf(tmp_path / "model.gguf")
    arch = keys["general.architecture"]
    assert arch == ("qwen35moe" if size.num_experts else "qwen35")
    assert keys[f"{arch}.block_count"] == size.num_layers
    assert len(keys["tokenizer.ggml.tokens"]) == len(set(keys["tokenizer.ggml.tokens"])) == size.vocab_size
    assert len(keys["tokenizer.ggml.token_type"]) == size.vocab_size
    shape, number, data = found["token_embd.weight"]
    assert (shape, number) == ((size.hidden_size, size.vocab_size), BLOCK_TYPES["Q8_0"].number)
    shape, number, data = found["blk.0.attn_qkv.weight"]
    assert (shape[0], number) == (size.hidden_size, BLOCK_TYPES["Q4_0"].number)
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 18)
    nibbles = np.stack([blocks[:, 2:] & 15, blocks[:, 2:] >> 4]).astype(int) - 8
    assert abs(nibbles.mean()) < 0.05
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    assert (nibbles * scales).std() == pytest.approx(0.02, rel=0.1)
    decay = np.frombuffer(found["blk.0.ssm_a"][2], np.float32)
    assert (decay < 0).all()


@pytest.mark.parametrize("name", SIZES)
def test_a_gguf_file_has_the_parameters_of_the_official_text_model(name: str) -> None:
    size = replace(SIZES[name], has_mtp=False)
    official = sum(prod(shape) for key, shape in tensors(size) if not key.startswith("model.visual."))
    assert sum(prod(tensor.shape) for tensor in gguf_tensors(size, "Q4_0")) == official


def test_35b_has_12_layers_unless_told_otherwise() -> None:
    assert Shape.of("35b-a3b", None).size.num_layers == 12
    assert "12 of 40 layers" in Shape.of("35b-a3b", None).title
    assert Shape.of("35b-a3b", 40).size.num_layers == 40
    assert "of" not in Shape.of("0.8b", None).title.partition("0.8B")[2]


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.5e-3], np.float32)
    assert bfloat16(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBB24]
