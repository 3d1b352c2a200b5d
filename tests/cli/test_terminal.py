"""What a person sees: colours, the growing answer, progress, reasoning."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.screen import Screen, needs_tmux
from tests.cli.terminal import run_in_terminal

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals on Windows"),
    pytest.mark.usefixtures("home"),
]

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def visible(screen: str) -> str:
    """The last state of each line, as far as it can be told without a terminal emulator."""
    return ESCAPE.sub("", screen).replace("\r\n", "\n")


def final_screen(screen: str) -> list[str]:
    """Lines of an 80-column terminal after `screen` was written to it: an emulator of what Rich uses."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", screen):
        if token == "\n":
            row, column = row + 1, column
            while row >= len(lines):
                lines.append("")
        elif token == "\r":
            column = 0
        elif token.startswith("\x1b"):
            count = int(token[2:-1]) if token[2:-1].isdigit() else 1
            if token.endswith("A"):
                row = max(0, row - count)
            elif token.endswith("K"):
                lines[row] = "" if token == "\x1b[2K" else lines[row][:column]
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines]


def test_markdown_is_drawn_and_no_character_is_lost(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="markdown", model=model_folder)
    lines = final_screen(session.screen)
    assert session.code == 0
    assert "Title" in lines
    assert "TOTAL  12.50" in lines
    assert "DATE <b>2024</b>" in lines
    assert [line for line in lines if "item" in line] == [f" • item {number}" for number in range(40)]
    assert " print('x')" in lines
    assert "The end." in lines
    assert "#" not in "".join(lines)


def test_the_cursor_is_shown_again_at_the_end(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="markdown", model=model_folder)
    assert session.screen.rfind("\x1b[?25h") > session.screen.rfind("\x1b[?25l")


def test_the_end_of_an_answer_is_on_its_own_line(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="plain", model=model_folder)
    assert [line for line in final_screen(session.screen) if line] == ["Two circles."]
    assert session.screen.endswith("\n") or session.screen.endswith("\x1b[?25h")


def test_what_a_model_writes_cannot_control_the_terminal(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="hostile", model=model_folder)
    for sequence in ("\x1b]0;", "\x07", "\x1b[2Jred", "\x9b", "\u202e"):
        assert sequence not in session.screen


def test_no_color_is_obeyed(model_folder: Path) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])(;[0-9]+)*m")
    with_colour = run_in_terminal("ask", "hello", script="markdown", model=model_folder)
    without = run_in_terminal("ask", "hello", script="markdown", model=model_folder, NO_COLOR="1")
    assert coloured.search(with_colour.screen)
    assert not coloured.search(without.screen)


def test_a_dumb_terminal_gets_plain_text(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="markdown", model=model_folder, TERM="dumb")
    assert "\x1b" not in session.screen
    assert "# Title" in session.screen


def test_a_long_prefill_shows_tokens_rate_and_time_left_and_then_nothing(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="slow_prefill", model=model_folder)
    assert re.search(r"reading the prompt .*\d+/1,000 tokens, \d+/s, 0:0\d left", visible(session.screen))
    assert [line for line in final_screen(session.screen) if line] == [
        "note: a note before the work",
        "note: a note while the line is there",
        "Done.",
    ]


def test_loading_shows_bytes(model_folder: Path) -> None:
    session = run_in_terminal(
        "ask", "hello", script="slow_load", model=model_folder, interrupt_after="MB, ", limit_s=30
    )
    assert re.search(r"loading .* \d+/100 MB, \d+/s", visible(session.screen))
    assert session.code == -signal.SIGINT


def test_a_short_wait_shows_nothing(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="plain", model=model_folder)
    assert "reading the prompt" not in session.screen


def test_reasoning_is_dim_and_on_standard_error(model_folder: Path) -> None:
    session = run_in_terminal("ask", "hello", script="thinking", model=model_folder)
    assert re.search(r"\x1b\[[0-9;]*2[0-9;]*mLet me ", session.screen)
    assert [line for line in final_screen(session.screen) if line] == [
        "note: scan.png: 4000x3000 resized to 1024x768 (768 image tokens)",
        "Let me look.",
        "Two.",
    ]
    apart = run_in_terminal("ask", "hello", script="thinking", model=model_folder, stderr=subprocess.DEVNULL)
    assert [line for line in final_screen(apart.screen) if line] == ["Two."]


@needs_tmux
@pytest.mark.usefixtures("home")
def test_errors_and_notes_are_broken_between_words_on_a_terminal() -> None:
    words = ["-m", "qwencli", "ask", "hello", "-m", "no-such-model-at-all"]
    with Screen([sys.executable, *words], columns=40) as screen:
        screen.wait_for_exit()
        shown = screen.text()
    assert re.search(
        r"^error: no-such-model-at-all: no such\nmodel\. Looked for a folder", shown, re.MULTILINE
    )


@needs_tmux
@pytest.mark.usefixtures("home")
def test_lists_of_the_chat_keep_to_the_screen() -> None:
    words = ["-m", "tests.cli.scripted_chat", "chat", "-m", "mini", "-q"]
    with Screen([sys.executable, *words], columns=40) as screen:
        screen.wait_for("^>")
        screen.say("one question of more words than a narrow screen has room for")
        screen.wait_for("message 1")
        for name in ("/branch", "/history all", "/context", "/stats", "/cache", "/history", "/show settings"):
            screen.say(name)
        screen.say("/nonsense")
        shown = screen.wait_for("There is no command")  # lines that the terminal itself broke are joined
    assert max(len(line) for line in shown.splitlines() if not line.startswith(">")) <= 40
