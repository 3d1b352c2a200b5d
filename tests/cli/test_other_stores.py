"""GGUF files of LM Studio and Ollama: listed where they lie, and packed from there."""

import json
import struct
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.model.weights.sources.gguf_writing import matrices_in, write_gguf, write_mmproj
from tests.model.weights.sources.mini import mini_arrays

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGEST = "sha256:" + "ab" * 32


def header(architecture: str) -> bytes:
    """As much of a GGUF file as tells what it is."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    return (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + text("general.architecture")
        + struct.pack("<I", 8)
        + text(architecture)
    )


@pytest.fixture
def stores(home: Path) -> Path:
    """A user's folder with both stores: one model of this family in each, and others."""
    user = home.parent
    studio = user / ".lmstudio" / "models" / "unsloth" / "Qwen3.5-9B-GGUF"
    studio.mkdir(parents=True)
    for name, architecture in (
        ("Qwen3.5-9B-Q4_K_M", "qwen35"),
        ("Qwen3.5-9B-Q8_0-00001-of-00002", "qwen35"),
        ("Qwen3.5-9B-Q8_0-00002-of-00002", "qwen35"),
        ("mmproj-F16", "clip"),
        ("other", "llama"),
    ):
        (studio / f"{name}.gguf").write_bytes(header(architecture))
    ollama = user / ".ollama" / "models"
    (ollama / "blobs").mkdir(parents=True)
    (ollama / "blobs" / DIGEST.replace(":", "-")).write_bytes(header("qwen35moe"))
    tags = ollama / "manifests" / "registry.ollama.ai" / "library" / "qwen3.5"
    tags.mkdir(parents=True)
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST}]
    (tags / "35b").write_text(json.dumps({"layers": layers}))
    (tags / "broken").write_text("{")
    (tags / "outside").write_text(json.dumps({"layers": [layers[0] | {"digest": "../../../x"}]}))
    return user


def test_models_of_this_family_are_listed(invoke: Invoke, stores: Path) -> None:
    rows = {row["name"]: row for row in json.loads(invoke("models", "ls", "--json").out)["models"]}
    studio = "lmstudio/unsloth/Qwen3.5-9B-GGUF/Qwen3.5-9B-"
    assert [name for name in rows if not name.startswith("mini")] == [
        f"{studio}Q4_K_M",
        f"{studio}Q8_0-00001-of-00002",
        "ollama/qwen3.5:35b",
    ]
    row = rows["ollama/qwen3.5:35b"]
    assert (row["origin"], row["dtype"], row["architecture"]) == ("Ollama", "GGUF", "qwen35moe")
    # A split file counts with all of its parts.
    assert rows[f"{studio}Q8_0-00001-of-00002"]["size_bytes"] == 2 * rows[f"{studio}Q4_K_M"]["size_bytes"]


def test_such_a_model_is_to_be_packed_before_it_is_asked(invoke: Invoke, stores: Path) -> None:
    result = invoke("models", "show", "ollama/qwen3.5:35b")
    assert (result.code, result.out) == (4, "")
    assert result.err.endswith("has to be packed first: qwen models pack ollama/qwen3.5:35b\n")
    # This one is a header and nothing else: packing gets as far as saying so.
    result = invoke("models", "pack", "ollama/qwen3.5:35b")
    assert (result.code, result.out, result.err.count("\n")) == (4, "", 1)
    assert "sha256-abab" in result.err


def test_another_folder_of_ollama_is_found_by_its_variable(
    invoke: Invoke, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stores / ".ollama" / "models").rename(stores / "elsewhere")
    assert "ollama" not in invoke("models", "ls").out
    monkeypatch.setenv("OLLAMA_MODELS", str(stores / "elsewhere"))
    assert "ollama/qwen3.5:35b" in invoke("models", "ls").out


def test_what_sees_lies_beside_it_in_a_blob_of_its_own(invoke: Invoke, stores: Path) -> None:
    """The manifest names it; the picture is described as by the model that both were written from."""
    models = stores / ".ollama" / "models"
    vision = "sha256:" + "cd" * 32
    write_gguf(Path("mini.gguf"), mini_arrays(), matrices_in("Q8_0"))
    write_mmproj(Path("vision.gguf"), mini_arrays())
    for name, digest in (("mini.gguf", DIGEST), ("vision.gguf", vision)):
        Path(name).rename(models / "blobs" / digest.replace(":", "-"))
    layers = [
        {"mediaType": "application/vnd.ollama.image.projector", "digest": vision},
        {"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST},
    ]
    manifest = models / "manifests" / "registry.ollama.ai" / "library" / "qwen3.5" / "35b"
    manifest.write_text(json.dumps({"layers": layers}))

    result = invoke("models", "pack", "ollama/qwen3.5:35b", "-o", "packed")

    assert (result.code, result.err) == (0, "")
    question = (EXAMPLES / "shapes.png", "describe", "-q")
    answer = invoke("ask", "-m", "packed", "--temperature", "0", *question)
    assert (answer.code, answer.out) == (0, invoke("ask", "-m", "mini", *question).out)
    assert json.loads(invoke("plan", "ollama/qwen3.5:35b", "--json").out)
