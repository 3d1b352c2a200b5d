"""`--ram`: a model that does not fit into memory answers as it would, and says what that costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qwen35
from qwen35.backends.native import library as native
from qwen35.engine.load import load_engine
from qwen35.errors import DoesNotFit
from qwen35.weights.manifest import read_manifest
from qwen35.weights.pack import pack
from qwen35.weights.placement import WORKING_BYTES, text_experts
from qwencli import runtime
from qwencli.folders import Folders
from qwencli.known_models import find_or_choose_model
from qwencli.settings import Settings
from tests.cli.conftest import Invoke
from tests.model.reference import Shape
from tests.model.weights.packing import least_ram, tiny_checkpoint

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
        needed_bytes = use["bytes_read"] - use["bytes_wasted"]
        assert needed_bytes == use["misses"] * next(iter(MANIFEST.experts.values())).stride
        assert use["hit_rate"] == round(use["hits"] / (use["hits"] + use["misses"]), 4)
        is_tight = EXPERTS - missing < EXPERTS // 2  # then they have the room of what sees pictures, too
        assert use["arena_bytes"] <= EXPERTS - (0 if is_tight else missing)
        assert is_tight == any("what sees pictures is not kept in memory" in note for note in values["notes"])
        # mini's experts all fit into the room of its vision encoder: then there is nothing to say of them.
        told = any("of 1 MB of experts fit into memory" in note for note in values["notes"])
        assert told == (not is_tight)


def test_verbose_tells_of_hits_and_waits(invoke: Invoke) -> None:
    result = invoke("ask", "-v", "-m", "mini", SHAPES, "describe", "--ram", str(WHOLE - EXPERTS // 2))
    assert "waited for the disk" in result.err
    assert "waited for the disk" not in invoke("ask", "-v", "-m", "mini", SHAPES, "describe").err


def test_too_little_says_the_least_that_works(invoke: Invoke) -> None:
    result = invoke("ask", "-m", "mini", SHAPES, "describe", "--ram", "100M")
    assert (result.code, result.out) == (5, "")
    assert (
        "needs at least 0.37 GB of memory, with its layers and experts on the disk; --ram allows 0.10 GB"
        in result.err
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


def test_an_interrupted_run_leaves_its_experts_to_the_next(home: Path) -> None:
    program = """
import os, signal, sys
from qwen35.engine.answer import Answer
take, taken = Answer.take, []
def interrupted(self, logits):
    taken.append(1)
    if len(taken) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return take(self, logits)
