"""All conversations of one user: begin one, find one, look through them, remove them."""

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen35.errors import InputError, UnwritableError
from qwen35.messages import Sampling
from qwencli.conversations.blobs import Blobs, KeepingAttacher
from qwencli.conversations.conversation import Conversation
from qwencli.conversations.database import connect, connect_to_read, explained, transaction
from qwencli.conversations.records import Hit, Summary
from qwencli.conversations.rows import load_messages, path_to
from qwencli.folders import Folders
from qwencli.values import PageRanges

LAST = "last"  # stands for the conversation that was added to last
_ID_BYTES = 4
_EXCERPT_WORDS = 12
_EXCERPT_LENGTH = 80  # characters, where words cannot be counted

_SUMMARIES = """
SELECT id, title, created_at, updated_at,
    (SELECT count(*) FROM messages WHERE chat_id = chats.id AND role <> 'compact') AS num_messages,
    (SELECT model FROM messages WHERE chat_id = chats.id AND model IS NOT NULL
     ORDER BY messages.id DESC LIMIT 1) AS model
FROM chats
"""


class Store:
    """Owns the connection; close it, or use it in a `with`. One process may have several.

    `notify` hears of attachments that are no longer there.
    """

    def __init__(
        self, connection: sqlite3.Connection, file: Path | None, blobs: Blobs, notify: Callable[[str], None]
    ) -> None:
        self.file = file  # None: nothing is written
        self.blobs = blobs
        self._connection = connection
        self._notify = notify

    @classmethod
    def open(cls, data: Path, notify: Callable[[str], None]) -> Self:
        """The conversations in the data folder, which is made where it is missing.

        Raises UnwritableError where nothing can be saved there, InputError where the file is damaged.
        """
        file = data / "chats" / "chats.db"
        return cls(connect(file), file, Blobs(file.parent / "attachments"), notify)

    @classmethod
    def open_to_read(cls, data: Path, *, writes_nothing: bool = False) -> Self | None:
        """The same to look at alone, also in a read-only folder; None where there is no conversation yet.

        `writes_nothing`: not even the files that SQLite needs to see what other processes write just now.
        """
        file = data / "chats" / "chats.db"
        try:
            if not file.exists():
                return None
            connection = connect_to_read(file) if writes_nothing else connect(file)
        except UnwritableError:
            connection = connect_to_read(file)
        return cls(connection, file, Blobs(file.parent / "attachments"), lambda text: None)

    @classmethod
    def in_memory(cls, notify: Callable[[str], None], saved: Self | None = None) -> Self:
        """A store of which nothing is left afterwards; with the conversations of `saved`, to go on with."""
        connection = connect(None)
        if saved is None:
            return cls(connection, None, Blobs(None), notify)
        with explained(saved.file):
            saved._connection.backup(connection)
        return cls(connection, None, Blobs(saved.blobs.folder, can_write=False), notify)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def attacher(
        self,
        pages: PageRanges | None,
        notify: Callable[[str], None],
        on_progress: Callable[..., None],
        sampling: Sampling = Sampling(),
    ) -> KeepingAttacher:
        """An Attacher that keeps the bytes of what it attaches, for a question of a conversation."""
        return KeepingAttacher(pages, notify, on_progress, self.blobs, sampling=sampling)

    def begin(self) -> Conversation:
        """A new conversation; it is saved with its first question."""
        id = secrets.token_hex(_ID_BYTES)
        return Conversation(self._connection, self.file, self.blobs, self._notify, id=id, is_saved=False)

    def find(self, id: str) -> Conversation:
        """The conversation of that id or unique beginning of one, or the `LAST`. Raises InputError."""
        with explained(self.file):
            if id == LAST:
                sql, values = "SELECT * FROM chats ORDER BY updated_at DESC, id LIMIT 1", []
            else:
                sql, values = "SELECT * FROM chats WHERE substr(id, 1, ?) = ? LIMIT 2", [len(id), id.lower()]
            rows = self._connection.execute(sql, values).fetchall()
        if not rows:
            missing = "there is no saved conversation yet" if id == LAST else f"no conversation {id!r}"
            raise InputError(f"{missing[0].upper()}{missing[1:]}. See: qwen chats ls")
        if len(rows) > 1 or not id:
            raise InputError(f"{id!r} begins the id of several conversations. See: qwen chats ls")
        row = rows[0]
        with explained(self.file):
            path = path_to(row["tip"], load_messages(self._connection, row["id"]))
        return Conversation(
            self._connection,
            self.file,
            self.blobs,
            self._notify,
            id=row["id"],
            title=row["title"],
            path=path,
            is_saved=True,
        )

    def summary_of(self, conversation: Conversation) -> Summary:
        with explained(self.file):
            row = self._connection.execute(f"{_SUMMARIES} WHERE id = ?", (conversation.id,)).fetchone()
        return Summary(**row)

    def summaries(self, limit: int | None = None) -> list[Summary]:
        """The conversations, the one added to last first."""
        with explained(self.file):
            rows = self._connection.execute(
                f"{_SUMMARIES} ORDER BY updated_at DESC, id LIMIT ?", (-1 if limit is None else limit,)
            ).fetchall()
        return [Summary(**row) for row in rows]

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Messages that hold all words of `text`, the best first; the last may be the beginning of a word.

        Where no message does, those that hold them as parts of words, and titles.
        """
        words = text.split()
        if not words:
            return []
        query = " ".join('"' + word.replace('"', '""') + '"' for word in words) + "*"
        with explained(self.file):
            rows = self._connection.execute(
                "SELECT chat_id, title, role, messages.created_at AS created_at, "
                "snippet(words, 0, '', '', '…', ?) AS excerpt "
                "FROM words JOIN messages ON messages.id = words.rowid JOIN chats ON chats.id = chat_id "
                "WHERE words MATCH ? ORDER BY words.rank LIMIT ?",
                (_EXCERPT_WORDS, query, limit),
            ).fetchall()
            if rows:
                return [_hit(row, row["excerpt"]) for row in rows]
            # Languages without spaces, and parts of words.
            held = " AND ".join(["instr(lower(messages.text || ' ' || title), ?)"] * len(words))
            rows = self._connection.execute(
                "SELECT chat_id, title, role, messages.created_at AS created_at, messages.text AS text "
                "FROM messages JOIN chats ON chats.id = chat_id "
                f"WHERE (role <> 'compact' OR messages.text <> '') AND {held} "
                "ORDER BY messages.id DESC LIMIT ?",
                (*(word.lower() for word in words), limit),
            ).fetchall()
        return [_hit(row, _around(row["text"], words[0])) for row in rows]

    def remove(self, ids: Sequence[str]) -> None:
        """Remove these conversations (whole ids), and the attachments that no other one has."""
        marks = ", ".join("?" * len(ids))
        with transaction(self._connection, self.file):
            # What is removed is not to be found in the file afterwards.
            self._connection.execute("PRAGMA secure_delete = ON")
            sql = (
                "SELECT sha256 FROM attachments JOIN messages ON messages.id = message_id "
                f"WHERE chat_id IN ({marks})"
            )
            removed = {row["sha256"] for row in self._connection.execute(sql, tuple(ids))}
            self._connection.execute(f"DELETE FROM chats WHERE id IN ({marks})", tuple(ids))
            self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
            rows = self._connection.execute("SELECT DISTINCT sha256 FROM attachments")
            used = {row["sha256"] for row in rows}
        for sha256 in removed - used:
            self.blobs.remove(sha256)
        self.blobs.remove_forgotten(used)
        with explained(self.file):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _hit(row: sqlite3.Row, excerpt: str) -> Hit:
    return Hit(row["chat_id"], row["title"], row["role"], row["created_at"], " ".join(excerpt.split()))


def _around(text: str, word: str) -> str:
    start = max(0, text.lower().find(word.lower()) - _EXCERPT_LENGTH // 4)
    end = start + _EXCERPT_LENGTH
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def open_store(folders: Folders, *, is_private: bool, notify: Callable[[str], None]) -> Store:
    """The saved conversations; or a copy of them that is forgotten, where nothing may or can be written.

    Raises InputError where what is saved is damaged.
    """
    if not is_private:
        try:
            return Store.open(folders.data, notify)
        except UnwritableError as error:
            notify(f"{error} What is said now is lost at the end.")
    with suppress(UnwritableError):
        if saved := Store.open_to_read(folders.data, writes_nothing=True):
            with saved:
                return Store.in_memory(notify, saved)
    return Store.in_memory(notify)
