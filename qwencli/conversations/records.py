"""What is kept of a conversation, as values: one dataclass a table row."""

import json
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qwencli.settings import Settings

Role = Literal["user", "assistant", "compact"]


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """`pages`: those chosen of a PDF, as --pages has them; `sampling`: what is seen of a clip, as JSON."""

    sha256: str
    source: str
    type: str
    size_bytes: int
    pages: str | None = None
    sampling: str | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A question, an answer, or (role "compact") the place where older turns were left out.

    There `first_seen` is the id of the first message that the model still sees, and `text` the summary of
    what was left out, empty where there is none. `finish_reason` of an answer is None where its process
    ended before it did.
    """

    id: int
    parent_id: int | None
    role: Role
    text: str
    created_at: float  # seconds since 1970
    reasoning: str | None = None
    attachments: tuple[StoredAttachment, ...] = ()
    model: str | None = None
    settings: dict[str, Any] | None = None
    token_ids: tuple[int, ...] | None = None
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    finish_reason: str | None = None
    first_seen: int | None = None

    @classmethod
    def from_row(cls, row: sqlite3.Row, attachments: Sequence[StoredAttachment]) -> "StoredMessage":
        return cls(
            id=row["id"],
            parent_id=row["parent_id"],
            role=row["role"],
            text=row["text"],
            created_at=row["created_at"],
            reasoning=row["reasoning"],
            attachments=tuple(attachments),
            model=row["model"],
            settings=_from_json(row["settings"]),
            token_ids=unpack_ids(row["token_ids"]),
            usage=_from_json(row["usage"]),
            timings=_from_json(row["timings"]),
            finish_reason=row["finish_reason"],
            first_seen=row["first_seen"],
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self) | {"attachments": [asdict(attachment) for attachment in self.attachments]}


@dataclass(frozen=True, slots=True)
class Summary:
    """One conversation in a list."""

    id: str
    title: str
    created_at: float
    updated_at: float
    num_messages: int
    model: str | None  # that answered last


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that holds the words looked for; `excerpt` is the text around them."""

    chat_id: str
    title: str
    role: Role
    created_at: float
    excerpt: str


def settings_dict(settings: Settings) -> dict[str, Any]:
    """What was set; the rest was left to the checkpoint and the machine."""
    default = Settings()
    return {
        name: asdict(value) if hasattr(value, "__dataclass_fields__") else value
        for name in Settings.__dataclass_fields__
        if (value := getattr(settings, name)) != getattr(default, name)
    }


def to_json(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else json.dumps(values, ensure_ascii=False)


def pack_ids(ids: Sequence[int] | None) -> bytes | None:
    return None if ids is None else struct.pack(f"<{len(ids)}i", *ids)


def unpack_ids(data: bytes | None) -> tuple[int, ...] | None:
    return None if data is None else struct.unpack(f"<{len(data) // 4}i", data)


def _from_json(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)
