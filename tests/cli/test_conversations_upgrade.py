"""A file of conversations that an earlier version wrote is brought up to date, or read as it is."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.cli.talking import texts

V1 = """
UPDATE messages SET text = CAST(first_seen AS TEXT) WHERE role = 'compact';
ALTER TABLE messages DROP COLUMN first_seen;
ALTER TABLE attachments DROP COLUMN sampling;
DROP TRIGGER words_come;
CREATE TRIGGER words_come AFTER INSERT ON messages WHEN new.role <> 'compact' BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
DELETE FROM words WHERE rowid IN (SELECT id FROM messages WHERE role = 'compact');
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(home: Path, chat: Invoke) -> Path:
    """The file of the first tables: three turns, of which the model sees the last."""
    assert chat("one", "two", "three", "/compact 1").code == 0
    file = home / "data" / "chats" / "chats.db"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(V1)
    return file


def version_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("is_private", [False, True])
def test_conversations_of_the_first_tables_are_gone_on_with(
    old: Path, chat: Invoke, invoke: Invoke, is_private: bool
) -> None:
    result = chat(
        "/context", "four", "/undo 2", "/context", options=("-c", *(["--private"] if is_private else []))
    )
    assert result.code == 0, result.err
    before, _, after = result.out.partition("\nleft out ")
    assert (before.count("question"), after.count("question")) == (1, 3)
    assert version_of(old) == (1 if is_private else 3)
    if not is_private:
        assert texts(invoke) == ["one", "two", "three"]
        assert "four" in invoke("chats", "search", "four").out


def test_many_processes_at_once_find_it_up_to_date(old: Path) -> None:
    words = [sys.executable, "-m", "qwencli", "chats", "show", "last", "--json"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        mark = json.loads(out)["messages"][-1]
        assert (mark["role"], mark["text"], mark["first_seen"]) == ("compact", "", 5)
    assert version_of(old) == 3
