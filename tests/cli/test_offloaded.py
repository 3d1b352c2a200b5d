"""`--ram`: a model whose experts do not all fit answers as it would, and says what that costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qwen35
from qwen35.backends.native import library as native
from qwen35.weights.manifest import read_manifest
from qwen35.weights.placement import WORKING_BYTES, text_experts
from tests.cli.conftest import Invoke

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"
MANIFEST = read_manifest(Path(qwen35.__file__).parent / "builtin" / "mini")
WHOLE = WORKING_BYTES + MANIFEST.data_bytes
EXPERTS = sum(entry.count * entry.stride for entry in MANIFEST.experts.values())

pytestmark = pytest.mark.skipif(
    native.load()[0] is None, reason="this platform has no compiler: experts are read by the native backend"
)


def ask(invoke: Invoke, *options: str) -> dict:
    result = invoke("ask", "-m", "mini", SHAPES, "describe", "--no-cache", "--json", *options)
    assert result.code == 0
    return json.loads(result.out)


def test_the_answer_is_the_same(invoke: Invoke) -> None:
    resident = ask(invoke)
    assert resident["experts"] is None
    for missing in (EXPERTS // 3, EXPERTS - 300_000):
        values = ask(invoke, "--ram", str(WHOLE - missing))
        assert values["answer"] == resident["answer"]
        use = values["experts"]
        assert use["misses"] > 0
        assert use["bytes_read"] == use["misses"] * next(iter(MANIFEST.experts.values())).stride
        assert use["hit_rate"] == round(use["hits"] / (use["hits"] + use["misses"]), 4)
        assert use["arena_bytes"] <= EXPERTS - missing
        assert any("of 1 MB of experts fit into memory" in note for note in values["notes"])


def test_verbose_tells_of_hits_and_waits(invoke: Invoke) -> None:
    result = invoke("ask", "-v", "-m", "mini", SHAPES, "describe", "--ram", str(WHOLE - EXPERTS // 2))
    assert "waited for the disk" in result.err
    assert "waited for the disk" not in invoke("ask", "-v", "-m", "mini", SHAPES, "describe").err


def test_too_little_says_the_least_that_works(invoke: Invoke) -> None:
    result = invoke("ask", "-m", "mini", SHAPES, "describe", "--ram", "100M")
    assert (result.code, result.out) == (5, "")
    assert (
        "needs at least 0.37 GB of memory, with its experts on the disk; --ram allows 0.10 GB" in result.err
    )


def test_it_may_come_from_the_environment_and_be_wrong(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_RAM", "100M")
    assert invoke("ask", "-m", "mini", SHAPES, "describe").code == 5
    assert (
        invoke("ask", "-m", "mini", SHAPES, "describe", "--ram", "auto").code == 5
    )  # auto leaves it as it is
    monkeypatch.setenv("QWEN_RAM", "lots")
    result = invoke("ask", "-m", "mini", SHAPES, "describe")
    assert (result.code, "QWEN_RAM" in result.err) == (2, True)


def test_the_next_run_begins_with_the_last_one_s_experts(invoke: Invoke, home: Path) -> None:
    command = ("ask", "-q", "-m", "mini", SHAPES, "describe", "--ram", str(WHOLE - 1))
    for option in ("--private", "--no-cache"):
        assert invoke(*command, option).code == 0
        assert not list(home.rglob("experts/*.json"))
    assert invoke(*command).code == 0
    (hot,) = home.rglob("experts/*.json")
    assert len(json.loads(hot.read_text())) == len(text_experts(MANIFEST))


def test_damage_is_found_when_an_expert_is_read(invoke: Invoke, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "mini"
    shutil.copytree(Path(qwen35.__file__).parent / "builtin" / "mini", folder)
    with (folder / "experts.bin").open("r+b") as file:
        for entry in MANIFEST.experts.values():  # one of them is needed
            for expert in range(entry.count):
                file.seek(entry.offset + expert * entry.stride + 100)
                file.write(b"\xa5" * 8)
    result = invoke("ask", "-m", folder, SHAPES, "describe", "--ram", str(WHOLE - 1))
    assert (result.code, result.out) == (4, "")
    assert "experts.bin: expert" in result.err
    assert "is damaged" in result.err


def test_two_processes_share_one_model(home: Path) -> None:
    command = [sys.executable, "-m", "qwencli", "ask", "-q", "-m", "mini", str(SHAPES), "describe"]
    command += ["--ram", str(WHOLE - EXPERTS // 2)]
    environment = os.environ | {"QWEN_HOME": str(home)}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    answers = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert answers[0] == answers[1] != b""


def test_what_does_not_fit_at_all_is_mapped_and_said(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: 1000)
    values = ask(invoke)
    assert values["experts"] is None
    assert any("larger than the free memory" in note for note in values["notes"])


def test_it_is_said_where_it_does_nothing(invoke: Invoke) -> None:
    result = invoke("ask", "-m", "mini-bf16", SHAPES, "describe", "--ram", "8G")
    assert result.code == 0
    assert "note: --ram: for packed models alone" in result.err


def test_bench_tells_of_them(invoke: Invoke) -> None:
    command = ("bench", "-m", "mini", "--rounds", "1", "--tokens", "4", "--ram", str(WHOLE - EXPERTS // 2))
    assert "waited for the disk" in invoke(*command).out
    values = json.loads(invoke(*command, "--json").out)
    assert 0 < values["experts"]["hit_rate"] < 1
    assert values["bandwidth_share"] is None
