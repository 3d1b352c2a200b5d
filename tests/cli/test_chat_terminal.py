"""`qwen chat` in a real terminal."""

import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.cli.screen import Screen, needs_tmux
from tests.cli.talking import messages, texts


def command(*words: str) -> list[str]:
    """A chat with an engine that answers as the questions say."""
    return [sys.executable, "-m", "tests.cli.scripted_chat", "chat", "-m", "mini", *words]


@needs_tmux
@pytest.mark.usefixtures("home")
def test_typing_several_lines_and_pasting(invoke: Invoke) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.type("one")
        screen.press("C-j")
        screen.type("two")
        screen.press("M-Enter")
        screen.say("three")
        screen.wait_for(r"You said 'one\\ntwo\\nthree', message 1")
        screen.paste("first\nsecond\nthird")
        screen.press("Enter")
        screen.wait_for(r"You said 'first\\nsecond\\nthird', message 3")
        screen.say('"""open')
        screen.say('shut"""')
        screen.wait_for(r"You said 'open\\nshut', message 5")
        screen.wait_for(r"mini · context [\d,]+/8,192 \(\d+%\) · reused \d+/\d+ · 17\.5 tok/s · \d")
        screen.press("C-d")
        assert screen.wait_for_exit() == 0
        assert re.search(r"saved; `qwen chat --chat [0-9a-f]{8}` goes on", screen.text())
    assert texts(invoke) == ["one\ntwo\nthree", "first\nsecond\nthird", "open\nshut"]


@needs_tmux
@pytest.mark.usefixtures("home")
def test_ctrl_c_stops_the_answer_and_keeps_it(invoke: Invoke) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("count")
        screen.wait_for(r"line (?!1$)\d+$")
        screen.press("C-c", "C-c", "C-c")  # one hit too many harms nothing
        screen.wait_for("stopped; /continue goes on")
        screen.say("hello")
        screen.wait_for("You said 'hello', message 3")
        screen.press("C-d")
        assert screen.wait_for_exit() == 0
    saved = messages(invoke)
    assert saved[1]["finish_reason"] == "interrupted"
    assert saved[1]["text"].startswith("line 1\nline 2\n")
    assert saved[3]["finish_reason"] == "stop"


@needs_tmux
@pytest.mark.usefixtures("home")
def test_a_summary_that_is_stopped_leaves_all_as_it_was(invoke: Invoke) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("one")
        screen.wait_for("message 1")
        screen.say("two")
        screen.wait_for("message 3")
        screen.say("/compact summary 1")
        screen.wait_for("^begun$")
        screen.press("C-c")
        screen.wait_for("stopped; nothing was left out")
        screen.say("three")
        screen.wait_for("You said 'three', message 5")
        screen.say("/compact summary 1")
        screen.wait_for("summed up 2 turns, about")
        screen.say("four")
        screen.wait_for("You said 'four', message 4")  # the summary, three, its answer
        screen.press("C-d")
        assert screen.wait_for_exit() == 0
    saved = messages(invoke)
    assert [message["role"] for message in saved[6:]] == ["compact", "user", "assistant"]
    assert texts(invoke) == ["one", "two", "three", "four"]


@needs_tmux
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("question", ["count", None])
def test_sigterm_ends_the_chat_and_keeps_the_answer(invoke: Invoke, question: str | None) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say(question or "hello")
        screen.wait_for(r"line \d+$" if question else r"message 1\.\n\n>")
        os.kill(screen.pid(), signal.SIGTERM)
        assert screen.wait_for_exit() == 143
        assert "Traceback" not in screen.text()
    assert messages(invoke)[1]["finish_reason"] == ("interrupted" if question else "stop")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_keys_hit_during_an_answer_are_the_next_line() -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("slow")
        screen.wait_for("^begun$")
        screen.say("typed ahead")
        assert "typed" not in screen.wait_for("You said 'slow', message 1").partition("You said")[0]
        screen.wait_for("You said 'typed ahead', message 3")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_a_killed_chat_is_resumed_with_its_unfinished_answer(invoke: Invoke) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("hello")
        screen.wait_for("message 1")
        screen.say("count")
        screen.wait_for(r"line [5-9]\d$")
        os.kill(screen.pid(), signal.SIGKILL)
        screen.wait_for_exit()
    saved = messages(invoke)
    assert (len(saved), saved[3]["finish_reason"]) == (4, None)
    assert saved[3]["text"].count("\n") > 30  # at most a quarter of a second is lost
    with Screen(command("-c")) as screen:
        shown = screen.wait_for("^>")
        assert "2 turns" in shown
        assert "unfinished: its program ended" in screen.wait_for("Ctrl-D leaves")
        screen.say("and?")
        screen.wait_for("You said 'and\\?', message 5")
        screen.say("/clear")
        screen.say("/resume")
        screen.wait_for("3 turns")


@needs_tmux
def test_files_are_dropped_completed_and_shown(home: Path, picture: Path, invoke: Invoke) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say(f"'{picture}'")
        screen.wait_for("it goes with the next question")
        screen.wait_for("1 attached")
        screen.say("What is this?")
        screen.wait_for(r"message 1")
        screen.type("Look at @my")
        screen.press("Tab")
        screen.wait_for('@"my picture.png"')
        screen.say("")
        screen.wait_for(r"message 3")
        screen.type("/contex")
        screen.press("Tab")
        screen.wait_for("^> /context$")
        screen.press("Enter")
        screen.wait_for(r"\[my picture.png\] What is this")
    saved = [message for message in messages(invoke) if message["role"] == "user"]
    assert [len(message["attachments"]) for message in saved] == [1, 1]


