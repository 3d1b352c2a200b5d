"""`qwen chat` by lines on standard input."""

import itertools
import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from qwen35.weights.packed import PackedModel
from qwencli.chat.loop import run
from qwencli.chat.session import Session
from qwencli.conversations.store import LAST
from tests.cli.conftest import Invoke
from tests.cli.talking import PICTURE, messages, session_with_mini, texts


def test_lines_are_questions_of_one_conversation(chat: Invoke, invoke: Invoke) -> None:
    result = chat("Hello", "", "What can you do?")
    saved = messages(invoke)
    assert (result.code, result.err) == (0, "")
    assert [message["role"] for message in saved] == ["user", "assistant", "user", "assistant"]
    assert result.out == "".join(f"{m['text']}\n" for m in saved if m["role"] == "assistant")
    assert saved[3]["usage"]["prompt_tokens"] > saved[1]["usage"]["prompt_tokens"]
    assert saved[3]["finish_reason"] == "stop"
    for said in saved[1::2]:  # its tokens but the one that ends it
        assert len(said["token_ids"]) == said["usage"]["completion_tokens"] - 1


def test_a_chat_answers_as_ask_does(chat: Invoke, invoke: Invoke, picture: Path) -> None:
    asked = invoke("ask", PICTURE, "What is this?", "-q", "-m", "mini", "--temperature", "0")
    assert chat(f"/image {PICTURE}", "What is this?").out == asked.out


def test_triple_quotes_hold_a_message_of_several_lines(chat: Invoke, invoke: Invoke) -> None:
    chat('"""first', "", "/quit", 'last"""', "next")
    assert texts(invoke) == ["first\n\n/quit\nlast", "next"]


def test_a_line_that_begins_with_a_space_is_text(chat: Invoke, invoke: Invoke) -> None:
    chat(" /quit is a command")
    assert texts(invoke) == ["/quit is a command"]


@pytest.mark.parametrize(
    "line",
    [
        f"@'{PICTURE}' What is this?",
        f'What is @"{PICTURE}"?',
        "What is @my\\ picture.png?",
        "'{path}' What is this?",
        "What is this? '{path}'",
        "file://{address} What is this?",
        "{escaped} What is this?",
    ],
)
def test_files_are_attached_however_they_are_named(
    chat: Invoke, invoke: Invoke, picture: Path, line: str
) -> None:
    escaped = str(picture).replace(" ", "\\ ")
    line = line.format(path=picture, address=str(picture).replace(" ", "%20"), escaped=escaped)
    assert chat(line).code == 0
    question = messages(invoke)[0]
    assert [attachment["type"] for attachment in question["attachments"]] == ["image"]
    assert "What is" in question["text"]
    assert not question["text"].startswith(("'", "@", "file:"))


def test_a_file_alone_waits_for_the_question(chat: Invoke, invoke: Invoke, picture: Path) -> None:
    chat(f"'{picture}'", "What is this?", "And now?")
    saved = [message for message in messages(invoke) if message["role"] == "user"]
    assert [len(message["attachments"]) for message in saved] == [1, 0]


def test_an_at_word_that_is_no_file_stays_text(invoke: Invoke) -> None:
    result = invoke("chat", "-m", "mini", input=b"What does @a.property in Python do, @someone?\n")
    assert "@a.property: no such file" in result.err
    assert texts(invoke) == ["What does @a.property in Python do, @someone?"]


def test_a_video_that_is_not_there_is_told_in_plain_words(chat: Invoke) -> None:
    result = chat("/video clip.mp4")
    assert (result.code, result.out, result.err) == (3, "", "error: clip.mp4: no such file.\n")


def test_the_output_of_a_command_is_attached(chat: Invoke, invoke: Invoke) -> None:
    chat("!echo forty; echo two", "What is that?")
    assert [a["source"] for a in messages(invoke)[0]["attachments"]] == ["!echo forty; echo two"]
    again = invoke("chat", "-c", "-q", input=b"/context\n")
    assert "[!echo forty; echo two] What is that?" in again.out


