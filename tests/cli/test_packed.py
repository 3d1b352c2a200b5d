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
ASK = """
import sys
from qwencli.app import main
code = main()
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def test_a_packed_model_answers_like_the_unpacked_one(invoke: Invoke) -> None:
    for question in ("how many shapes?", "What is at the top left?"):
        packed = invoke("ask", "-m", "mini", SHAPES, question)
        assert (packed.code, packed.out) == (0, invoke("ask", "-m", "mini-bf16", SHAPES, question).out)


def test_a_packed_model_answers_without_torch(home: Path) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    command = [sys.executable, "-c", ASK, "ask", "-q", "-m", "mini", str(SHAPES), "describe"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"QWEN_HOME": str(home)})
    assert (done.returncode, done.stderr.strip()) == (0, "False")
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
