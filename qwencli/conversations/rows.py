"""Messages as rows: how they are written and read. Whoever writes has begun a transaction."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from qwencli.conversations.records import Role, StoredAttachment, StoredMessage, pack_ids, to_json

_WRITTEN_AS: dict[str, Callable[[Any], Any]] = {
    "settings": to_json,
    "usage": to_json,
    "timings": to_json,
    "token_ids": pack_ids,
}


def insert_message(
    connection: sqlite3.Connection, chat_id: str, parent_id: int | None, role: Role, text: str, **values: Any
) -> StoredMessage:
    """Add a message below its parent, and let the conversation stand there. `values`: as its fields."""
    message = StoredMessage(0, parent_id, role, text, time.time(), **values)
    columns = _columns(values) | {
        "chat_id": chat_id,
        "parent_id": parent_id,
        "role": role,
        "text": text,
        "created_at": message.created_at,
    }
    cursor = connection.execute(
        f"INSERT INTO messages ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        tuple(columns.values()),
    )
    assert cursor.lastrowid is not None
    message = replace(message, id=cursor.lastrowid)
    connection.executemany(
        "INSERT INTO attachments (message_id, position, sha256, source, type, size_bytes, pages, sampling) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (message.id, position, a.sha256, a.source, a.type, a.size_bytes, a.pages, a.sampling)
            for position, a in enumerate(message.attachments)
        ],
    )
    connection.execute(
        "UPDATE chats SET tip = ?, updated_at = ? WHERE id = ?", (message.id, message.created_at, chat_id)
    )
    return message


def amend_message(connection: sqlite3.Connection, message: StoredMessage, **values: Any) -> StoredMessage:
    """Write on an answer that grows, or what is known at its end."""
    columns = _columns(values)
    connection.execute(
        f"UPDATE messages SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?",
        (*columns.values(), message.id),
    )
    return replace(message, **values)


def load_messages(connection: sqlite3.Connection, chat_id: str) -> list[StoredMessage]:
    """Every message of that conversation, of all branches, in the order they came."""
    kept: dict[int, list[StoredAttachment]] = {}
    for row in connection.execute(
        "SELECT attachments.* FROM attachments JOIN messages ON messages.id = message_id "
        "WHERE chat_id = ? ORDER BY message_id, position",
        (chat_id,),
    ):
        kept.setdefault(row["message_id"], []).append(
            StoredAttachment(
                row["sha256"],
                row["source"],
                row["type"],
                row["size_bytes"],
                row["pages"],
                row["sampling"],
            )
        )
    rows = connection.execute("SELECT * FROM messages WHERE chat_id = ? ORDER BY id", (chat_id,))
    return [StoredMessage.from_row(row, kept.get(row["id"], ())) for row in rows]


def path_to(tip: int | None, everything: Sequence[StoredMessage]) -> list[StoredMessage]:
    """The messages from the first one to the one called `tip`."""
    by_id = {message.id: message for message in everything}
    path: list[StoredMessage] = []
    while tip is not None and tip in by_id:
        path.append(by_id[tip])
        tip = by_id[tip].parent_id
    return path[::-1]


def _columns(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _WRITTEN_AS[name](value) if name in _WRITTEN_AS else value
        for name, value in values.items()
        if name != "attachments"
    }