def test_the_first_error_ends_a_script_with_its_code(chat: Invoke, invoke: Invoke) -> None:
    result = chat("/file nothing.txt", "What does it say?")
    assert (result.code, result.out) == (3, "")
    assert result.err == "error: nothing.txt: no such file.\n"
    assert "No conversations yet" in invoke("chats", "ls").out


def test_an_unknown_command_is_told_with_a_suggestion(chat: Invoke) -> None:
    result = chat("/hlep")
    assert result.code == 2
    assert "Did you mean /help?" in result.err


def test_help_names_every_command(chat: Invoke) -> None:
    from qwencli.chat.commands.table import COMMANDS

    out = chat("/help").out
    assert all(f"/{name}" in out for name in COMMANDS)


def test_quit_ends_before_the_rest(chat: Invoke) -> None:
    assert chat("/quit", "Hello").out == ""


def test_undo_retry_and_edit_make_branches(chat: Invoke, invoke: Invoke) -> None:
    result = chat("one", "two", "/undo", "three", "/retry", "/edit four", "/branch")
    assert result.code == 0
    assert texts(invoke) == ["one", "four"]
    saved = json.loads(invoke("chats", "show", "last", "--json").out)
    asked = [message["text"] for message in saved["messages"] if message["role"] == "user"]
    assert asked == ["one", "two", "three", "four"]
    assert len(saved["messages"]) == 9  # three was answered twice
    assert re.search(r"^4 +here .* four$", result.out, re.MULTILINE)
    back = invoke("chat", "-c", "-q", input=b"/branch 1\n/history\n")
    assert "> two" in back.out
    assert texts(invoke) == ["one", "two"]


def test_an_edited_question_keeps_its_attachments(chat: Invoke, invoke: Invoke, picture: Path) -> None:
    chat(f"@'{PICTURE}' What?", "/edit What is this?")
    question = messages(invoke)[0]
    assert (question["text"], len(question["attachments"])) == ("What is this?", 1)


def test_continue_asks_for_the_rest(chat: Invoke, invoke: Invoke) -> None:
    result = chat("Hello", "/continue", options=("--max-tokens", "3"))
    assert result.code == 7
    assert texts(invoke)[1].startswith("Continue your last answer")


def test_clear_begins_another_conversation_and_resume_goes_back(chat: Invoke, invoke: Invoke) -> None:
    chat("one", "/clear", "two", "/resume", "three")
    assert texts(invoke) == ["one", "three"]
    assert len(json.loads(invoke("chats", "ls", "--json").out)["chats"]) == 2


def test_the_system_message_and_settings_are_kept_and_come_back(chat: Invoke, invoke: Invoke) -> None:
    chat("/system Be brief.", "/set top-k 5", "/think off", "Hello")
    settings = messages(invoke)[0]["settings"]
    assert (settings["system"], settings["top_k"]) == ("Be brief.", 5)
    assert settings["think"]["enabled"] is False
    assert "Be brief." in invoke("chat", "-c", "-q", input=b"/show system\n").out
    assert "Be long." in invoke("chat", "-c", "-q", "-s", "Be long.", input=b"/show system\n").out


def test_continue_is_for_answers_that_were_cut(chat: Invoke, invoke: Invoke) -> None:
    result = chat("Hello", "/continue")
    assert (result.code, len(messages(invoke))) == (2, 2)
    assert "The last answer was not cut" in result.err
    chat("/set max-tokens 3", "Hello", "/compact 0", "/continue", options=("-c",))
    assert messages(invoke)[-1]["role"] == "compact"
    result = chat("/set max-tokens 3", "Hello", "And?", "/compact 1", "/continue", options=("-c",))
    assert result.code == 7
    assert messages(invoke)[-2]["text"].startswith("Continue")


def test_what_is_attached_can_be_taken_off_again(chat: Invoke, invoke: Invoke, picture: Path) -> None:
    chat(f"/image {PICTURE}", f"/file {PICTURE}", "/detach 1", "What?")
    chat(f"/image {PICTURE}", f"/file {PICTURE}", "/detach", "And?", options=("-c",))
    questions = messages(invoke)[::2]
    assert [len(question["attachments"]) for question in questions] == [1, 0]
    assert "'3' is not a number from 1 to 1" in chat(f"/image {PICTURE}", "/detach 3").err


