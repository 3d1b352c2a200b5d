"""GGUF files of the built-in model, written by the gguf package, against what that package reads of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.numbers import to_float32
from qwen35.weights.pack import pack
from qwen35.weights.pack_plan import default_quant
from qwen35.weights.source import Grouped
from qwen35.weights.sources.gguf_types import BLOCKS, EXACT, decode
from qwen35.weights.sources.open import open_source
from tests.model.reference import DENSE
from tests.model.weights.packing import large_checkpoint, read_tensors, tiny_checkpoint
from tests.model.weights.sources.gguf_writing import (
    encode,
    matrices_in,
    random_blocks,
    write_gguf,
    write_mmproj,
)
from tests.model.weights.sources.mini import MINI, Arrays, Floats, assert_packed, mini_arrays
from tests.model.weights.test_pack import MEASURE, MODEL

ENDS = json.loads((MINI / "generation_config.json").read_text())["eos_token_id"]


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """The folder of mini in Q8_0 with its mmproj file, and what both stand for."""
    folder = tmp_path_factory.mktemp("gguf")
    _, text = write_gguf(folder / "mini-Q8_0.gguf", mini_arrays(), matrices_in("Q8_0"))
    _, vision = write_mmproj(folder / "mmproj-mini-F16.gguf", mini_arrays())
    return folder, text | vision


@pytest.mark.parametrize("type_name", BLOCKS)
def test_every_type_is_read_as_the_package_reads_it(type_name: str) -> None:
    if type_name in ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_XS"):
        blocks = random_blocks((5, 512), type_name)
    elif type_name == "IQ4_NL":
        blocks = encode(np.random.default_rng(0).normal(size=(5, 512)).astype("f"), "Q4_0")[
            0
        ]  # alike in form
    else:
        blocks = encode(np.random.default_rng(0).normal(size=(5, 512)).astype("f"), type_name)[0]

    rows = decode(type_name, blocks.view(np.uint8))

    assert isinstance(rows, Grouped) == (type_name in EXACT or type_name == "IQ4_XS")
    values = rows.to_float32() if isinstance(rows, Grouped) else to_float32(rows)
    assert np.array_equal(values, gguf.quants.dequantize(blocks, GGMLQuantizationType[type_name]))


@pytest.mark.parametrize(
    ("type_name", "quant"), [("Q4_0", "q4"), ("Q8_0", "q8"), ("Q5_0", "q8"), ("MXFP4", "q8")]
)
def test_whole_numbers_pass_without_a_second_rounding(tmp_path: Path, type_name: str, quant: str) -> None:
    path, expected = write_gguf(tmp_path / f"mini-{type_name}.gguf", mini_arrays(), matrices_in(type_name))

    packed = pack(path, tmp_path / "packed", quant)  # type: ignore[arg-type]

    routers = (".mlp.gate.", "shared_expert_gate", "conv1d", "in_proj_a", "in_proj_b")
    exact = {n for n, a in expected.items() if a.ndim > 1 and not any(each in n for each in routers)}
    assert len(exact) > 30
    assert_packed(packed.folder, expected, exact | {n for n in expected if n.endswith("mlp.gate.weight")})
    assert {entry.relative_error for entry in packed.manifest.imports.values()} == {0.0}
    assert packed.manifest.source.dtype == f"GGUF {type_name}"


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q4_1"])
def test_other_types_are_rounded_once(tmp_path: Path, type_name: str) -> None:
    path, expected = write_gguf(tmp_path / "mini.gguf", mini_arrays(), matrices_in(type_name))

    packed = pack(path, tmp_path / "packed", "q8")

    assert_packed(packed.folder, expected)
    assert bool(packed.manifest.imports) == (type_name == "Q4_1")


@pytest.mark.parametrize("type_name", ["Q4_K", "Q5_K", "Q6_K"])
def test_types_in_blocks_of_256(tmp_path: Path, type_name: str) -> None:
    """Whose rows mini's are too short for; dense, three value heads for each key head."""
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_value_head_dim": 128,
    }
    folder = large_checkpoint(tiny_checkpoint(tmp_path / "tiny", DENSE), tmp_path / "large", **sizes)
    arrays = {f"model.{name}": tensor.float().numpy() for name, tensor in read_tensors(folder).items()}
    arrays = {
        name.replace("model.mtp", "mtp").replace("model.lm_", "lm_"): each for name, each in arrays.items()
    }
    path, expected = write_gguf(tmp_path / "large.gguf", arrays, matrices_in(type_name), folder)

    packed = pack(path, tmp_path / "packed")

    assert (
        packed.manifest.quant == default_quant(open_source(path)) == ("q4" if type_name == "Q4_K" else "q8")
    )
    assert_packed(packed.folder, expected)
    assert {entry.encoding for entry in packed.manifest.imports.values()} == {type_name}