@needs_tmux
@pytest.mark.usefixtures("home")
def test_history_is_searched_over_runs() -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("a needle in the first run")
        screen.wait_for("message 1")
        screen.press("C-d")
        screen.wait_for_exit()
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.press("C-r")
        screen.type("needle")
        screen.wait_for("a needle in the first run")
        screen.press("Enter")
        screen.press("Enter")
        screen.wait_for("You said 'a needle in the first run', message 1")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_errors_leave_the_chat_running_and_the_words_at_the_prompt() -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("/nonsense")
        screen.wait_for("error: There is no command /nonsense")
        screen.say("/image nothing.png")
        screen.wait_for("error: nothing.png: no such file")
        screen.say("/set ctx 30")
        screen.wait_for("ctx: 30")
        screen.say("a question that is much too long for so small a context as this one")
        screen.wait_for("error: No room")
        screen.wait_for("^> a question that is much too long")
        screen.press("C-c")
        screen.say("/set ctx")
        screen.say("/edit")
        screen.wait_for("There is no question yet")
        screen.say("hello")
        screen.wait_for("message 1")
        screen.say("/edit")
        screen.wait_for("^> /edit hello$")
        screen.say(" again")
        screen.wait_for("You said 'hello again', message 1")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_thinking_is_dim_or_folded() -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("think")
        screen.wait_for("Let me see.")
        screen.say("/think fold")
        screen.say("think again")
        screen.wait_for(r"thought for 3 tokens")
        assert screen.text().count("Let me see.") == 1
        screen.say("/show thinking")
        screen.wait_for(r"(?s)Let me see.*thought.*Let me see")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_a_model_that_cannot_be_loaded_is_told_when_it_is_asked() -> None:
    with Screen(command(), SCRIPTED_LOAD="broken") as screen:
        screen.wait_for("^>")
        screen.say("hello")
        screen.wait_for("error: .*: bad")
        screen.wait_for("^> hello$")  # not asked: it stands at the prompt
        screen.press("C-c", "C-d")
        assert screen.wait_for_exit() == 0


@needs_tmux
@pytest.mark.usefixtures("home")
def test_a_chat_can_be_left_while_the_model_loads() -> None:
    with Screen(command(), SCRIPTED_LOAD="slow") as screen:
        screen.wait_for("mini \\(loading")
        screen.say("hello")
        time.sleep(0.5)
        screen.press("C-c")
        screen.wait_for("stopped")
        screen.press("C-c", "C-d")
        assert screen.wait_for_exit() == 0


@needs_tmux
@pytest.mark.usefixtures("home")
def test_a_narrow_screen_shows_whole_words() -> None:
    with Screen(command("-q"), columns=40, rows=15) as screen:
        screen.wait_for("^>")
        screen.say("hello")
        screen.wait_for("message 1")
        assert screen.wait_for(r"^mini · context [\d,]+/8,192 \(\d+%\)$")
        screen.say("/help")
        shown = screen.wait_for("Ctrl-D leaves")  # lines that the terminal itself broke are joined in it
        assert max(map(len, shown.splitlines())) <= 40
        assert re.search(r"^/compact \[summary\] \[N\]\n  Leave out", shown, re.MULTILINE)
        screen.say("/nonsense")
        screen.wait_for("error: There is no command /nonsense")  # though -q shows errors alone


@needs_tmux
@pytest.mark.usefixtures("home")
def test_ctrl_c_stops_a_command_of_the_shell() -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say("!sleep 600")
        time.sleep(0.5)
        screen.press("C-c")
        screen.wait_for("stopped; nothing is attached")
        screen.say("hang")
        screen.wait_for("^begun")
        screen.press("C-c")
        screen.wait_for("stopped; /continue goes on, /retry asks again")
        screen.say("hello")
        screen.wait_for("You said 'hello', message 3")


@needs_tmux
@pytest.mark.usefixtures("home")
def test_keys_are_kept_after_the_chat_was_stopped_and_comes_back() -> None:
    with Screen(["bash", "--norc", "-i"]) as screen:
        screen.say(f"PS1='shell: '; {shlex.join(command())}")
        screen.wait_for("^>")
        screen.say("slow")
        screen.wait_for("^begun$")
        screen.press("C-z")
        screen.wait_for("Stopped")
        screen.say("fg")
        screen.wait_for("scripted_chat.*$(?s:.*)scripted_chat.*$(?s:.*)scripted_chat")
        screen.say("typed ahead")
        assert "typed" not in screen.wait_for("You said 'slow', message 1").partition("You said")[0]
        screen.wait_for("You said 'typed ahead', message 3")


@needs_tmux
def test_detach_offers_what_is_attached(home: Path, picture: Path) -> None:
    with Screen(command()) as screen:
        screen.wait_for("^>")
        screen.say(f"'{picture}'")
        screen.wait_for("1 attached")
        screen.type("/detach ")
        screen.press("Tab")
        screen.wait_for("^> /detach 1")
        screen.press("Enter")
        screen.wait_for(r"took off [^>]*picture\.png")
        screen.say("hello")
        screen.wait_for("You said 'hello', message 1")
