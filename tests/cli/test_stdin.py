"""Standard input in the shell's many ways: pipes, files, loops, and a pipe that nobody writes to."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import Invoke, Result

WAITED = "note: nothing came on standard input within 2 s; going on without it (use - to wait)\n"


@pytest.fixture
def dry_run(invoke: Invoke, model_folder: Path) -> Invoke:
    """The prompt that WORDS make, as JSON; `input` is in a pipe on descriptor 0."""

    def run(*words: object, **options: Any) -> Result:
        return invoke("ask", "--dry-run", "--json", "-m", model_folder, *words, **options)

    return run


@pytest.fixture
def dry_process(home: Path, model_folder: Path) -> Invoke:
    """The same by a process of its own, whose standard input is `stdin`."""

    def run(*words: object, stdin: Any) -> Result:
        command = [sys.executable, "-m", "qwencli", "ask", "--dry-run", "--json", "-m", model_folder, *words]
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=60)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def shell(home: Path, model_folder: Path) -> Callable[[str], Result]:
    """A bash script in which `qwen` is this program and $M the model."""

    def run(script: str) -> Result:
        preamble = f'qwen() {{ "{sys.executable}" -m qwencli "$@"; }}; M="{model_folder}"\n'
        done = subprocess.run(
            ["bash", "-c", preamble + script], capture_output=True, timeout=60, stdin=subprocess.DEVNULL
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def question(result: Result) -> str:
    """The user's message."""
    assert result.code == 0, result.err
    prompt = json.loads(result.out)["prompt"]
    return prompt.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def test_piped_text_goes_before_the_prompt(dry_run: Invoke) -> None:
    result = dry_run("summarise", input=b"one\ntwo\n")
    assert (question(result), result.err) == ("one\ntwo\n\nsummarise", "")
    assert json.loads(result.out)["attachments"][0]["source"] == "stdin"


def test_a_file_as_standard_input_is_read(dry_process: Invoke, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with (tmp_path / "notes.txt").open("rb") as file:
        assert question(dry_process("summarise", stdin=file)) == "notes\n\nsummarise"


def test_a_piped_picture_is_seen_by_its_bytes(dry_run: Invoke) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    result = dry_run("describe", input=buffer.getvalue())
    assert question(result) == "<|vision_start|><|image_pad|><|vision_end|>describe"
    assert json.loads(result.out)["usage"]["image_tokens"] == 4


def test_piped_text_alone_is_the_question(dry_run: Invoke) -> None:
    assert question(dry_run(input=b"What is a vowel?\n")) == "What is a vowel?"


def test_a_piped_picture_alone_is_no_question(dry_run: Invoke) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    result = dry_run(input=buffer.getvalue())
    assert (result.code, "no question" in result.err) == (2, True)


def test_a_hyphen_stands_for_standard_input_at_its_place(dry_run: Invoke) -> None:
    Path("a.txt").write_text("first")
    result = dry_run("a.txt", "-", "compare", input=b"second")
    assert question(result) == "File a.txt:\n\nfirst\n\nsecond\n\ncompare"


def test_with_an_input_standard_input_is_left_alone(dry_run: Invoke) -> None:
    Path("a.txt").write_text("first")
    assert question(dry_run("a.txt", "sum up", input=b"second")) == "File a.txt:\n\nfirst\n\nsum up"
    assert question(dry_run("-a", "a.txt", "sum up", input=b"second")) == "File a.txt:\n\nfirst\n\nsum up"


def test_empty_standard_input_gives_a_note(dry_run: Invoke) -> None:
    result = dry_run("hello", input=b"")
    assert (question(result), result.err) == ("hello", "note: standard input was empty\n")


def test_dev_null_is_no_input(dry_run: Invoke) -> None:
    result = dry_run("hello")
    assert (question(result), result.err) == ("hello", "")


def test_a_closed_standard_input_is_no_input(shell: Callable[[str], Result]) -> None:
    result = shell("qwen ask --dry-run --json -m $M hello <&-")
    assert (question(result), result.err) == ("hello", "")


def test_a_hyphen_needs_standard_input(dry_run: Invoke, shell: Callable[[str], Result]) -> None:
    empty = dry_run("-", "summarise", input=b"")
    assert (empty.code, empty.err) == (3, "error: stdin: is empty (0 bytes).\n")
    closed = shell("qwen ask --dry-run -m $M - summarise <&-")
    assert (closed.code, closed.err) == (2, "error: '-' means standard input, but it is closed.\n")


def test_binary_standard_input_is_refused(dry_run: Invoke) -> None:
    result = dry_run("summarise", input=b"\x01\x02\0\x03")
    assert (result.code, result.err.count("\n")) == (3, 1)
    assert result.err.startswith("error: stdin: is binary data")


def test_an_inherited_pipe_that_nobody_writes_to_is_given_up(dry_process: Invoke) -> None:
    reading, writing = os.pipe()
    started = time.monotonic()
    result = dry_process("hello", stdin=reading)  # this process holds the other end
    os.close(reading)
    os.close(writing)
    assert (question(result), result.err) == ("hello", WAITED)
    assert time.monotonic() - started < 20


# A command that writes only when qwen has said that it waits.
SLOW = "(until grep -q waiting err; do sleep 0.1; done; echo late)"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a pipe")
def test_a_slow_command_in_front_is_waited_for(shell: Callable[[str], Result]) -> None:
    result = shell(f"touch err; {SLOW} | qwen ask --dry-run --json -m $M summarise 2> err")
    assert question(result) == "late\n\nsummarise"
    note = "note: waiting for standard input ... (use < /dev/null to go on without it)\n"
    assert Path("err").read_text() == note


def test_a_hyphen_waits_and_says_so(shell: Callable[[str], Result]) -> None:
    result = shell(f"touch err; {SLOW} | qwen ask --dry-run --json -m $M - summarise 2> err")
    assert question(result) == "late\n\nsummarise"
    assert Path("err").read_text() == "note: waiting for standard input ...\n"


def test_a_while_read_loop_asks_about_every_line(shell: Callable[[str], Result]) -> None:
    script = """
        for n in 1 2 3; do echo "text $n" > $n.txt; done
        printf '%s\\n' 1.txt 2.txt 3.txt |
        while read f; do qwen ask --dry-run -q -m $M "$f" describe; done
    """
    result = shell(script)
    assert [line for line in result.out.splitlines() if line.startswith("text")] == [
        "text 1",
        "text 2",
        "text 3",
    ]