def test_what_a_4_bit_file_has_in_more_bits_keeps_them(tmp_path: Path) -> None:
    def choose(name: str, array: Floats) -> str:
        finer = "attn_v" in name or "ffn_down_shexp" in name
        return "Q8_0" if finer and array.ndim > 1 else matrices_in("Q4_0")(name, array)

    path, expected = write_gguf(tmp_path / "mini.gguf", mini_arrays(), choose)
    packed = pack(path, tmp_path / "packed")

    formats = {name: entry.format for name, entry in packed.manifest.tensors.items()}
    assert packed.manifest.quant == "q4"
    assert formats["language_model.layers.3.self_attn.v_proj.weight"] == "q8"
    assert formats["language_model.layers.3.self_attn.k_proj.weight"] == "q4"
    assert formats["language_model.embed_tokens.weight"] == "q4"
    assert_packed(
        packed.folder, expected, {n for n in expected if n.endswith("_proj.weight") and "in_proj_" not in n}
    )


def test_a_folder_with_its_mmproj_is_the_whole_model(q8_0: tuple[Path, Arrays], tmp_path: Path) -> None:
    folder, expected = q8_0

    source = open_source(folder)
    packed = pack(source, tmp_path / "packed")

    assert source.notes == ()
    assert_packed(packed.folder, expected)
    original, found = ModelConfig.from_folder(MINI), ModelConfig.from_folder(packed.folder)
    assert found == original
    for name in ("chat_template.jinja",):
        assert (packed.folder / name).read_text() == (MINI / name).read_text()
    tokenizers = [json.loads((each / "tokenizer.json").read_text()) for each in (MINI, packed.folder)]
    assert tokenizers[0] == tokenizers[1]
    pictures = [json.loads((each / "preprocessor_config.json").read_text()) for each in (MINI, packed.folder)]
    assert pictures[0] | pictures[1] == pictures[0]
    assert json.loads((packed.folder / "generation_config.json").read_text())["eos_token_id"] == ENDS


def test_a_file_in_parts_is_one_model(q8_0: tuple[Path, Arrays], tmp_path: Path) -> None:
    whole = q8_0[0] / "mini-Q8_0.gguf"
    parts = split(whole, tmp_path / "split")
    packed = pack(whole, tmp_path / "whole")
    shutil.copy(q8_0[0] / "mmproj-mini-F16.gguf", tmp_path / "split")

    again = pack(parts[1], tmp_path / "parts")

    assert again.manifest.tensors == packed.manifest.tensors
    assert again.manifest.experts == packed.manifest.experts
    parts[2].unlink()
    with pytest.raises(
        CheckpointError, match=r"00003-of-00003.gguf: no such file, but .* split into 3 \(1 missing\)"
    ):
        open_source(tmp_path / "split")


