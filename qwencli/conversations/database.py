"""The file that conversations are kept in: its tables, and its troubles in plain words.

Many processes write to it at once, and each may be killed at any moment: WAL, short transactions, and a
wait of some seconds for one another.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from qwen35.errors import InputError, UnwritableError

PATIENCE_S = 10.0  # for another process's transaction, each of which takes milliseconds
_VERSION = 3  # of the tables below

# A message is never changed once it is whole, and never overwritten: what is asked or answered again is
# another child of the same parent. `tip` is where the conversation stands: the path from there to the
# root is what the user sees. finish_reason is NULL while an answer grows, and stays so if its process
# is killed. A message of the role "compact" says from which message on the model still sees the
# conversation (first_seen); its text is the summary of what was left out, or empty.
_TABLES = """
CREATE TABLE chats (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    tip INTEGER
) STRICT;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    parent_id INTEGER REFERENCES messages (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    reasoning TEXT,
    model TEXT,
    settings TEXT,
    token_ids BLOB,
    usage TEXT,
    timings TEXT,
    finish_reason TEXT,
    created_at REAL NOT NULL,
    first_seen INTEGER
) STRICT;
CREATE INDEX messages_of_chat ON messages (chat_id);
CREATE INDEX children_of_message ON messages (parent_id);
CREATE TABLE attachments (
    message_id INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    pages TEXT,
    sampling TEXT,
    PRIMARY KEY (message_id, position)
) STRICT;
CREATE INDEX attachments_of_hash ON attachments (sha256);
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "unicode61 remove_diacritics 2");
CREATE TRIGGER words_come AFTER INSERT ON messages BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER words_change AFTER UPDATE OF text ON messages BEGIN
    UPDATE words SET text = new.text WHERE rowid = new.id;
END;
CREATE TRIGGER words_go AFTER DELETE ON messages BEGIN
    DELETE FROM words WHERE rowid = old.id;
END;
"""

# What makes the tables of the next version out of those of each earlier one.
_UPGRADES = {
    1: """
ALTER TABLE messages ADD COLUMN first_seen INTEGER;
UPDATE messages SET first_seen = CAST(text AS INTEGER), text = '' WHERE role = 'compact';
DROP TRIGGER words_come;
CREATE TRIGGER words_come AFTER INSERT ON messages BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
""",
    2: """
ALTER TABLE attachments ADD COLUMN sampling TEXT;
""",
}


def connect(path: Path | None) -> sqlite3.Connection:
    """The database of that file, made where there is none; in memory without a path.

    Raises UnwritableError where it cannot be opened for writing, InputError where it is damaged or newer
    than this program.
    """
    with explained(path):
        if path is not None:
            _make_private(path)
        connection = sqlite3.connect(path or ":memory:", timeout=PATIENCE_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            if path is not None:
                _use_wal(connection)
                # What was committed outlives the process; a power cut may cost the last transactions.
                connection.execute("PRAGMA synchronous = NORMAL")
            _make_tables(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """The same without a word written, for a folder that is read-only. Raises as `connect` does.

    A file of an earlier version is copied into memory, and read there.
    """
    with explained(path):
        # immutable: in WAL mode even a reader would have to write beside the file.
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None
        )
        try:
            if _version_of(connection) in _UPGRADES:
                with closing(connection) as saved:
                    connection = sqlite3.connect(":memory:", isolation_level=None)
                    saved.backup(connection)
                _make_tables(connection, path)
            _check_version(_version_of(connection), path)
            connection.row_factory = sqlite3.Row
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path | None) -> Iterator[None]:
    """All of it or nothing. Raises as `explained` does."""
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """SQLite's errors as ours: what a user's disk can cause, with what to do about it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _explain(error, path) from error
    except OSError as error:
        raise UnwritableError(
            f"{path}: conversations cannot be saved ({error.strerror}).", path=str(path)
        ) from None


def _explain(error: sqlite3.DatabaseError, path: Path | None) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what the extended codes add
    where = str(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return InputError(
            f"{where}: is damaged ({error}). Move it away, and a new one is begun; the program sqlite3 "
            f"(.recover) may save what it holds.",
            path=where,
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnwritableError(
            f"{where}: another program has held it for {PATIENCE_S:g} s. Try again.", path=where
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return UnwritableError("This conversation was removed by another program; /clear begins a new one.")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return UnwritableError(f"{where}: conversations cannot be saved ({error}).", path=where)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return UnwritableError(f"{where}: conversations cannot be read or saved ({error}).", path=where)
    return error


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite's own files beside it take on its permissions. Never opened where it exists: to close it again
    # would drop the locks of this process's other connections (POSIX).
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _use_wal(connection: sqlite3.Connection) -> None:
    """The switch needs the file for itself, and SQLite does not wait for that by itself."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not is_busy or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _make_tables(connection: sqlite3.Connection, path: Path | None) -> None:
    """Or bring those of an earlier version to this one."""
    if _version_of(connection) < _VERSION:
        with transaction(connection, path):
            version = _version_of(connection)  # another process may have been here meanwhile
            if version == 0:
                scripts = [_TABLES]
            else:
                scripts = [_UPGRADES[earlier] for earlier in range(version, _VERSION)]
            for statement in (statement for script in scripts for statement in _statements(script)):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {max(version, _VERSION)}")
    _check_version(_version_of(connection), path)


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version_of(connection: sqlite3.Connection) -> int:
    with closing(connection.execute("PRAGMA user_version")) as rows:
        return int(rows.fetchone()[0])


def _check_version(version: int, path: Path | None) -> None:
    if version != _VERSION:
        raise InputError(
            f"{path}: was written by another version of qwen (tables {version}; this one knows {_VERSION}). "
            "Use that version, or move the file away.",
            path=str(path),
        )
