"""The store of conversations: many processes, sudden deaths, damage."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen35.errors import InputError, UnwritableError
from qwen35.events import Finished, TextDelta
from qwencli.conversations.store import Store
from tests.cli.conversing import answer, no_note

WRITER = """
import sys
from pathlib import Path
from qwen35.events import Finished, TextDelta
from qwencli.conversations.store import Store

data, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    with Store.open(data, print) as store:
        chat = store.begin()
        for turn in range(3):
            chat.ask(f"{name} {number} {turn}")
            with chat.answering(name) as writer:
                writer.clock = iter(range(10**9)).__next__  # each piece is saved
                for piece in range(5):
                    writer.take(TextDelta(f"piece{piece} "))
                writer.take(Finished("stop", "piece0 piece1 piece2 piece3 piece4", ""))
            assert writer.trouble is None, writer.trouble
"""

STREAMER = """
import sys
from pathlib import Path
from qwen35.events import TextDelta
from qwencli.conversations.store import Store

with Store.open(Path(sys.argv[1]), print) as store:
    chat = store.begin()
    chat.ask("count")
    with chat.answering("mini") as writer:
        writer.clock = iter(range(10**9)).__next__  # each piece is saved
        for number in range(10**9):
            writer.take(TextDelta(f"{number} "))
            print(number, flush=True)
"""


def run_python(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def test_eight_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [run_python(WRITER, tmp_path, f"w{number}", 5) for number in range(8)]
    for writer in writers:
        out, _ = writer.communicate(timeout=120)
        assert (writer.returncode, out) == (0, "")
    with Store.open(tmp_path, no_note) as store:
        summaries = store.summaries()
        assert len(summaries) == 40
        for summary in summaries:
            path = store.find(summary.id).path
            name = path[0].text.split()[0]
            assert [message.text.split()[0] for message in path[::2]] == [name] * 3
            assert [message.finish_reason for message in path[1::2]] == ["stop"] * 3
            assert {message.model for message in path[1::2]} == {name}


def test_a_killed_process_loses_no_more_than_the_tail(tmp_path: Path) -> None:
    for round_ in range(4):
        process = run_python(STREAMER, tmp_path)
        assert process.stdout is not None
        shown = [process.stdout.readline()]
        end = time.monotonic() + 0.05 + 0.1 * round_
        while time.monotonic() < end:
            shown.append(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        shown += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        with Store.open(tmp_path, no_note) as store:
            saved = store.find("last").path
        assert [message.role for message in saved] == ["user", "assistant"]
        assert saved[1].finish_reason is None
        numbers = [int(word) for word in saved[1].text.split()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= int(shown[-1] or 0) + 1  # what was shown had been saved
        assert sqlite3.connect(tmp_path / "chats" / "chats.db").execute(
            "PRAGMA integrity_check"
        ).fetchone() == ("ok",)


def test_a_growing_answer_costs_a_few_transactions(store: Store) -> None:
    chat = store.begin()
    chat.ask("count")
    now = 0.0
    with chat.answering("mini") as writer:
        writer.clock = lambda: now
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        for number in range(1000):
            writer.take(TextDelta(f"{number} "))
            now += 0.01
        writer.take(Finished("stop", "".join(f"{number} " for number in range(1000)), ""))
    assert statements.count("COMMIT") <= 42  # of 1000 pieces in 10 s
    assert store.find(chat.id).path[-1].text.endswith("999 ")


@pytest.mark.parametrize("damage", ["not a database", "a torn page", "cut short"])
def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path, damage: str) -> None:
    with Store.open(tmp_path, no_note) as store:
        for _ in range(50):
            chat = store.begin()
            chat.ask("question " * 50)
            answer(chat, "answer " * 50)
    file = tmp_path / "chats" / "chats.db"
    data = bytearray(file.read_bytes())
    if damage == "not a database":
        data[:] = b"something else entirely " * 100
    elif damage == "a torn page":
        for start in range(4096, len(data), 4096):
            data[start : start + 200] = os.urandom(200)
    else:
        del data[4096 * 3 :]
    file.write_bytes(data)

    def read_all() -> None:
        with Store.open(tmp_path, no_note) as store:
            store.find(chat.id)
            store.search("question")

    with pytest.raises(InputError, match=r"chats\.db: is damaged .*Move it away"):
        read_all()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path, no_note) as store:
        store._connection.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match="another version of qwen"):
        Store.open(tmp_path, no_note)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UnwritableError, match="conversations cannot be saved"):
        Store.open(tmp_path / "data", no_note)


def test_a_full_disk_stops_no_answer_and_is_told(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with chat.answering("mini") as writer:
        for number in range(3):
            writer.clock = lambda: float(number)  # noqa: B023
            writer.take(TextDelta("x" * 50_000))
        writer.take(Finished("stop", "x" * 150_000, ""))
    assert isinstance(writer.trouble, UnwritableError)
    assert "full" in str(writer.trouble)
    store._connection.execute("PRAGMA max_page_count = 100000")
    chat.ask("two")
    assert store.find(chat.id).last_question == chat.last_question


def test_two_that_go_on_from_one_place_make_two_branches(store: Store, tmp_path: Path) -> None:
    chat = store.begin()
    chat.ask("one")
    answer(chat, "first")
    with Store.open(tmp_path, no_note) as other:
        theirs = other.find(chat.id)
        theirs.ask("theirs")
        chat.ask("ours")
        answer(theirs, "to them")
        answer(chat, "to us")
    assert [[m.text for m in path][2:] for path in chat.branches()] == [
        ["theirs", "to them"],
        ["ours", "to us"],
    ]
