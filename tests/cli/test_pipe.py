"""What a program sees that reads qwen's output."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwencli import runtime
from tests.cli.conftest import Invoke, Result
from tests.cli.scripted import load

Scripted = Callable[..., Result]


@pytest.fixture
def scripted(invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """`qwen ask hello WORDS` with the engine's script of that name, in this process."""
    monkeypatch.setattr(runtime, "load", load)

    def run(script: str, *words: object) -> Result:
        monkeypatch.setenv("SCRIPTED_ENGINE", script)
        return invoke("ask", "hello", "-m", model_folder, *words)

    return run


@pytest.fixture
def command(home: Path, model_folder: Path) -> Callable[[str, str], subprocess.CompletedProcess]:
    """A shell command in which $QWEN is `qwen ask hello` with the engine's script of that name."""

    def run(script: str, line: str) -> subprocess.CompletedProcess:
        qwen = f'"{sys.executable}" -m tests.cli.scripted ask hello -m "{model_folder}"'
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line.replace('$QWEN', qwen)}"],
            env=os.environ | {"SCRIPTED_ENGINE": script},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_the_answer_stands_alone_with_one_newline(scripted: Scripted) -> None:
    assert scripted("plain") == Result(0, "Two circles.\n", "")


def test_notes_and_reasoning_go_to_standard_error(scripted: Scripted) -> None:
    note = "note: scan.png: 4000x3000 resized to 1024x768 (768 image tokens)\n"
    assert scripted("thinking") == Result(0, "Two.\n", f"{note}Let me look.\n")
    assert scripted("thinking", "-q") == Result(0, "Two.\n", "")
    assert scripted("thinking", "--json").err == note


def test_the_answer_is_not_changed_for_a_program(scripted: Scripted) -> None:
    assert scripted("hostile").out == "\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202egnp.exe\r\n"


def test_json_is_one_object_on_one_line(scripted: Scripted) -> None:
    result = scripted("thinking", "--json")
    record = json.loads(result.out)
    assert record["id"].startswith("ask-")
    assert record["timings"].pop("load_s") > 0
    assert record == {
        "schema_version": 1,
        "id": record["id"],
        "item": None,
        "model": record["model"],
        "backend": "script",
        "answer": "Two.",
        "answers": ["Two."],
        "data": None,
        "where": None,
        "reasoning": "Let me look.",
        "logprobs": None,
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 100,
            "cached_tokens": 0,
            "image_tokens": 64,
            "video_tokens": 0,
            "completion_tokens": 7,
            "reasoning_tokens": 3,
        },
        "timings": {
            "media_s": 0.1,
            "prefill_s": 0.2,
            "first_token_s": 0.3,
            "decode_s": 0.4,
            "prefill_tokens_per_s": 500.0,
            "decode_tokens_per_s": 17.5,
        },
        "attachments": [],
        "chat_id": None,
        "cache": {"reused_tokens": 0, "reason": None},
        "experts": None,
        "layers": None,
        "speculated": None,
        "windows": None,
        "notes": ["scan.png: 4000x3000 resized to 1024x768 (768 image tokens)"],
        "error": None,
    }


def test_jsonl_tells_events_and_ends_with_the_object(scripted: Scripted) -> None:
    *events, last = [json.loads(line) for line in scripted("plain", "--jsonl").out.splitlines()]
    assert events == [
        {"type": "prefill_progress", "done": 100, "total": 100},
        {"type": "prefilled", "prompt_tokens": 100, "cached_tokens": 0, "seconds": 0.3, "miss_reason": None},
        {"type": "text", "text": "Two "},
        {"type": "text", "text": "circles"},
        {"type": "text", "text": ".\n"},
        {"type": "text", "text": "\n"},
    ]
    assert (last.pop("type"), last["answer"]) == ("result", "Two circles.\n\n")
    assert list(last) == list(json.loads(scripted("plain", "--json").out))


def test_a_cut_answer_keeps_what_there_is(scripted: Scripted) -> None:
    note = "the answer was cut after 7 tokens; see --max-tokens and --ctx"
    assert scripted("cut") == Result(7, "Two cir\n", f"note: {note}\n")
    record = scripted("cut", "--json")
    values = json.loads(record.out)
    assert record.code == 7
    assert (values["answer"], values["finish_reason"], values["error"]) == ("Two cir", "length", None)
    assert values["notes"] == [note]


def test_a_bug_keeps_its_traceback_and_exits_with_1(scripted: Scripted) -> None:
    result = scripted("bug")
    assert (result.code, result.out) == (1, "Two \n")
    assert result.err.startswith("Traceback")
    assert result.err.endswith("ZeroDivisionError: a bug of ours\n")
    record = scripted("bug", "--json")
    assert json.loads(record.out)["error"] == {
        "code": 1,
        "kind": "bug",
        "message": "ZeroDivisionError: a bug of ours",
        "path": None,
    }


@pytest.mark.parametrize(
    ("script", "code", "kind"),
    [("too_big", 5, "does_not_fit"), ("no_memory", 5, "does_not_fit"), ("broken_load", 4, "checkpoint")],
)
def test_a_failure_of_the_engine_is_one_line(scripted: Scripted, script: str, code: int, kind: str) -> None:
    result = scripted(script, "--json")
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert json.loads(result.out)["error"]["kind"] == kind


def test_a_reader_that_leaves_ends_it_quietly(command: Callable) -> None:
    done = command("endless", "$QWEN | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "line 1\n", "")


def test_a_reader_of_json_lines_may_leave_too(command: Callable) -> None:
    done = command("endless", "$QWEN --jsonl | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"type": "text", "text": "line 1\n"}


@pytest.mark.parametrize("form", ["", "--json", "--jsonl"])
def test_a_full_disk_exits_with_9(command: Callable, form: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this platform has no /dev/full")
    done = command("plain", f"$QWEN {form} > /dev/full")
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == "error: Standard output cannot be written (No space left on device).\n"


def test_a_closed_standard_output_exits_with_9(command: Callable) -> None:
    done = command("plain", "$QWEN >&-")
    assert (done.returncode, done.stderr.count("\n")) == (9, 1)
    assert done.stderr.startswith("error: Standard output is closed")


def test_a_closed_standard_error_hinders_nothing(command: Callable) -> None:
    done = command("thinking", "$QWEN 2>&-")
    assert (done.returncode, done.stdout) == (0, "Two.\n")


def test_output_is_utf_8_whatever_the_locale(command: Callable) -> None:
    done = command("hostile", "LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=latin-1 $QWEN | od -c | grep -c 342")
    assert done.stdout == "1\n"  # U+202E begins with octal 342 in UTF-8


def test_the_answer_is_written_while_it_is_made(home: Path, model_folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.scripted", "ask", "hello", "-m", str(model_folder)],
        env=os.environ | {"SCRIPTED_ENGINE": "waiting"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        is_there, _, _ = select.select([process.stdout], [], [], 30)
        process.kill()
        assert is_there
        assert process.stdout.read() == b"a line\nand"
