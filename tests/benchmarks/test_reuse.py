"""The benchmark of the second question, on the built-in model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35.backends.native import library as native

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "reuse.py"


def test_the_second_question_computes_its_own_tokens_alone(tmp_path: Path) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    target = tmp_path / "figures.json"
    words = ["mini", "--rounds", "1", "--side", "128", "--words", "100", "--json", str(target)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = {name: runs[0]["usage"] for name, runs in json.loads(target.read_text()).items()}
    for kind in ("picture", "document"):
        assert figures[f"{kind}, first"]["cached_tokens"] == 0
        assert figures[f"{kind}, second, computed"]["cached_tokens"] == 0
        second = figures[f"{kind}, second"]
        assert 0 < second["prompt_tokens"] - second["cached_tokens"] < 32
    assert done.stdout.count("\n| ") == 6  # rows