def test_an_attachment_that_cannot_fit_is_told_from_a_long_conversation(
    chat: Invoke, picture: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("word " * 20_000)
    assert "/detach takes it off" in chat("Hello", f"/file {long}", "What?").err
    assert "/compact" in chat("Hello", "/set ctx 60", f"/image {PICTURE}", "What? " * 20).err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set top-k many", "top-k: 'many' is not a whole number"),
        ("/set nonsense 1", "There is no setting 'nonsense'"),
        ("/think perhaps", "'perhaps' is none of off, on, auto"),
        ("/undo", "nothing to take back"),
        ("/retry", "no question yet"),
        ("/continue", "no answer to continue"),
        ("/set temprature 1", "There is no setting 'temprature'. Did you mean temperature?"),
        ("/model minni", "minni: no such model. Did you mean mini?"),
        ("/schema x flot", "error: /schema: "),
        ("/quit now", "/quit takes nothing behind it: 'now'"),
        ("/clear x", "/clear takes nothing behind it"),
        ("/detach", "Nothing is attached"),
        ("/copy", "no answer to copy"),
        ("/compact", "nothing to leave out"),
        ("/branch 7", "Nothing was said yet"),
        ("/resume 12345678", "No conversation '12345678'"),
        ("/model nothing-like-it", "no such model"),
        ("/image", "Name a picture"),
        ("/file -", "cannot be attached"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(chat: Invoke, line: str, words: str) -> None:
    result = chat(line)
    assert result.code in (2, 3, 4)
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert words in result.err


def test_export_writes_a_file_in_the_format_of_its_name(chat: Invoke) -> None:
    assert chat("Hello", "/export talk.md", "/export talk.jsonl").code == 0
    assert "## Question\n\nHello\n" in Path("talk.md").read_text()
    lines = Path("talk.jsonl").read_text().splitlines()
    assert [json.loads(line)["role"] for line in lines] == ["user", "assistant"]


def test_export_replaces_no_file(chat: Invoke, invoke: Invoke) -> None:
    Path("keep.md").write_text("mine")
    result = chat("Hello", "/export keep.md")
    assert (result.code, "keep.md: exists already; name another file" in result.err) == (9, True)
    result = invoke("chats", "export", "last", "-o", "keep.md")
    assert (result.code, "--overwrite replaces it" in result.err) == (9, True)
    assert Path("keep.md").read_text() == "mine"
    assert invoke("chats", "export", "last", "-o", "keep.md", "--overwrite").code == 0
    assert "Hello" in Path("keep.md").read_text()


def test_a_title_is_the_first_question_or_chosen(chat: Invoke, invoke: Invoke) -> None:
    chat("Hello there", "And?")
    assert json.loads(invoke("chats", "ls", "--json").out)["chats"][0]["title"] == "Hello there"
    chat("/save My talk", options=("-c",))
    assert json.loads(invoke("chats", "ls", "--json").out)["chats"][0]["title"] == "My talk"


def test_private_writes_nothing(home: Path, picture: Path, invoke: Invoke) -> None:
    lines = f"@'{PICTURE}' What?\n/history\n/save\n".encode()
    result = invoke("chat", "-m", "mini", "--private", input=lines)
    assert result.code == 2
    assert "Nothing is saved in this run" in result.err
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_private_goes_on_with_what_is_saved_and_leaves_it_as_it_is(
    home: Path, chat: Invoke, invoke: Invoke
) -> None:
    chat("Hello")
    files = {path: path.read_bytes() for path in (home / "data").rglob("*") if path.is_file()}
    out = invoke("chat", "-c", "-q", "--private", "-m", "mini", input=b"And?\n/history\n").out
    assert "> Hello" in out
    assert "> And?" in out
    assert {path: path.read_bytes() for path in (home / "data").rglob("*") if path.is_file()} == files


def test_a_data_folder_that_cannot_be_written_costs_the_saving_alone(home: Path, invoke: Invoke) -> None:
    home.mkdir()
    (home / "data").write_text("a file where a folder is meant")
    result = invoke("chat", "-m", "mini", input=b"Hello\n/history\n")
    assert result.code == 0
    assert "> Hello" in result.out
    assert "conversations cannot be saved" in result.err
    assert "lost at the end" in result.err


def test_a_resumed_chat_goes_on_with_its_own_model(invoke: Invoke, model_folder: Path) -> None:
    invoke("chat", "-q", "-m", model_folder, "--max-tokens", "2", input=b"Hello\n")
    assert str(model_folder) in invoke("chat", "-c", input=b"/model\n").err
    assert "model: mini" in invoke("chat", "-c", "-m", "mini", input=b"/model\n").err


def test_another_model_is_placed_where_the_first_one_was(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are gone by then: two large models would not fit side by side."""
    assert invoke("models", "pack", model_folder).code == 0
    models: list[weakref.ref[PackedModel]] = []
    alive: list[int] = []

    def open_counted(*words: object) -> PackedModel:
        alive.append(sum(model() is not None for model in models))
        model = opened(*words)  # type: ignore[arg-type]
        models.append(weakref.ref(model))
        return model

    opened = PackedModel.open
    monkeypatch.setattr(PackedModel, "open", open_counted)
    lines = b"hello\n/model tiny-q4\nhello\n/model mini\nhello\n"
    assert invoke("chat", "-q", "-m", "mini", "--max-tokens", "2", input=lines).code == 7
    assert alive == [0, 0, 0]


def test_continue_and_chat_exclude_each_other(invoke: Invoke) -> None:
    assert invoke("chat", "-c", "--chat", "1", input=b"").code == 2


def test_nothing_to_go_on_with_is_told(invoke: Invoke) -> None:
    result = invoke("chat", "-c", input=b"Hello\n")
    assert (result.code, result.out) == (3, "")
    assert "no saved conversation yet" in result.err


def test_two_chats_at_once_each_keep_theirs(home: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "qwencli", "chat", "-q", "-m", "mini"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(f"I am {number}\nWho am I?\n")
        process.stdin.close()
    for process in processes:
        assert process.wait(60) == 0
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    done = subprocess.run(
        [sys.executable, "-m", "qwencli", "chats", "ls", "--json"], capture_output=True, check=True
    )
    chats = json.loads(done.stdout)["chats"]
    assert sorted(chat["title"] for chat in chats) == ["I am 0", "I am 1"]
    assert [chat["num_messages"] for chat in chats] == [4, 4]


def test_help_and_the_command_itself_load_no_more_than_they_need(home: Path) -> None:
    code = "import sys; sys.argv = ['qwen', 'chat', '--help']; from qwencli.app import main; main(); "
    code += "print([m for m in ('torch', 'prompt_toolkit', 'sqlite3', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_in_idle_time_the_last_answer_is_read_again(invoke: Invoke) -> None:
    assert invoke("ask", "Hello", "-q", "-m", "mini").code == 0
    with session_with_mini() as session:
        for _ in range(3):
            session.take("Tell me, in as many words as you have for it, what all you can do for me today.")
            session.begin_idle()
    assert [record.notes for record in session.answered] == [[], [], []]
    for earlier, later in itertools.pairwise(session.answered):
        # Of the next prompt only the new question is computed, and what the template puts around it.
        new = later.usage.prompt_tokens - later.usage.cached_tokens
        assert later.usage.cached_tokens > earlier.usage.prompt_tokens
        assert new < later.usage.prompt_tokens / 2


class PatientPerson:
    """Lets what is done in idle time come to its end before each line."""

    is_interactive = True

    def __init__(self, session: Session, *lines: str) -> None:
        self._session, self._lines = session, iter(lines)

    def read(self, draft: str) -> str | None:
        self._session._idle.finish()
        return next(self._lines, None)


def test_a_resumed_chat_is_read_before_its_first_question(invoke: Invoke) -> None:
    line = "Tell me, in as many words as you have for it, what all you can do for me today."
    invoke("chat", "-q", "-m", "mini", "--temperature", "0", input=f"{line}\n".encode())  # has no idle time
    with session_with_mini() as session:
        session.resume(LAST)
        asked = session.conversation.last_answer
        assert asked is not None
        assert asked.usage is not None
        run(session, PatientPerson(session, line))
        usage = session.answered[0].usage
    assert usage.cached_tokens > asked.usage["prompt_tokens"] + asked.usage["completion_tokens"] - 8
