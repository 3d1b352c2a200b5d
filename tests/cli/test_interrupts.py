"""Ctrl-C and SIGTERM, at every point of a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.terminal import run_in_terminal

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux"),
    pytest.mark.usefixtures("home"),
]


def start(
    model: Path, *words: str, module: str = "tests.cli.scripted", script: str = "endless"
) -> subprocess.Popen:
    """A process that has come as far as handling signals."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "ask", "hello", "-m", str(model), *words],
        env=os.environ | {"SCRIPTED_ENGINE": script},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.01)
    return process


def interrupt(process: subprocess.Popen, signum: int, after_s: float) -> tuple[int, str, str]:
    with process:
        time.sleep(after_s)
        process.send_signal(signum)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()  # else it would be waited for
            raise
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_part_that_was_answered_stays(model_folder: Path, signum: int, code: int) -> None:
    process = start(model_folder)
    assert process.stdout is not None
    begun = process.stdout.readline().decode()
    returned, out, err = interrupt(process, signum, after_s=0.1)
    assert (returned, err) == (code, "")
    assert (begun + out).startswith("line 1\nline 2\n")
    assert out.endswith("\n")


@pytest.fixture
def wait_for_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns when the scripted engine of a process that was started has come to work."""
    sign = tmp_path / "ready"
    monkeypatch.setenv("SCRIPTED_READY", str(sign))

    def wait() -> None:
        while not sign.exists():
            time.sleep(0.01)

    return wait


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_json_says_interrupted_and_keeps_the_part(
    model_folder: Path, wait_for_engine: Callable[[], None], form: str
) -> None:
    process = start(model_folder, form)
    wait_for_engine()
    code, out, err = interrupt(process, signal.SIGINT, after_s=1)
    lines = out.splitlines()
    record = json.loads(lines[-1])
    assert (code, err) == (130, "")
    assert (record["finish_reason"], record["error"]) == ("interrupted", None)
    assert record["answer"].startswith("line 1\n")
    assert (len(lines) == 1) == (form == "--json")


def test_an_import_that_turns_the_interrupt_into_another_error_is_interrupted(
    model_folder: Path, wait_for_engine: Callable[[], None]
) -> None:
    process = start(model_folder, script="half_import")
    wait_for_engine()
    assert interrupt(process, signal.SIGINT, after_s=0.3) == (130, "", "")


# Ctrl-C in the middle of the imports, before the program itself takes it.
IMPORTING = """
import signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["qwen", "--version"]
"""


@pytest.mark.parametrize(
    "start",
    [
        "import runpy; runpy.run_module('qwencli', run_name='__main__')",
        "from importlib.metadata import EntryPoint as E; import tomllib\n"
        "scripts = tomllib.load(open({pyproject!r}, 'rb'))['project']['scripts']\n"
        "sys.exit(E('qwen', scripts['qwen'], 'console_scripts').load()())",
    ],
    ids=["module", "script"],
)
def test_an_interrupt_during_the_imports_is_no_traceback(start: str) -> None:
    pyproject = str(Path(__file__).parents[2] / "pyproject.toml")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING + start.replace("{pyproject!r}", repr(pyproject))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("after_s", [0.2, 0.6, 1.2])
def test_loading_can_be_interrupted_at_any_time(model_folder: Path, after_s: float) -> None:
    process = start(model_folder, "--json", "--temperature", "0", module="qwencli")
    code, out, err = interrupt(process, signal.SIGINT, after_s)
    assert (code, err) == (130, "")
    assert json.loads(out)["finish_reason"] == "interrupted"


def test_an_interrupted_terminal_keeps_its_cursor_and_the_answer(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="endless", model=model_folder, interrupt_after="line 5")
    assert session.code == -signal.SIGINT  # a shell counts this as 130, and ends its loop
    assert session.screen.rfind("\x1b[?25h") > session.screen.rfind("\x1b[?25l")
    assert "Traceback" not in session.screen


def test_an_ignored_interrupt_stays_ignored(model_folder: Path) -> None:
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            f"trap '' INT; exec '{sys.executable}' -m tests.cli.scripted ask hello -m '{model_folder}'",
        ],
        env=os.environ | {"SCRIPTED_ENGINE": "endless"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        for _ in range(20):
            assert process.stdout.readline()
        process.kill()
