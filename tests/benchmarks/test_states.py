"""The benchmarks of saved states, on the built-in model and on a shape that is no model."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.restore import cost_of_pauses
from benchmarks.state_dtype import divergence, to_bfloat16
from qwen35.backends.native import library as native

ROOT = Path(__file__).resolve().parents[2]

needs_library = pytest.mark.skipif(
    native.load()[0] is None, reason="no compiler: the native library was not built on installation"
)


def run(tmp_path: Path, script: str, *words: str, writes_json: bool = True) -> tuple[str, Any]:
    """What a benchmark prints, and what --json wrote."""
    target = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *words]
    command += ["--json", str(target)] if writes_json else []
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stderr
    return done.stdout, json.loads(target.read_text()) if writes_json else None


@needs_library
def test_a_chat_computes_each_turn_once_and_goes_on_after_being_killed(tmp_path: Path) -> None:
    words = ("mini", "--turns", "3", "--words", "40", "--pauses", "0.3", "--max-tokens", "8")
    out, values = run(tmp_path, "chat_turns", *words)
    (turns,) = values.values()
    assert [turn["number"] for turn in turns] == [1, 2, 3, 4]
    assert turns[0]["reused_tokens"] == 0
    for before, turn in pairwise(turns):
        assert turn["reused_tokens"] > before["reused_tokens"]
        assert turn["computed"] < 2 * turns[0]["computed"]
    assert all(turn["model_s"] < turn["first_token_s"] for turn in turns)
    assert "4, after kill -9" in out


@needs_library
def test_restoring_spares_the_document_and_bytes_are_those_of_the_shape(tmp_path: Path) -> None:
    out, (figures,) = run(tmp_path, "restore", "mini", "--rounds", "1", "--tokens", "600")
    assert figures["computed"][0]["prompt_tokens"] > 600
    for kind in ("disk, warm", "disk, cold", "memory"):
        for restored in figures[kind]:
            assert restored["reused_tokens"] > 550
            assert restored["computed_tokens"] < 50
    (saved,) = figures["computed and saved"]
    assert saved["keep_s"] > 0
    assert saved["save_s"] > 0
    assert 512 <= figures["bytes"]["per_token"] < 1.01 * 512
    assert out.count("| from disk") == 2


@needs_library
def test_a_document_is_read_once_and_a_restart_costs_no_more(tmp_path: Path) -> None:
    words = ("tiny", "--rounds", "1", "--document", "300", "--question", "10", "--engines", "qwen-q4")
    _, values = run(tmp_path, "same_document", *words, "--work", str(tmp_path), "--probe-gb", "0.01")
    first, restarted = (item["figures"]["asked"] for item in values["runs"])
    assert first["the first"]["computed"] == 310
    assert first["another"]["computed"] == 10
    assert restarted["another, after a restart"]["computed"] == 10


@needs_library
def test_a_rounded_state_is_compared_step_by_step(tmp_path: Path) -> None:
    words = ("mini", "--documents", "1", "--tokens", "40", "--steps", "4", "--every", "2")
    picture = ("--pictures", str(ROOT / "examples" / "shapes.png"))
    out, _ = run(tmp_path, "state_dtype", *words, *picture, writes_json=False)
    assert out.count(" of 4 |") == 4
    assert "in bfloat16 0.03 MB" in out


def test_rounding_is_to_nearest() -> None:
    values = np.array([1.0, 1.0 + 2**-9, 1.0 + 2**-8 + 2**-9, 1.0 + 2**-7 - 2**-20, -3.0], np.float32)
    expected = np.array([1.0, 1.0, 1.0 + 2**-7, 1.0 + 2**-7, -3.0], np.float32)
    assert np.array_equal(to_bfloat16(values), expected)


def test_divergence_is_that_of_the_distributions() -> None:
    same = np.log(np.array([0.5, 0.25, 0.25]))
    assert divergence(same, same + 3.0) == pytest.approx(0.0, abs=1e-12)
    other = np.log(np.array([0.25, 0.5, 0.25]))
    assert divergence(same, other) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))


def test_pauses_cost_what_short_steps_take_beyond_their_tokens() -> None:
    """Two whole steps of a second; a rest of 100 tokens in two parts, the shorter of which is the pause's."""
    steps = [(512, 1.0), (1024, 2.0), (1084, 2.3), (1124, 2.45)]
    assert cost_of_pauses(steps) == pytest.approx(0.15 - 40 / 512)
    assert cost_of_pauses(steps[:3]) == 0.0
    assert cost_of_pauses([(60, 0.5), (100, 1.0)]) == 0.0
