"""Unpacked models: layers on the disk (`--ram`), and bitsandbytes' 4 and 8 bits (`--quant`)."""

import json
import shutil
from pathlib import Path

import pytest

import qwen35
from qwen35.config import ModelConfig
from tests.cli.conftest import Invoke
from tests.model.weights.budgets import least_ram

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"
MINI = Path(qwen35.__file__).parent / "builtin" / "mini-bf16"


@pytest.fixture(scope="module")
def least() -> int:
    """The least memory with which mini-bf16 answers."""
    return least_ram(ModelConfig.from_folder(MINI), "bfloat16")


def ask(invoke: Invoke, *options: object) -> dict:
    result = invoke("ask", "-m", "mini-bf16", SHAPES, "describe", "--json", "--threads", 1, *options)
    assert result.code == 0
    return json.loads(result.out)


def test_layers_on_the_disk_answer_the_same_and_are_told_of(invoke: Invoke, least: int) -> None:
    resident = ask(invoke)
    values = ask(invoke, "--ram", least, "--no-cache")
    assert values["answer"] == resident["answer"]
    assert any("4 of 4 layers are read from disk at every step" in note for note in values["notes"])
    assert any("layers of the vision encoder" in note for note in values["notes"])
    assert not any("read from disk" in note for note in resident["notes"])
    # Bit for bit the same, so states of the one are the other's.
    assert ask(invoke, "--ram", least)["usage"]["cached_tokens"] > 0


def test_too_little_says_the_least_that_works(invoke: Invoke, least: int) -> None:
    result = invoke("ask", "-m", "mini-bf16", SHAPES, "describe", "--ram", least - 1)
    assert (result.code, result.out) == (5, "")
    assert f"needs at least {least / 1e9:.2f} GB of memory, with its layers on the disk" in result.err


def test_a_file_that_is_gone_after_loading_is_named(
    invoke: Invoke, tmp_path: Path, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(MINI, folder)
    from qwen35.engine.engine import Engine

    generate = Engine.generate

    def gone(engine: Engine, *arguments: object) -> object:
        (folder / "model.safetensors").unlink()
        return generate(engine, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", gone)
    result = invoke("ask", "-m", folder, SHAPES, "describe", "--ram", least)
    assert (result.code, result.out) == (4, "")
    assert f"{folder / 'model.safetensors'}: cannot be read" in result.err


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_quantised_model_answers_and_shares_no_states(invoke: Invoke, quant: str) -> None:
    pytest.importorskip("bitsandbytes")
    exact = ask(invoke)
    rounded = ask(invoke, "--quant", quant)
    assert f"the experts stay in bfloat16: {quant} rounds the other layers alone" in rounded["notes"]
    assert rounded["usage"]["cached_tokens"] == 0
    assert "circle" in rounded["answer"]
    assert ask(invoke, "--quant", quant)["usage"]["cached_tokens"] > 0
    assert ask(invoke, "--quant", "none")["answer"] == exact["answer"]


def test_a_packed_model_stays_as_it_is_and_it_is_said(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_QUANT", "int8")
    result = invoke("ask", "-m", "mini", SHAPES, "describe")
    assert result.code == 0
    assert "note: --quant int8: for unpacked models alone; mini stays as it was packed" in result.err
    assert "--quant" not in invoke("ask", "-m", "mini", SHAPES, "describe", "--quant", "none").err
    assert invoke("ask", "-m", "mini", "hello", "--quant", "q4").code == 2


def test_bench_names_the_quantisation(invoke: Invoke) -> None:
    pytest.importorskip("bitsandbytes")
    result = invoke("bench", "-m", "mini-bf16", "--rounds", "1", "--tokens", "2", "--quant", "int8")
    assert result.code == 0
    assert "int8 bitsandbytes" in result.out
