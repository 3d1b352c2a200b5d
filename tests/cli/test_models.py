"""`qwen models`: what is found where, and what is said of each."""

import json
import shutil
from pathlib import Path

import pytest

from qwen35.errors import CheckpointError
from qwencli.folders import Folders
from qwencli.known_models import find_model, known_models
from tests.cli.conftest import Invoke


@pytest.fixture
def hub(home: Path) -> Path:
    return home.parent / "hub"


def put_in_hub(hub: Path, repo: str, source: Path, commit: str = "abc", *, is_main: bool = True) -> Path:
    """As huggingface_hub lays it out: blobs, and a snapshot of links to them."""
    root = hub / ("models--" + repo.replace("/", "--"))
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, blobs / f"{commit}-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{commit}-{path.name}")
    (root / "refs").mkdir(exist_ok=True)
    if is_main:
        (root / "refs" / "main").write_text(commit)
    return snapshot


def put_in_data(home: Path, name: str, source: Path) -> Path:
    return Path(shutil.copytree(source, home / "data" / "models" / name))


def test_models_are_found_in_the_data_folder_and_the_hub(
    invoke: Invoke, home: Path, hub: Path, model_folder: Path
) -> None:
    own = put_in_data(home, "me/own", model_folder)
    (own / "empty folder").mkdir()
    (own / "broken link").symlink_to("nowhere")
    cached = put_in_hub(hub, "Qwen/Qwen3.5-0.8B", model_folder)
    listed = json.loads(invoke("models", "ls", "--json").out)
    assert (listed["schema_version"], listed["error"]) == (1, None)
    rows = {row["name"]: row for row in listed["models"] if row["origin"] != "built-in"}
    assert rows["me/own"]["folder"] == str(own)
    assert rows["Qwen/Qwen3.5-0.8B"]["folder"] == str(cached)
    row = rows["me/own"]
    assert (row["architecture"], row["dtype"]) == ("Qwen3_5MoeForConditionalGeneration", "float32")
    assert row["size_bytes"] == sum(path.stat().st_size for path in model_folder.iterdir())
    assert row["size_bytes"] == rows["Qwen/Qwen3.5-0.8B"]["size_bytes"]  # links count as what they lead to


def test_parameters_are_counted_from_the_headers(invoke: Invoke, home: Path, model_folder: Path) -> None:
    from safetensors.torch import load_file

    put_in_data(home, "own", model_folder)
    (row,) = (
        row for row in json.loads(invoke("models", "ls", "--json").out)["models"] if row["name"] == "own"
    )
    weights = [tensor for path in model_folder.glob("*.safetensors") for tensor in load_file(path).values()]
    assert row["parameters"] == sum(tensor.numel() for tensor in weights)


def test_the_table_has_one_line_for_each_model(invoke: Invoke, home: Path, model_folder: Path) -> None:
    put_in_data(home, "own", model_folder)
    header, *lines = invoke("models", "ls").out.splitlines()
    assert header.split() == ["NAME", "PARAMETERS", "SIZE", "DTYPE", "WHERE"]
    (line,) = (line for line in lines if line.startswith("own"))
    assert line.split()[-3:] == ["float32", "data", "folder"]


def test_of_several_snapshots_the_main_one_counts_or_else_the_newest(
    home: Path, hub: Path, model_folder: Path
) -> None:
    put_in_hub(hub, "a/b", model_folder, "old")
    newer = put_in_hub(hub, "a/b", model_folder, "new", is_main=False)
    folders = Folders.locate({"QWEN_HOME": str(home)})
    assert find_model("a/b", folders).folder.name == "old"
    (hub / "models--a--b" / "refs" / "main").unlink()
    (newer / "config.json").unlink()
    shutil.copy(model_folder / "config.json", newer / "config.json")
    assert find_model("a/b", folders).folder.name == "new"


def test_a_broken_model_has_a_line_that_says_why(invoke: Invoke, home: Path, model_folder: Path) -> None:
    broken = put_in_data(home, "broken", model_folder)
    (broken / "model-00002-of-00002.safetensors").unlink()
    put_in_data(home, "whole", model_folder)
    result = invoke("models", "ls")
    assert (result.code, result.err) == (0, "")
    (line,) = (line for line in result.out.splitlines() if line.startswith("broken"))
    assert "unusable: " in line
    assert "model-00002-of-00002.safetensors: no such file" in line
    rows = {row["name"]: row for row in json.loads(invoke("models", "ls", "--json").out)["models"]}
    assert rows["whole"]["error"] is None
    assert rows["broken"]["parameters"] is None


def test_other_architectures_are_listed_only_if_asked_for(invoke: Invoke, home: Path) -> None:
    for name, config in (("llama", '{"architectures": ["LlamaForCausalLM"]}'), ("odd", "not json")):
        folder = home / "data" / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    assert "llama" not in invoke("models", "ls").out
    listed = invoke("models", "ls", "--all").out
    assert "unknown architecture 'LlamaForCausalLM'" in listed
    assert "cannot be read as JSON" in listed


def test_show_tells_the_shape_and_the_defaults(invoke: Invoke, model_folder: Path) -> None:
    values = json.loads(invoke("models", "show", model_folder, "--json").out)
    assert values["layers"] == {"linear_attention": 3, "full_attention": 1, "mtp": 1}
    assert values["experts"]["num_experts"] == 7
    assert values["vision"]["patch_size"] == 16
    assert values["context"] == 4096
    assert values["thinks_by_default"] is False
    assert values["generation"] == {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    assert values["files"]["config.json"] == (model_folder / "config.json").stat().st_size
    text = invoke("models", "show", model_folder).out
    assert "3 linear attention, 1 full attention, 1 for multi-token prediction" in text
    assert "7, 3 for each token" in text


def test_show_of_a_missing_model_exits_with_4(invoke: Invoke) -> None:
    result = invoke("models", "show", "nothing", "--json")
    assert (result.code, result.err.count("\n")) == (4, 1)
    values = json.loads(result.out)
    assert (list(values), values["error"]["kind"]) == (["schema_version", "error"], "checkpoint")


def test_a_path_is_never_taken_for_a_name(home: Path, model_folder: Path) -> None:
    folders = Folders.locate({"QWEN_HOME": str(home)})
    put_in_data(home, "own", model_folder)
    shutil.copytree(model_folder, "own")
    assert find_model("./own", folders).origin == "folder"
    assert find_model("own", folders).origin == "data folder"
    assert find_model(str(model_folder), folders).folder == model_folder


def test_a_name_comes_once(home: Path, hub: Path, model_folder: Path) -> None:
    put_in_data(home, "a/b", model_folder)
    put_in_hub(hub, "a/b", model_folder)
    models = [
        model for model in known_models(Folders.locate({"QWEN_HOME": str(home)})) if model.name == "a/b"
    ]
    assert [model.origin for model in models] == ["data folder"]


def test_without_the_built_in_model_its_place_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwencli.known_models.built_in_folder", lambda name="mini": home / "no-mini")
    with pytest.raises(CheckpointError, match="no-mini: the built-in model is missing"):
        find_model("mini", Folders.locate({"QWEN_HOME": str(home)}))
