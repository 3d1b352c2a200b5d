"""What comes before any work: help, version, completion. It must be quick, so it imports little."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "PIL",
    "httpx",
    "jinja2",
    "tokenizers",
    "rich",
    "psutil",
)


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"]])
def test_help_imports_nothing_heavy(home: object, words: list[str]) -> None:
    program = f"""
import sys
sys.argv = ["qwen", *{words!r}]
from qwencli.app import main
assert main() == 0
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("Usage: qwen")


def test_a_dry_run_imports_no_torch(home: object, model_folder: object) -> None:
    program = f"""
import sys
sys.argv = ["qwen", "ask", "--dry-run", "-m", {str(model_folder)!r}, "hello"]
from qwencli.app import main
assert main() == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_without_words_the_help_is_shown(invoke: Invoke) -> None:
    result = invoke()
    assert (result.code, result.err) == (0, "")
    assert all(command in result.out for command in ("ask", "doctor", "models"))


def test_the_help_of_ask_names_every_exit_code_it_has(invoke: Invoke) -> None:
    text = " ".join(invoke("ask", "--help").out.split())
    assert "0 answered, 2 usage, 3 input unusable, 4 model unusable, 5 does not fit" in text
    assert "7 answer incomplete (cut, in a loop, not by the schema), 8 network" in text
    assert "9 output unwritable, 130 interrupted" in text


def test_help_fits_80_columns(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, invoke("ask", "--help").out.splitlines())) <= 80


@pytest.mark.parametrize("group", [(), ("models",), ("cache",), ("chats",), ("templates",)])
def test_lists_of_commands_say_whole_sentences(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = invoke(*group, "--help").out.partition("Commands:\n")[2].splitlines()
    assert len(listed) >= 3
    assert all(line.endswith(".") and not line.endswith("...") for line in listed), listed


def test_the_version_is_that_of_the_package(invoke: Invoke) -> None:
    assert invoke("--version").out == f"qwen {version('qwen')}\n"


def test_help_on_a_full_disk_exits_with_9(home: object) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this platform has no /dev/full")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qwencli", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (9, 1)


def test_an_unknown_command_is_one_line_with_a_suggestion(invoke: Invoke) -> None:
    result = invoke("aks")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert "ask" in result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_completion_script(home: object, shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwencli", "--show-completion", shell],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "_QWEN_COMPLETE" in done.stdout) == (0, True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /sys of Linux, where nobody may make files")
def test_completion_that_cannot_be_installed_exits_with_9(home: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwencli", "--install-completion", "bash"],
        env=os.environ | {"HOME": "/sys"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (9, 1)
    assert done.stderr.startswith("error: Cannot write /sys/.bash")


def complete(line: str) -> list[str]:
    """What bash offers after `line`."""
    words = line.split(" ")
    environment = os.environ | {
        "_QWEN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "qwencli"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_options_and_values_are_completed(home: object) -> None:
    assert complete("qwen d") == ["doctor"]
    assert complete("qwen ask --tempe") == ["--temperature"]
    assert complete("qwen ask --device c") == ["cpu", "cuda"]
    assert complete("qwen ask --think o") == ["off", "on"]


def test_model_names_are_completed(home: Path) -> None:
    folder = home / "data" / "models" / "my-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert complete("qwen ask -m my") == ["my-model"]
    assert complete("qwen models show my") == ["my-model"]