def split(path: Path, folder: Path) -> list[Path]:
    """As llama.cpp's tool does: all metadata in the first of three, tensors in turn."""
    folder.mkdir()
    reader = gguf.GGUFReader(path)
    paths = [folder / f"{path.stem}-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for index, part in enumerate(paths):
        writer = gguf.GGUFWriter(part, "qwen35moe")
        for field in reader.fields.values() if index == 0 else []:
            if not field.name.startswith(("GGUF.", "general.architecture")):
                kind = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], kind)
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        third = -(-len(reader.tensors) // 3)
        for tensor in reader.tensors[index * third : (index + 1) * third]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_files_that_cannot_be_used_are_named(q8_0: tuple[Path, Arrays], tmp_path: Path) -> None:
    data = (q8_0[0] / "mini-Q8_0.gguf").read_bytes()
    pad = data.index(b"general.architecture")
    other = data.replace(b"qwen35moe", b"qwen3next", 1)
    cases = {
        "cut.gguf": (data[:-1000], r"cut short: '.*' ends at byte [\d,]+, the file at [\d,]+\. Download"),
        "header.gguf": (data[:5000], r"cut short: its header alone needs more than the 5,000 bytes"),
        "future.gguf": (
            data[:4] + b"\4\0\0\0" + data[8:],
            r"GGUF version 4 is newer than this program .* supported: 2 and 3",
        ),
        "big.gguf": (data[:4] + b"\0\0\0\3" + data[8:], r"big-endian, which is not supported"),
        "page.gguf": (b"<!DOCTYPE html>" + data[15:], r"not a GGUF file \(it begins with b'<!DO'\)"),
        "pointer.gguf": (b"version https://git-lfs", r"a Git LFS pointer"),
        "damaged.gguf": (data[: pad - 8] + b"\xff" * 8 + data[pad:], r"damaged: a count of 18,446,744"),
        "other.gguf": (other, r"its architecture is 'qwen3next'; supported: qwen35, qwen35moe \(Qwen3\.5\)"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: {reason}"):
            open_source(tmp_path / name)
    with pytest.raises(
        CheckpointError, match=r"several models \(big.gguf, cut.gguf.*Give one of these files"
    ):
        open_source(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"mmproj-mini-F16.gguf: is what sees of a model \(mmproj\)\. Give the"
    ):
        open_source(q8_0[0] / "mmproj-mini-F16.gguf")


def test_types_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path, _ = write_gguf(tmp_path / "mini.gguf", mini_arrays(), matrices_in("Q8_0"))
    data = path.read_bytes()
    entry = data.index(b"blk.0.attn_qkv.weight") + len("blk.0.attn_qkv.weight") + 4 + 2 * 8
    for number, reason in (
        (19, r"is in IQ1_S, which cannot be read \(supported: F32"),
        (99, r"has the type 99, which"),
    ):
        path.write_bytes(data[:entry] + number.to_bytes(4, "little") + data[entry + 4 :])
        with pytest.raises(CheckpointError, match=rf"'blk\.0\.attn_qkv\.weight' {reason}"):
            open_source(path)


def test_text_alone_says_so(tmp_path: Path) -> None:
    path, expected = write_gguf(tmp_path / "mini.gguf", mini_arrays(), matrices_in("BF16"))

    source = open_source(path)

    assert source.notes == ("mini.gguf: no mmproj file beside it; packed for text alone",)
    assert (source.config.vision, source.config.architecture) == (None, "Qwen3_5MoeForCausalLM")
    assert not any("visual" in name for name in source.tensors)
    assert expected.keys() == {n for n in mini_arrays() if "visual" not in n}
    assert default_quant(source) == "q4"  # as for safetensors that were never quantised


def test_settings_of_the_file(tmp_path: Path) -> None:
    sampling = {"general__sampling__temp": 0.6, "general__sampling__top_k": 10}
    scaling = {
        "qwen35moe__rope__scaling__type": "yarn",
        "qwen35moe__rope__scaling__factor": 4.0,
        "qwen35moe__rope__scaling__original_context_length": 2048,
    }
    path, _ = write_gguf(tmp_path / "mini.gguf", mini_arrays(), matrices_in("F16"), **sampling, **scaling)

    source = open_source(path)

    generation = json.loads(source.small_files()["generation_config.json"])
    assert generation == {"do_sample": True, "temperature": 0.6, "top_k": 10, "eos_token_id": ENDS}
    rope = source.config.text.rope
    assert (rope.yarn_factor, rope.yarn_original_context, rope.theta) == (4.0, 2048, 1000.0)


def test_an_interrupted_import_goes_on_and_keeps_what_it_measured(tmp_path: Path) -> None:
    path, _ = write_gguf(tmp_path / "mini.gguf", mini_arrays(), matrices_in("Q4_1"))
    whole = pack(path, tmp_path / "whole")

    def stop(_: str, done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(path, tmp_path / "again", on_progress=stop)
    again = pack(path, tmp_path / "again")

    assert again.num_resumed > 20
    assert again.manifest == whole.manifest
    assert all(entry.relative_error > 0 for entry in again.manifest.imports.values())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_importing_takes_a_few_slabs_of_memory(tmp_path: Path) -> None:
    """Of a file whose largest tensor is 102 MB in float32; and no torch."""
    sizes = {"vocab_size": 100_000, "hidden_size": 256}
    folder = large_checkpoint(tiny_checkpoint(tmp_path / "tiny", DENSE), tmp_path / "large", **sizes)
    arrays = {f"model.{name}": tensor.float().numpy() for name, tensor in read_tensors(folder).items()}
    arrays = {
        name.replace("model.mtp", "mtp").replace("model.lm_", "lm_"): each for name, each in arrays.items()
    }
    path, _ = write_gguf(tmp_path / "large.gguf", arrays, matrices_in("Q4_1"), folder)

    run = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out")]
    env = {"PYTHONPATH": str(MODEL), "OMP_NUM_THREADS": "1"}
    grown, has_torch = subprocess.run(run, check=True, capture_output=True, text=True, env=env).stdout.split()

    assert has_torch == "False"
    assert arrays["model.language_model.embed_tokens.weight"].nbytes == 102_400_000
    assert int(grown) < 90e6, grown
