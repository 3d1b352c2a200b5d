"""Each benchmark from its command line to its table, on shapes that are no models, with our side alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import expert_policies
from qwen35.backends.native import library as native
from qwen35.weights.manifest import read_manifest
from qwen35.weights.placement import WORKING_BYTES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmarks write models, and find those of the test before."""
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    return tmp_path_factory.mktemp("models")


def run(work: Path, script: str, *words: str) -> tuple[str, str, dict]:
    """Standard output, standard error, and what --json wrote."""
    target = work / f"{script}.json"
    options = ["--rounds", "1", "--probe-gb", "0.01", "--work", str(work), "--json", str(target)]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *words, *options]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stderr
    return done.stdout, done.stderr, json.loads(target.read_text())


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_decode_has_a_row_for_each_recipe(work: Path) -> None:
    words = ("tiny", "--engines", "qwen-q4,qwen", "--prompt", "8", "--tokens", "4", "--busy", "1")
    out, err, values = run(work, "decode", *words)
    assert [row[:2] for row in rows(out)] == [
        ["qwen, all q4", "q4"],
        ["qwen, default recipe", "q8"],
        ["qwen, all q4, 1 busy neighbours", "q4"],
        ["qwen, default recipe, 1 busy neighbours", "q8"],
    ]
    assert "round 1/1" in err
    assert "RAM" in out
    assert "python benchmarks/decode.py tiny" in out
    assert all(run["figures"]["tokens_per_s"] > 0 for run in values["runs"])
    assert all(run["bandwidth"] > 0 for run in values["runs"])
    few, many = (item["bytes_per_token"] for item in values["contenders"][:2])
    assert few < many


@pytest.mark.parametrize("size", ["tiny", "tiny-moe"])
def test_the_time_goes_to_kernels(work: Path, size: str) -> None:
    words = (size, "--prompt", "600", "--tokens", "4", "--work", str(work))
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels.py"), *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    decode, prefill = done.stdout.split("Prefill of")
    calls = {row[0]: row for row in rows(decode)}
    assert {"qw_linear", "qw_attention", "qw_head", "between calls"} < set(calls)
    parts = [float(row[2]) for name, row in calls.items() if name != "all"]
    assert sum(parts) == pytest.approx(float(calls["all"][2]), abs=0.01 * len(parts))
    assert "last 88" in prefill


def test_prefill_takes_every_length(work: Path) -> None:
    out, _, values = run(work, "prefill", "tiny-moe", "--engines", "qwen", "--tokens", "40,8")
    (run_of_ours,) = values["runs"]
    assert [prompt["tokens"] for prompt in run_of_ours["figures"]["prompts"]] == [8, 40]
    assert len(rows(out)) == 1


def test_experts_on_the_disk_are_measured_beside_all_in_memory(work: Path) -> None:
    run(work, "decode", "tiny-moe", "--engines", "qwen-q4")
    (folder,) = work.glob("tiny-moe-*-all-q4-*")
    ram = WORKING_BYTES + read_manifest(folder).data_bytes - 1
    options = ("--engines", "qwen-q4", "--no-group", "--ram", f"{ram}", "--tokens", "5", "--prompt", "16")
    out, _, values = run(work, "experts", "tiny-moe", *options)
    assert [row[0].rpartition(", ")[2] for row in rows(out)] == [
        *("all in memory", "uniform routing", "local routing")
    ]
    for item in values["runs"][1:]:
        assert 0 < item["figures"]["hit_rate"] <= 1
        assert item["figures"]["disk_bytes_per_s"] > 0


def test_the_policies_are_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["expert_policies.py", "--tokens", "60"])
    expert_policies.main()
    table = rows(capsys.readouterr().out)
    assert {row[0] for row in table} == {"mini", "published locality"}
    for row in table:
        assert all(0 < float(cell.rstrip("%")) <= 100 for cell in row[2:6])


def test_load_is_measured_cold_and_warm_read_and_mapped(work: Path) -> None:
    out, _, values = run(work, "load", "tiny", "--engines", "qwen")
    assert [row[0].rpartition("recipe, ")[2] for row in rows(out)] == [
        *("read, cold", "read, warm", "mmap, cold", "mmap, warm")
    ]
    for item in values["runs"]:
        assert 0 < item["figures"]["loaded_s"] < item["figures"]["first_token_s"]
        assert item["figures"]["memory"]["resident"] > 0


def test_vision_takes_every_picture(work: Path) -> None:
    out, _, values = run(work, "vision", "tiny", "--engines", "qwen", "--pictures", "256x256,512x256")
    assert [item["figures"]["patches"] for item in values["runs"]] == [256, 512]
    assert [row[1:3] for row in rows(out)] == [["256", "64"], ["512", "128"]]


def test_a_missing_peer_is_said_and_the_rest_goes_on(work: Path) -> None:
    words = ("tiny", "--engines", "qwen,llama", "--prompt", "8", "--tokens", "4")
    out, err, _ = run(work, "decode", *words, "--llama-python", str(work / "no-python"))
    assert "llama.cpp takes no part" in err
    assert [row[0] for row in rows(out)] == ["qwen, default recipe"]


def test_a_soak_tells_memory_threads_and_files(work: Path) -> None:
    run(work, "decode", "tiny-moe", "--engines", "qwen-q4")
    (folder,) = work.glob("tiny-moe-*-all-q4-*")
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), str(folder), "--minutes", "0.05"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    samples = rows(done.stdout)
    tokens = [int(row[4].replace(",", "")) for row in samples]
    assert tokens == sorted(tokens)
    assert tokens[0] > 0
    assert max(int(row[3]) for row in samples) < 20, "files are left open"
    assert "questions; peak" in done.stdout
