"""`qwen bench` on the built-in model, as a process of its own: what it measures must not load torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35.backends.native import library as native
from qwen35.errors import InputError
from qwencli import bandwidth
from qwencli.commands import bench
from tests.cli.conftest import Invoke

BENCH = """
import sys
from qwencli.app import main
code = main()
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
SHORT = ("--tokens", "4", "--rounds", "2")


def test_the_built_in_model_is_measured_without_torch(home: Path) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    words = ("bench", "--tokens", "4", "--rounds", "1", "--threads", "1", "--json")
    command = [sys.executable, "-c", BENCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"QWEN_HOME": str(home)})
    assert (done.returncode, done.stderr) == (0, "False\n")
    values = json.loads(done.stdout)
    assert (values["model"], values["tokens"], values["threads"]) == ("mini", 4, 1)
    assert values["backend"].startswith("native (")
    assert 0 < values["prompt_tokens"] <= bench.PROMPT_TOKENS
    for figure in ("prefill_tokens_per_s", "decode_tokens_per_s", "first_token_s", "bandwidth_bytes_per_s"):
        assert values[figure] > 0
    assert values["bytes_per_token"] > 100_000
    assert values["bandwidth_share"] is None  # it stays in the caches
    assert values["error"] is None


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "PROBE_BYTES", 1 << 20)


@pytest.mark.usefixtures("quick_probe")
def test_the_report_tells_rates_and_the_limit(invoke: Invoke) -> None:
    result = invoke("bench", "-m", "mini", *SHORT)
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.out.splitlines())
    assert "mini, packed in q" in lines["model"]
    assert "tokens/s" in lines["prefill"]
    assert "4 tokens" in lines["decode"]
    assert "caches" in lines["limit"] or "reached" in lines["limit"]


@pytest.mark.usefixtures("quick_probe")
def test_a_model_beyond_the_caches_has_a_share(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "CACHE_BYTES", 0)
    values = json.loads(invoke("bench", "-m", "mini", *SHORT, "--json").out)
    rates = [speed["decode_tokens_per_s"] for speed in values["rounds"]]
    assert len(rates) == 2
    assert min(rates) - 0.01 <= values["decode_tokens_per_s"] <= max(rates) + 0.01
    share = values["decode_tokens_per_s"] * values["bytes_per_token"] / values["bandwidth_bytes_per_s"]
    assert values["bandwidth_share"] == pytest.approx(share, abs=0.001)


@pytest.mark.usefixtures("quick_probe")
def test_of_a_model_that_is_not_packed_the_limit_is_not_known(invoke: Invoke, model_folder: Path) -> None:
    values = json.loads(invoke("bench", "-m", model_folder, *SHORT, "--json").out)
    assert (values["quant"], values["bytes_per_token"], values["bandwidth_share"]) == (None, None, None)
    assert values["decode_tokens_per_s"] > 0
    lines = invoke("bench", "-m", model_folder, *SHORT).out.splitlines()
    assert lines[0].split(", ")[1] == "not packed"
    assert lines[-1].split()[1:3] == ["not", "known:"]


def test_its_help_imports_nothing_heavy(home: Path) -> None:
    program = """
import sys
sys.argv = ["qwen", "bench", "--help"]
from qwencli.app import main
assert main() == 0
assert not {"torch", "numpy", "rich", "statistics"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_more_tokens_than_the_context_holds_are_refused(invoke: Invoke) -> None:
    result = invoke("bench", "-m", "mini", "--tokens", "1000000", "--json")
    assert result.code == 2
    assert "context holds" in json.loads(result.out)["error"]["message"]


def test_the_device_reaches_the_loader(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_engine(folder: Path, **how: object) -> None:
        asked.append(how["device"])
        raise InputError("far enough")

    monkeypatch.setattr("qwen35.engine.load.load_engine", load_engine)
    for words in ((), ("--device", "cuda"), ("--device", "cpu")):
        assert invoke("bench", "-m", "mini", *SHORT, *words).code == 3
    assert asked == ["auto", "cuda", "cpu"]


def test_an_unknown_model_is_told(invoke: Invoke) -> None:
    result = invoke("bench", "-m", "nowhere")
    assert (result.code, result.out) == (4, "")
    assert "nowhere: no such model" in result.err


def test_a_buffer_is_read_by_all_threads() -> None:
    assert bandwidth.read_bandwidth(2, 1 << 20) > 1e6


def test_where_nothing_is_free_a_little_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "available_memory", lambda: 0)
    assert bandwidth.read_bandwidth(2) > 1e6
