"""What is packed is what the checkpoint holds, in whatever form its files have it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen35.errors import CheckpointError
from qwen35.processing.vocabulary import FILE as VOCABULARY
from qwen35.weights.checkpoint import SINGLE_FILE
from qwen35.weights.layout import DATA_FILES
from qwen35.weights.manifest import MANIFEST
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel
from qwen35.weights.quantize import dequantise, quantise
from qwen35.weights.recipe import Quant
from qwen35.weights.tiles import TILE_FORMATS
from qwen35.weights.verify import verify
from qwen35.weights.work_folder import UnwritableError
from tests.model.reference import DENSE, MOE, SHAPES, Shape
from tests.model.weights.packing import (
    contents,
    fuse_experts,
    large_checkpoint,
    read_tensors,
    rewrite,
    tiny_checkpoint,
)

MODEL = Path(__file__).resolve().parents[3] / "model"

RMS_BOUND = {"q4": 0.1, "q8": 0.006, "f32": 0}  # of normal weights, in short rows


def assert_holds(
    model: PackedModel, name: str, found: np.ndarray, expected: np.ndarray, format_name: str
) -> None:
    """`found` is `expected` through the quantiser, and near it: no row or column is in another's place."""
    matrix = expected.reshape(len(expected), -1)
    if format_name != "f32":
        tiles = quantise(matrix, TILE_FORMATS[format_name])
        matrix = dequantise(tiles, format_name, *matrix.shape)
    assert np.array_equal(found, matrix.reshape(expected.shape)), name
    error = np.sqrt(((found - expected) ** 2).sum() / (expected**2).sum())
    assert error <= RMS_BOUND[format_name], (name, error)


def assert_is_packed(folder: Path, tensors: dict[str, torch.Tensor], quant: Quant) -> None:
    """Each of `tensors` (fused, by our names) is in `folder`, and nothing else."""
    with PackedModel.open(folder) as model:
        names = set()
        for name, tensor in tensors.items():
            layer, _, projection = name.partition(".mlp.experts.")
            if projection:
                for e, weights in enumerate(tensor.float().numpy()):
                    halves = np.split(weights, 2) if projection == "gate_up_proj" else [weights]
                    kinds = ("gate", "up") if projection == "gate_up_proj" else ("down",)
                    for kind, part in zip(kinds, halves, strict=True):
                        found = model.dequantised_expert(layer, e, kind)
                        assert_holds(model, f"{name} {e} {kind}", found, part, quant)
            else:
                names.add(name)
                entry = model.manifest.tensors[name]
                assert entry.shape == tuple(tensor.shape)
                assert_holds(model, name, model.dequantised(name), tensor.float().numpy(), entry.format)
        assert names == model.manifest.tensors.keys()
        total = sum(tensor.numel() for tensor in tensors.values())
        assert model.manifest.num_parameters == total


@pytest.mark.parametrize("quant", ["q4", "q8"])
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
def test_every_tensor_is_that_of_the_checkpoint(tmp_path: Path, shape: Shape, quant: Quant) -> None:
    source = tiny_checkpoint(tmp_path / "source", shape)
    steps: list[tuple[str, int, int]] = []

    packed = pack(source, tmp_path / "out", quant, on_progress=lambda *step: steps.append(step))

    assert (packed.folder, packed.num_resumed, packed.was_there) == (tmp_path / "out", 0, False)
    assert_is_packed(packed.folder, fuse_experts(read_tensors(source)), quant)
    verify(packed.folder)
    assert {stage for stage, _, _ in steps} == {"packing"}
    assert steps[-1][1] == steps[-1][2] == packed.manifest.source.size_bytes
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tied_and_untied_heads(tmp_path: Path, shape: Shape) -> None:
    packed = pack(tiny_checkpoint(tmp_path / "source", shape), tmp_path / "out")

    assert ("lm_head.weight" in packed.manifest.tensors) == (not shape.is_tied)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_checkpoints(tmp_path: Path, dtype: torch.dtype) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)
    tensors = {name: tensor.to(dtype) for name, tensor in read_tensors(source).items()}
    rewrite(source, tensors)

    packed = pack(source, tmp_path / "out")

    assert_is_packed(packed.folder, fuse_experts(tensors), "q4")
    assert packed.manifest.source.size_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_fused_experts_and_single_ones_give_the_same_files(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)
    single = read_tensors(source)
    fused = fuse_experts(single)
    assert len(fused) < len(single)
    before = contents(pack(source, tmp_path / "single").folder)
    rewrite(source, fused)

    after = contents(pack(source, tmp_path / "fused").folder)

    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    with PackedModel.open(tmp_path / "single") as one, PackedModel.open(tmp_path / "fused") as other:
        assert one.manifest.fingerprint == other.manifest.fingerprint
        assert one.manifest.tensors == other.manifest.tensors
        assert one.manifest.experts == other.manifest.experts


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)

    one, five = (pack(source, tmp_path / str(n), num_threads=n).folder for n in (1, 5))

    assert contents(one) == contents(five)


