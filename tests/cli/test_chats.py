"""`qwen chats`: the saved conversations, from the command line."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from qwen35.errors import UnwritableError
from qwen35.events import Finished, TextDelta
from qwencli.conversations.database import connect
from qwencli.conversations.store import Store
from tests.cli.conftest import Invoke
from tests.cli.screen import Screen, needs_tmux


@pytest.fixture
def ids(home: Path) -> list[str]:
    """Two conversations, the older one first."""
    found = []
    with Store.open(home / "data", print) as store:
        for number, question in enumerate(("What is a vowel?", "Who\x1b[31m are you?\nSay it.")):
            chat = store.begin()
            chat.ask(question)
            with chat.answering("mini") as writer:
                writer.take(TextDelta("A let"))
                writer.take(Finished("stop", f"A letter, number {number}.", ""))
            found.append(chat.id)
    return found


def test_ls_shows_the_newest_first(invoke: Invoke, ids: list[str]) -> None:
    result = invoke("chats", "ls")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["ID", "LAST", "MESSAGES", "MODEL", "TITLE"]
    assert [line.split()[0] for line in lines[1:]] == ids[::-1]
    assert "\x1b" not in result.out
    assert lines[2].endswith("2         mini   What is a vowel?")


def test_ls_as_json_and_of_the_newest_alone(invoke: Invoke, ids: list[str]) -> None:
    values = json.loads(invoke("chats", "ls", "-n", "1", "--json").out)
    assert (values["schema_version"], values["error"]) == (1, None)
    assert [chat["id"] for chat in values["chats"]] == [ids[1]]
    assert set(values["chats"][0]) == {"id", "title", "created_at", "updated_at", "num_messages", "model"}


def test_without_conversations_there_is_a_hint_and_nothing_is_made(home: Path, invoke: Invoke) -> None:
    assert invoke("chats", "ls").out == "No conversations yet. Begin one: qwen chat\n"
    assert json.loads(invoke("chats", "search", "x", "--json").out)["hits"] == []
    assert not home.exists()


def test_show_is_markdown_or_json(invoke: Invoke, ids: list[str]) -> None:
    out = invoke("chats", "show", ids[0]).out
    assert out.startswith("# What is a vowel?\n")
    assert "## Question\n\nWhat is a vowel?\n\n## Answer (mini)\n\nA letter, number 0.\n" in out
    values = json.loads(invoke("chats", "show", ids[0][:5], "--json").out)
    assert [message["role"] for message in values["messages"]] == ["user", "assistant"]
    assert values["path"] == [message["id"] for message in values["messages"]]


def test_an_unknown_id_is_told(invoke: Invoke, ids: list[str]) -> None:
    result = invoke("chats", "show", "nothing")
    assert (result.code, result.out) == (3, "")
    assert result.err == "error: No conversation 'nothing'. See: qwen chats ls\n"
    failed = invoke("chats", "show", "nothing", "--json")
    assert (failed.code, json.loads(failed.out)["error"]["kind"]) == (3, "input")


def test_search_finds_questions_and_answers(invoke: Invoke, ids: list[str]) -> None:
    out = invoke("chats", "search", "vowel").out
    assert out.splitlines()[1].split()[0] == ids[0]
    assert "question" in out
    hits = json.loads(invoke("chats", "search", "letter", "numb", "--json").out)["hits"]
    assert {hit["chat_id"] for hit in hits} == set(ids)
    assert {hit["role"] for hit in hits} == {"assistant"}
    assert invoke("chats", "search", "consonant").out == "Nothing found.\n"


@pytest.mark.parametrize(
    ("words", "name", "begins"),
    [
        ((), None, "# What"),
        (("-f", "json"), None, "{\n"),
        (("-f", "jsonl"), None, '{"chat_id"'),
        ((), "talk.md", "# What"),
        ((), "talk.json", "{\n"),
        ((), "talk.jsonl", '{"chat_id"'),
        (("-f", "json"), "talk.txt", "{\n"),
        ((), "talk.txt", "# What"),
    ],
)
def test_export_in_every_form(
    invoke: Invoke, ids: list[str], words: tuple[str, ...], name: str | None, begins: str
) -> None:
    target = ("-o", name) if name else ()
    result = invoke("chats", "export", ids[0], *words, *target)
    assert (result.code, result.err) == (0, "")
    text = Path(name).read_text() if name else result.out
    assert text.startswith(begins)


def test_an_export_that_cannot_be_written_exits_with_9(invoke: Invoke, ids: list[str]) -> None:
    result = invoke("chats", "export", ids[0], "-o", "no/such/folder/talk.md")
    assert (result.code, result.out) == (9, "")
    assert "cannot be written" in result.err


def test_rm_removes_those_that_are_named(invoke: Invoke, ids: list[str]) -> None:
    assert invoke("chats", "rm", ids[0]).out == "Removed 1 conversation.\n"
    assert [chat["id"] for chat in json.loads(invoke("chats", "ls", "--json").out)["chats"]] == [ids[1]]
    assert invoke("chats", "rm", "nothing").code == 3
    result = invoke("chats", "rm", "--all")
    assert (result.code, "removes 1 conversation for good: add -y" in result.err) == (2, True)
    assert json.loads(invoke("chats", "rm", "--all", "-y", "--json").out)["removed"] == [ids[1]]
    assert invoke("chats", "rm").code == 2
    assert invoke("chats", "rm", ids[1], "--all").code == 2


def test_a_damaged_file_is_told_and_exits_with_3(home: Path, invoke: Invoke, ids: list[str]) -> None:
    for extra in ("chats.db-wal", "chats.db-shm"):
        (home / "data" / "chats" / extra).unlink(missing_ok=True)
    (home / "data" / "chats" / "chats.db").write_bytes(b"something else " * 1000)
    for words in (("chats", "ls"), ("chats", "rm", "--all"), ("chat", "-m", "mini")):
        result = invoke(*words)
        assert (result.code, result.out) == (3, "")
        assert "chats.db: is damaged" in result.err
        assert result.err.count("\n") == 1


def test_a_read_only_folder_can_be_read(
    home: Path, invoke: Invoke, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path | None) -> sqlite3.Connection:
        if path is None:
            return connect(None)
        raise UnwritableError("read-only.")  # as SQLite does there; root, who may run this, writes anywhere

    monkeypatch.setattr("qwencli.conversations.store.connect", refuse)
    before = sorted((home / "data").rglob("*"))
    assert ids[0] in invoke("chats", "ls").out
    assert "A letter" in invoke("chats", "show", ids[0]).out
    assert invoke("chats", "rm", ids[0]).code == 9
    going_on = invoke("chat", "-c", "-m", "mini", input=b"And?\n/history\n")
    assert "> And?" in going_on.out
    assert "A letter, number 1" in going_on.out
    assert sorted((home / "data").rglob("*")) == before


def test_ids_are_completed_with_their_titles(home: Path, ids: list[str]) -> None:
    from qwencli.completions import complete_chat

    assert sorted(complete_chat("")) == sorted(
        [(ids[0], "What is a vowel?"), (ids[1], "Who\x1b[31m are you?")]
    )
    assert [id for id, _ in complete_chat(ids[0][:7])] == [ids[0]]


@needs_tmux
@pytest.mark.parametrize(("answer", "num_left"), [("n", 2), ("y", 0)])
def test_all_are_removed_when_a_person_says_so(
    invoke: Invoke, ids: list[str], answer: str, num_left: int
) -> None:
    with Screen([sys.executable, "-m", "qwencli", "chats", "rm", "--all"]) as screen:
        screen.wait_for("Remove all 2 conversations\\?")
        screen.say(answer)
        assert screen.wait_for_exit() == 0
    assert len(json.loads(invoke("chats", "ls", "--json").out)["chats"]) == num_left
