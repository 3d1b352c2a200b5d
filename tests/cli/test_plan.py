"""`qwen plan`: what is said of a model before it is there, and the exit code that says whether it fits."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.hub_server import Site, hub_server

REPO = "Qwen/Qwen3.5-0.8B"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are measured on less than they should be."""
    monkeypatch.setattr("qwencli.bandwidth.PROBE_BYTES", 1 << 20)
    monkeypatch.setattr("qwencli.disk_speed.PROBE_BYTES", 8 << 20)


@pytest.fixture
def site(home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("qwen35.weights.remote.IMPATIENT_S", (0.01,))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server() as site:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.url)
        site.repos[REPO] = model_folder
        yield site


@pytest.fixture
def offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def planned(invoke: Invoke, *words: object) -> dict:
    result = invoke("plan", *words, "--json")
    assert result.out.count("\n") == 1
    values = json.loads(result.out)
    assert result.code == (0 if values["fits"] else 5)
    assert (values["error"] is None) == values["fits"]
    return values


def test_the_built_in_model_fits(invoke: Invoke, home: Path) -> None:
    result = invoke("plan", "mini")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^fits +yes$", result.out, re.MULTILINE)
    assert re.search(
        r"^speed +about [\d.,e+]+ tokens/s \(memory [\d.]+ GB/s, measured now\)$", result.out, re.M
    )
    assert "to fetch" not in result.out


def test_headers_alone_are_fetched(invoke: Invoke, site: Site, model_folder: Path) -> None:
    values = planned(invoke, "0.8b")
    assert values["fetch_bytes"] == sum(path.stat().st_size for path in model_folder.glob("*.safetensors"))
    assert values["known_from"] == "the headers of its files on the hub"
    assert values["license"] == "apache-2.0"
    assert site.bytes_sent() < 100_000
    assert not any("tokenizer.json" in path for path in site.requests)
    # The same as of the folder, as far as the two can be.
    own = planned(invoke, model_folder)
    for key in ("memory", "disk_bytes", "parameters", "bits_per_weight", "context"):
        found, expected = values[key], own[key]
        if key == "memory":
            del found["allowed_bytes"], expected["allowed_bytes"]
        assert found == expected


def test_without_a_network_the_catalogue_is_asked(invoke: Invoke, offline: None) -> None:
    result = invoke("plan", "35b-a3b", "--ram", "8G")
    assert re.search(r"^known from +the catalogue$", result.out, re.MULTILINE)
    assert re.search(r"^ +experts +[\d.]+ GB of 18\.1 GB: about \d+ of 256 in each layer", result.out, re.M)
    assert result.err.startswith("note: the hub was not asked, as HF_HUB_OFFLINE is set")
    assert "note" not in result.out


def test_what_does_not_fit_says_what_would_and_exits_with_5(invoke: Invoke, offline: None) -> None:
    values = planned(invoke, "27b", "--ram", "2G", "--ctx", "4096")
    assert values["error"]["code"] == 5
    assert values["error"]["kind"] == "does_not_fit"
    assert "needs at least" in values["why_not"]
    assert values["speed"] is None
    assert [other["name"] for other in values["instead"]][-1] in ("4b", "2b", "0.8b")
    result = invoke("plan", "27b", "--ram", "2G", "--ctx", "4096")
    assert result.code == 5
    assert re.search(r"^fits +no: This model needs at least", result.out, re.MULTILINE)
    assert re.search(r"^instead +\S+: [\d.]+ GB of memory, ", result.out, re.MULTILINE)


def test_a_context_longer_than_the_model_knows_is_cut(invoke: Invoke, home: Path) -> None:
    values = planned(invoke, "mini", "--ctx", "1000000")
    assert values["context"] < 1_000_000


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 4, "nothing: no such model"),
        (("0.8b:q3",), 2, "':q3' is none of :q4, :q8"),
        (("acme/nothing",), 8, "acme/nothing: no such repository on 127.0.0.1"),
        (("mini", "--ram", "much"), 2, "'much' is not a size"),
    ],
)
def test_what_cannot_be_planned(invoke: Invoke, site: Site, words: tuple, code: int, message: str) -> None:
    result = invoke("plan", *words)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err


def test_a_folder_is_planned_as_it_would_be_packed(invoke: Invoke, model_folder: Path) -> None:
    values = planned(invoke, model_folder)
    invoke("models", "pack", model_folder, "-o", "packed")
    own = planned(invoke, Path("packed"))
    assert values["disk_bytes"] == sum(path.stat().st_size for path in Path("packed").glob("*.bin"))
    assert own["disk_bytes"] == 0
    assert values["memory"]["weights_bytes"] == own["memory"]["weights_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere memory is counted in other ways")
def test_the_memory_is_what_a_question_takes(invoke: Invoke, home: Path) -> None:
    from qwen35.backends.native.library import load

    if load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    # Not getrusage: what this process had when the other one was begun counts there.
    script = (
        "import sys; from qwencli.app import main; code = main()\n"
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(peak, file=sys.stderr); sys.exit(code)"
    )
    words = ["ask", "-q", "--no-cache", "-m", "mini", "--temperature", "0", "word " * 100]
    done = subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True, text=True)
    peak = 1024 * int(done.stderr.split()[-1])
    planned_bytes = planned(invoke, "mini", "--ctx", "512")["memory"]["total_bytes"]
    assert planned_bytes == pytest.approx(peak, rel=0.15)