def test_slabs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)
    whole = contents(pack(source, tmp_path / "whole").folder)
    monkeypatch.setattr("qwen35.weights.slabs._SLAB", 1)

    assert contents(pack(source, tmp_path / "slabs").folder) == whole


def test_text_alone_and_no_mtp(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    config = json.loads((source / "config.json").read_text())
    text = config["text_config"] | {"architectures": ["Qwen3_5ForCausalLM"], "dtype": "float32"}
    text["tie_word_embeddings"] = DENSE.is_tied
    (source / "config.json").write_text(json.dumps(text))
    (source / "preprocessor_config.json").unlink()
    tensors = {
        name: tensor for name, tensor in read_tensors(source).items() if name.startswith("language_model.")
    }
    rewrite(source, {name.removeprefix("language_model."): tensor for name, tensor in tensors.items()})

    packed = pack(source, tmp_path / "out")

    assert_is_packed(packed.folder, tensors, "q4")
    with PackedModel.open(packed.folder) as model:
        assert (model.config.vision, model.config.text.num_mtp_layers) == (None, 0)
    assert {path.name for path in packed.folder.glob("*.bin")} == {"text.bin"}


def test_the_small_files_come_along(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)
    (source / "README.md").write_text("of the unpacked model")
    (source / "LICENSE").write_text("terms")

    found = contents(pack(source, tmp_path / "out").folder)

    small = {name: data for name, data in contents(source).items() if "safetensors" not in name}
    del small["README.md"]
    assert found.keys() == small.keys() | set(DATA_FILES) | {MANIFEST, VOCABULARY}
    assert all(found[name] == data for name, data in small.items())


def test_a_packed_model_is_no_source(tmp_path: Path) -> None:
    packed = pack(tiny_checkpoint(tmp_path / "source", DENSE), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"out: is packed already\. Give the folder"):
        pack(packed.folder, tmp_path / "again")


@pytest.mark.parametrize("name", ["language_model.layers.1.mlp.up_proj.weight", "language_model.norm.weight"])
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, name: str) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    tensors = read_tensors(source)
    tensors[name].view(-1)[33] = float("nan")
    rewrite(source, tensors)

    with pytest.raises(
        CheckpointError, match=rf"{SINGLE_FILE}: '{re.escape(name)}' holds weights that are not"
    ):
        pack(source, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_config_is_said_before_anything_is_written(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    tensors = read_tensors(source)
    del tensors["language_model.norm.weight"]
    rewrite(source, tensors)

    with pytest.raises(CheckpointError, match=r"1 missing: language_model\.norm\.weight"):
        pack(source, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    shard = next(source.glob("*.safetensors"))

    def touch(*_: object) -> None:
        os.utime(shard, (1, 1))

    with pytest.raises(CheckpointError, match=r"its weight files changed while they were packed"):
        pack(source, tmp_path / "out", on_progress=touch)

    assert not (tmp_path / "out").exists()


def test_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, reason in (("notes", "is not empty"), ("file", "is a file"), ("source", "is not empty")):
        with pytest.raises(
            UnwritableError, match=rf"{name}: {reason}; nothing is overwritten\. Choose another"
        ):
            pack(source, tmp_path / name)
    assert contents(tmp_path / "notes") == {"note.txt": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "notes", "file"}


def test_another_pack_is_never_overwritten(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", DENSE)
    before = contents(pack(source, tmp_path / "out").folder)
    with pytest.raises(
        UnwritableError, match=r"holds another packed model; nothing is overwritten\. Delete it"
    ):
        pack(source, tmp_path / "out", "q8")
    assert pack(source, tmp_path / "out").was_there
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / MANIFEST).write_bytes(before[MANIFEST][:-2])
    with pytest.raises(
        UnwritableError, match=r"holds a packed model that is damaged; nothing is overwritten"
    ):
        pack(source, tmp_path / "out")


def test_an_empty_folder_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    verify(pack(tiny_checkpoint(tmp_path / "source", DENSE), tmp_path / "out").folder)


# The peak of this very process: ru_maxrss would begin at that of the process which started it.
MEASURE = """
import re, sys
from pathlib import Path
from qwen35.weights.pack import pack

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
pack(Path(sys.argv[1]), Path(sys.argv[2]), num_threads=2)
print(peak() - before, "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_packing_takes_a_few_slabs_of_memory(tmp_path: Path) -> None:
    """Not the model, nor its largest tensor, nor a layer's stack of experts; and no torch."""
    tiny = tiny_checkpoint(tmp_path / "tiny", MOE)
    sizes = {"hidden_size": 256, "vocab_size": 100_000, "num_experts": 64, "moe_intermediate_size": 64}
    source = large_checkpoint(tiny, tmp_path / "source", **sizes)
    largest = 2 * 256 * 100_000

    run = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out")]
    env = {"PYTHONPATH": str(MODEL), "OMP_NUM_THREADS": "1"}
    grown, has_torch = subprocess.run(run, check=True, capture_output=True, text=True, env=env).stdout.split()

    assert has_torch == "False"
    assert int(grown) < 0.9 * largest  # which would be twice as large in float32
    assert (source / SINGLE_FILE).stat().st_size > 2 * largest > 100e6
