"""Questions to packed models: on the native kernels without torch, or on torch where there are none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35.backends.native import library as native
from tests.cli.conftest import Invoke

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"
# What costs tenths of a second to import, and no question to a packed model needs.
SLOW = ("torch", "pydantic", "numpy.random", "numpy.ma", "prompt_toolkit")
ASK = f"""
SLOW = {SLOW}
import sys
from qwencli.app import main
code = main()
print([name for name in SLOW if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def test_a_packed_model_answers_like_the_unpacked_one(invoke: Invoke) -> None:
    for question in ("how many shapes?", "What is at the top left?"):
        packed = invoke("ask", "-m", "mini", SHAPES, question)
        assert (packed.code, packed.out) == (0, invoke("ask", "-m", "mini-bf16", SHAPES, question).out)


def test_a_packed_model_answers_without_torch_or_what_else_is_slow(home: Path) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    command = [sys.executable, "-c", ASK, "ask", "-q", "-m", "mini", str(SHAPES), "describe"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"QWEN_HOME": str(home)})
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert done.stdout.strip()


def test_without_kernels_it_runs_on_torch_and_says_so(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "load", lambda *_, **__: (None, "no C++ compiler found"))
    result = invoke("ask", "-m", "mini", SHAPES, "how many shapes?", "--json")
    values = json.loads(result.out)
    assert values["error"] is None
    assert any("no C++ compiler found" in note and "slowly" in note for note in values["notes"])


def test_kernels_that_this_processor_lacks_are_refused(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    monkeypatch.setenv("QWEN_CPU", "z80")
    result = invoke("ask", "-m", "mini", SHAPES, "describe")
    assert (result.code, result.out) == (5, "")
    assert "QWEN_CPU=z80" in result.err


def model_that_answers(invoke: Invoke, *options: object) -> str:
    result = invoke("ask", *options, "--json", "--max-tokens", "1", "--temperature", "0", "hello")
    return str(json.loads(result.out)["model"])


def test_without_a_name_the_largest_packed_model_that_fits_answers(
    invoke: Invoke, home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_that_answers(invoke) == "mini"
    for quant in ("q4", "q8"):
        assert invoke("models", "pack", model_folder, "--quant", quant).code == 0
    assert model_that_answers(invoke) == "tiny-q8"
    assert model_that_answers(invoke, "-m", "tiny-q4") == "tiny-q4"
    sizes = {
        model["name"]: model["size_bytes"]
        for model in json.loads(invoke("models", "ls", "--json").out)["models"]
    }
    between = (sizes["tiny-q4"] + sizes["tiny-q8"]) / 2
    monkeypatch.setattr("qwencli.known_models.usable_memory", lambda: between / 0.8)
    assert model_that_answers(invoke) == "tiny-q4"


def test_a_damaged_model_is_not_chosen_unasked(invoke: Invoke, home: Path, model_folder: Path) -> None:
    assert invoke("models", "pack", model_folder).code == 0
    data = max((home / "data" / "models" / "tiny-q4").glob("*.bin"))
    data.write_bytes(data.read_bytes()[:-1])
    assert model_that_answers(invoke) == "mini"


def test_mapped_weights_answer_as_those_read(invoke: Invoke) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    answers = {invoke("ask", "--load", load, SHAPES, "describe").out for load in ("auto", "read", "mmap")}
    assert len(answers) == 1
    result = invoke("ask", "--load", "mmap", "-m", "mini-bf16", "hello")
    assert (result.code, "--load mmap: for packed models" in result.err) == (0, True)
    assert invoke("ask", "--load", "floppy", "hello").code == 2