Answer.take = interrupted
from qwencli.app import main
sys.exit(main())
"""
    words = ("ask", "-q", "-m", "mini", str(SHAPES), "describe", "--ram", str(WHOLE - EXPERTS // 2))
    for options, is_kept in ((("--no-cache",), False), (("--private",), False), ((), True)):
        done = subprocess.run(
            [sys.executable, "-c", program, *words, *options], env=os.environ | {"QWEN_HOME": str(home)}
        )
        assert done.returncode == 130
        assert bool(list(home.rglob("experts/*.json"))) == is_kept


def test_no_more_is_taken_than_is_free(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engine.load", "weights.placement"):
        monkeypatch.setattr(f"qwen35.{module}.available_memory", lambda: WHOLE - EXPERTS // 3)
    values = ask(invoke, "--ram", "64G")
    assert values["experts"]["misses"] > 0
    assert "--ram allows 64.0 GB, but 0.4 GB of memory are free: no more is taken" in values["notes"]
    assert not any(
        "of memory are free" in note for note in ask(invoke, "--ram", str(WHOLE - EXPERTS // 2))["notes"]
    )


def test_a_load_that_fails_leaves_no_file_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_CPU", "z80")
    folder = Path(qwen35.__file__).parent / "builtin" / "mini"

    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = num_open()
    for _ in range(3):
        with pytest.raises(DoesNotFit, match="z80"):
            load_engine(folder, ram=WHOLE - EXPERTS // 2)
    assert num_open() == before


def test_in_a_container_its_limit_counts(
    invoke: Invoke, home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the model that is chosen unasked, and for the states that are kept in memory."""
    assert invoke("models", "pack", model_folder).code == 0
    monkeypatch.setattr("qwen35.memory.memory_limit", lambda: 400_000_000)
    assert runtime.states_of(Settings(), home, is_private=False).ram_bytes == 40_000_000
    assert runtime.states_of(Settings(ram=2 * 10**8), home, is_private=False).ram_bytes == 20_000_000
    folders = Folders.locate({"QWEN_HOME": str(home)})
    assert find_or_choose_model(None, folders).name == "tiny-q4"
    assert find_or_choose_model(None, folders, 10_000).name == "mini"
    monkeypatch.setattr("qwen35.memory.memory_limit", lambda: 10_000)
    assert find_or_choose_model(None, folders).name == "mini"


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


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model without experts, with pictures."""
    folder = tmp_path_factory.mktemp("dense")
    shape = Shape(is_moe=False, ratio=3, is_tied=False, num_layers=8)
    pack(tiny_checkpoint(folder / "source", shape), folder / "packed", "q4")
    return folder / "packed"


def test_layers_are_read_at_every_step_where_they_do_not_fit(invoke: Invoke, dense: Path) -> None:
    command = ("ask", "-m", dense, SHAPES, "describe", "--no-cache", "--json", "--seed", "1")
    resident = json.loads(invoke(*command, "--max-tokens", "12").out)
    steps = 12  # the prompt, and a step for all tokens but the last
    for more, kept in ((0, 0), (200_000, 4)):
        ram = str(least_ram(dense) + more)
        values = json.loads(invoke(*command, "--max-tokens", "12", "--ram", ram).out)
        assert values["answer"] == resident["answer"] != ""
        assert (values["experts"], resident["layers"]) == (None, None)
        use = values["layers"]
        assert (use["hits"], use["misses"]) == (kept * steps, (8 - kept) * steps)
        assert 30_000 < use["bytes_read"] / use["misses"] < 60_000
        assert any(note.startswith(f"{kept} of 8 layers fit into memory") for note in values["notes"])


def test_layers_and_experts_are_read(invoke: Invoke) -> None:
    mini = Path(qwen35.__file__).parent / "builtin" / "mini"
    values = ask(invoke, "--ram", str(least_ram(mini)))
    assert values["answer"] == ask(invoke)["answer"]
    assert values["experts"]["misses"] > 0
    assert values["layers"]["misses"] > 0
    assert values["layers"]["hits"] == 0


def test_verbose_tells_of_layers(invoke: Invoke, dense: Path) -> None:
    result = invoke("ask", "-v", "-m", dense, "hello", "--max-tokens", "4", "--ram", str(least_ram(dense)))
    assert "layers" in result.err
    assert "waited for the disk" in result.err


def test_the_least_is_enough_for_a_process(home: Path, dense: Path) -> None:
    command = [sys.executable, "-m", "qwencli", "ask", "-m", str(dense), str(SHAPES), "describe"]
    command += ["--seed", "1", "--max-tokens", "12", "--no-cache"]
    least = [*command, "--ram", str(least_ram(dense))]
    environment = os.environ | {"QWEN_HOME": str(home)}
    runs = [subprocess.run(words, capture_output=True, env=environment) for words in (command, least)]
    assert runs[0].stdout == runs[1].stdout != b""
    assert [run.returncode for run in runs] == [7, 7]  # cut at --max-tokens
    assert b"0 of 8 layers fit into memory" in runs[1].stderr
    short = [*command, "--ram", str(least_ram(dense) - 1)]
    refused = subprocess.run(short, capture_output=True, env=environment)
    assert (refused.returncode, refused.stdout) == (5, b"")


def test_a_damaged_layer_is_named(invoke: Invoke, dense: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(dense, folder)
    entry = read_manifest(folder).tensors["language_model.layers.3.mlp.up_proj.weight"]
    with (folder / entry.file).open("r+b") as file:
        file.seek(entry.offset + 500)
        file.write(b"\xa5" * 8)
    result = invoke("ask", "-m", folder, "hello", "--ram", str(least_ram(dense)))
    assert (result.code, result.out) == (4, "")
    assert "text.bin: 'language_model.layers.3.mlp.up_proj.weight' is damaged" in result.err


def test_what_does_not_fit_at_all_is_mapped_and_said(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: 1000)
    values = ask(invoke)
    assert values["experts"] is None
    assert any("larger than the free memory" in note for note in values["notes"])


def test_bench_tells_of_them(invoke: Invoke) -> None:
    command = ("bench", "-m", "mini", "--rounds", "1", "--tokens", "4", "--ram", str(WHOLE - EXPERTS // 2))
    assert "waited for the disk" in invoke(*command).out
    values = json.loads(invoke(*command, "--json").out)
    assert 0 < values["experts"]["hit_rate"] < 1
    assert values["bandwidth_share"] is None
