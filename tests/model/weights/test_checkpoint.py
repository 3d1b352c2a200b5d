import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen35.errors import CheckpointError
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE, Checkpoint

MODEL = Path(__file__).resolve().parents[3] / "model"

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.randn(4, 1, 2).to(torch.bfloat16),
    "c": torch.randn(5).to(torch.float16),
    "d": torch.tensor(3.0),
    "e": torch.zeros(0, 2),
}
SHARDS = {"layers-0.safetensors": ["a", "b"], "odd name.safetensors": ["c", "d", "e"]}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for shard, names in SHARDS.items():
        save_file({name: TENSORS[name] for name in names}, tmp_path / shard)
    write_index(tmp_path, {name: shard for shard, names in SHARDS.items() for name in names})
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def assert_holds_all(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        tensor = checkpoint.read(name)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def test_reads_a_single_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE_FILE)

    assert_holds_all(Checkpoint.open(tmp_path))


def test_reads_shards_of_any_name(sharded: Path) -> None:
    assert_holds_all(Checkpoint.open(sharded))


def test_reads_through_the_links_of_a_hub_cache(sharded: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in (*SHARDS, INDEX):
        (snapshot / file).symlink_to(sharded / file)

    assert_holds_all(Checkpoint.open(snapshot))


def test_each_read_has_memory_of_its_own(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    checkpoint.read("a").zero_()

    assert torch.equal(checkpoint.read("a"), TENSORS["a"])
    assert torch.equal(load_file(sharded / "layers-0.safetensors")["a"], TENSORS["a"])


def test_a_missing_shard_is_named_with_what_to_do(sharded: Path) -> None:
    (sharded / "odd name.safetensors").unlink()

    with pytest.raises(
        CheckpointError, match=r"odd name\.safetensors: no such file.*1 of 2 shards.*Download"
    ):
        Checkpoint.open(sharded)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    path = sharded / "layers-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(
        CheckpointError, match=r"layers-0\.safetensors: truncated: expected \d+ bytes, found \d+"
    ):
        Checkpoint.open(sharded)


def test_a_shard_that_shrinks_after_opening_is_named(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    path = sharded / "layers-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    last = max(("a", "b"), key=lambda name: checkpoint.tensors[name].end)

    with pytest.raises(CheckpointError, match="became shorter"):
        checkpoint.read(last)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"layers-0\.safetensors: cannot be read"):
        checkpoint.read(last)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    save_file({"a": TENSORS["a"]}, sharded / "layers-0.safetensors")

    with pytest.raises(CheckpointError, match=r"layers-0\.safetensors: lacks 'b', against"):
        Checkpoint.open(sharded)


def test_a_tensor_that_the_index_does_not_know_is_named(sharded: Path) -> None:
    more = {name: TENSORS[name] for name in "ab"} | {"x": torch.zeros(1), "y": torch.zeros(1)}
    save_file(more, sharded / "layers-0.safetensors")

    with pytest.raises(CheckpointError, match=r"layers-0\.safetensors: also holds 'x' and 1 more"):
        Checkpoint.open(sharded)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    save_file({name: TENSORS[name] for name in "acde"}, sharded / "odd name.safetensors")

    with pytest.raises(CheckpointError, match=r"odd name\.safetensors: also holds 'a'"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "'weight_map' is missing or empty"),
        ('{"weight_map": {}}', "'weight_map' is missing or empty"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' stands there twice"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "outside the folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "outside the folder"),
    ],
)
def test_a_broken_index_is_named(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / INDEX).write_text(content, encoding="utf-8")

    with pytest.raises(CheckpointError, match=rf"model\.safetensors\.index\.json: .*{reason}"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (None, "Download the model's weights"),
        ("model-Q4_K_M.gguf", "only model-Q4_K_M.gguf. GGUF files have to be packed first: qwen models pack"),
        ("pytorch_model.bin", "only pytorch_model.bin. Pickled files are not supported"),
    ],
)
def test_a_folder_without_weights_says_what_it_has(tmp_path: Path, other: str | None, reason: str) -> None:
    if other:
        (tmp_path / other).touch()

    with pytest.raises(CheckpointError, match=f"neither model.safetensors nor .*{reason}"):
        Checkpoint.open(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    other = tmp_path / SINGLE_FILE
    save_file(TENSORS, other)

    for path, reason in (
        (tmp_path / "nothing", "no such folder"),
        (gguf, "a GGUF file has to be packed first: qwen models pack"),
        (other, "a file where a model folder is meant"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            Checkpoint.open(path)


def test_opening_imports_no_torch(sharded: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qwen35.weights.checkpoint import Checkpoint\n"
        f"Checkpoint.open(Path({str(sharded)!r})); assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(MODEL)}, timeout=60)
