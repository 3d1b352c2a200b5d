"""One conversation at one place of its tree: what was said so far, and what is said next."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwen35.messages import Message, Part, Sampling, TextPart, VideoPart
from qwencli.conversations.answer import AnswerWriter
from qwencli.conversations.blobs import Blobs, KeepingAttacher
from qwencli.conversations.database import explained, transaction
from qwencli.conversations.records import Role, StoredAttachment, StoredMessage, settings_dict
from qwencli.conversations.rows import amend_message, insert_message, load_messages, path_to
from qwencli.media.attach import Attachment
from qwencli.settings import Settings
from qwencli.values import PageRanges, parse_pages

_TITLE_LENGTH = 60  # characters
# Begins what the model sees in place of the turns that were left out.
SUMMARY_HEAD = "Our conversation so far, in short:\n\n"


class Conversation:
    """Mutable: grows by `ask` and `answering`, and moves by `rewind`, `go_to` and `compact`.

    Nothing that was saved is ever changed by it: after a step back the next question is another branch.
    Two processes may go on from the same place; each makes its own branch.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        file: Path | None,
        blobs: Blobs,
        notify: Callable[[str], None],
        *,
        id: str,
        title: str = "",
        path: Sequence[StoredMessage] = (),
        is_saved: bool,
    ) -> None:
        self.id = id
        self.title = title
        self.path = list(path)  # from the first message to where the conversation stands
        self.is_saved = is_saved  # a conversation comes into the file with its first question
        self._connection = connection
        self._file = file
        self._blobs = blobs
        self._notify = notify
        self._parts: dict[StoredAttachment, tuple[Part, ...]] = {}

    @property
    def tip(self) -> StoredMessage | None:
        return self.path[-1] if self.path else None

    @property
    def last_question(self) -> StoredMessage | None:
        return next((message for message in reversed(self.path) if message.role == "user"), None)

    @property
    def last_answer(self) -> StoredMessage | None:
        """The answer to the last question, if there is one."""
        last = next((message for message in reversed(self.path) if message.role != "compact"), None)
        return last if last and last.role == "assistant" else None

    @property
    def system(self) -> str | None:
        """The system message that the last question had."""
        question = self.last_question
        return (question.settings or {}).get("system") if question else None

    @property
    def model(self) -> str | None:
        """The model that answered last."""
        return next((message.model for message in reversed(self.path) if message.model), None)

    @property
    def seen(self) -> list[StoredMessage]:
        """What the model still sees: a summary first where the last `compact` has one, then whole turns."""
        mark = next((message for message in reversed(self.path) if message.role == "compact"), None)
        first = (mark.first_seen if mark else None) or 0
        turns = [message for message in self.path if message.id >= first and message.role != "compact"]
        return [mark, *turns] if mark and mark.text else turns

    def messages(self, system: str | None = None, end: int | None = None) -> tuple[Message, ...]:
        """What the model sees of the conversation so far (of `seen[:end]`), below the system message.

        An attachment whose bytes are gone stands as a line that says so, with a note.
        """
        past = tuple(self._message(message) for message in self.seen[:end])
        return (Message.of_text("system", system), *past) if system else past

    def attachments_of(self, message: StoredMessage) -> list[Attachment]:
        """To be attached to another question."""
        return [
            Attachment(kept.source, kept.type, kept.sha256, kept.size_bytes, self._parts_of(kept))
            for kept in message.attachments
        ]

    def ask(
        self,
        text: str,
        attachments: Sequence[Attachment] = (),
        settings: Settings | None = None,
        pages: PageRanges | None = None,
    ) -> StoredMessage:
        """Save a question, as what follows here. `settings.system` is the system message itself, not @FILE.

        The bytes of `attachments` are kept already where they come from `Store.attacher`.
        Raises UnwritableError.
        """
        chosen = _pages_text(pages) if pages else None
        stored = [
            next((kept for kept, parts in self._parts.items() if parts is a.parts), None)
            or _stored(a, chosen)
            for a in attachments
        ]
        for attachment, kept in zip(attachments, stored, strict=True):
            self._parts[kept] = attachment.parts
        title = self.title or _title_of(text, attachments)
        with transaction(self._connection, self._file):
            if not self.is_saved:
                now = time.time()
                self._connection.execute(
                    "INSERT INTO chats (id, title, created_at, updated_at) VALUES (?, ?, ?, ?)",
                    (self.id, title, now, now),
                )
            message = insert_message(
                self._connection,
                self.id,
                self.tip.id if self.tip else None,
                "user",
                text,
                attachments=tuple(stored),
                settings=settings_dict(settings) if settings else None,
            )
        self.is_saved, self.title = True, title
        self.path.append(message)
        return message

    def append(self, role: Role, text: str, **values: Any) -> StoredMessage:
        """Save a message that follows here; `values` as the fields of StoredMessage. For `AnswerWriter`."""
        parent_id = self.tip.id if self.tip else None
        with transaction(self._connection, self._file):
            message = insert_message(self._connection, self.id, parent_id, role, text, **values)
        self.path.append(message)
        return message

    def amend(self, **values: Any) -> StoredMessage:
        """Write on the answer that grows at the tip. For `AnswerWriter`."""
        with transaction(self._connection, self._file):
            self.path[-1] = amend_message(self._connection, self.path[-1], **values)
        return self.path[-1]

    def answering(self, model: str) -> AnswerWriter:
        """What saves the answer to the last question while it comes; to be entered, and given each event."""
        return AnswerWriter(self, model)

    def rewind(self, num_turns: int = 1) -> list[StoredMessage]:
        """Step back before the last questions; a mark of `compact` counts as one step.

        Returns what is no longer on the path, which stays saved as a branch.
        """
        index = len(self.path)
        while num_turns and index:
            index -= 1
            num_turns -= self.path[index].role != "assistant"
        taken = self.path[index:]
        self._move(self.path[:index])
        return taken

    def rewind_to(self, message: StoredMessage | None) -> None:
        """Step back to stand at `message`; None: before all of them."""
        self._move(path_to(message.id if message else None, self.path))

    @property
    def num_turns(self) -> int:
        """Turns that the model still sees."""
        return sum(message.role == "user" for message in self.seen)

    def num_before(self, num_turns: int) -> int:
        """How many of the messages of `seen` stand before the last `num_turns` turns."""
        seen = self.seen
        starts = [index for index, message in enumerate(seen) if message.role == "user"]
        return [*starts, len(seen)][len(starts) - num_turns]

    def compact(self, num_kept: int, summary: str = "", **values: Any) -> list[StoredMessage]:
        """From here on the model sees the last `num_kept` turns alone, or below a summary of what was before.

        Returns the messages left out; they stay saved, and `rewind` takes this step back. `values` tell of
        the summary, as the fields of StoredMessage.
        """
        seen, cut = self.seen, self.num_before(num_kept)
        assert cut
        # Ids grow: without a turn that is kept, what is said next is the first.
        first_seen = seen[cut].id if num_kept else seen[-1].id + 1
        self.append("compact", summary, first_seen=first_seen, **values)
        return seen[:cut]

    def everything(self) -> list[StoredMessage]:
        """The messages of all branches, in the order they came."""
        with explained(self._file):
            return load_messages(self._connection, self.id)

    def branches(self) -> list[list[StoredMessage]]:
        """The path to each end that the conversation has, oldest first."""
        everything = self.everything()
        parents = {message.parent_id for message in everything}
        return [path_to(message.id, everything) for message in everything if message.id not in parents]

    def go_to(self, path: Sequence[StoredMessage]) -> None:
        """Stand at the end of one of the branches."""
        self._move(list(path))

    def rename(self, title: str) -> None:
        """Raises UnwritableError."""
        if self.is_saved:
            with transaction(self._connection, self._file):
                self._connection.execute("UPDATE chats SET title = ? WHERE id = ?", (title, self.id))
        self.title = title

    def _move(self, path: list[StoredMessage]) -> None:
        with transaction(self._connection, self._file):
            self._connection.execute(
                "UPDATE chats SET tip = ? WHERE id = ?", (path[-1].id if path else None, self.id)
            )
        self.path = path

    def _message(self, message: StoredMessage) -> Message:
        if message.role == "compact":
            return Message.of_text("user", SUMMARY_HEAD + message.text)
        parts = [part for kept in message.attachments for part in self._parts_of(kept)]
        if message.text:
            parts.append(TextPart(message.text))
        return Message(message.role, tuple(parts), message.reasoning or None, message.token_ids)

    def _parts_of(self, kept: StoredAttachment) -> tuple[Part, ...]:
        if kept not in self._parts:
            # What is worth a note was said when it was attached.
            pages = parse_pages(kept.pages) if kept.pages else None
            attacher = KeepingAttacher(
                pages, lambda text: None, lambda *progress: None, self._blobs, sampling=_sampling_of(kept)
            )
            attachment = attacher.restore(kept.sha256, kept.source)
            if attachment is None:
                self._notify(
                    f"{kept.source}: its saved bytes are gone or damaged; the model no longer sees it"
                )
                self._parts[kept] = (TextPart(f"[{kept.source} is missing]\n\n"),)
            else:
                self._parts[kept] = attachment.parts
        return self._parts[kept]


def _stored(attachment: Attachment, pages: str | None) -> StoredAttachment:
    sampling = next((part.sampling for part in attachment.parts if isinstance(part, VideoPart)), None)
    return StoredAttachment(
        attachment.sha256,
        attachment.source,
        attachment.type,
        attachment.size_bytes,
        pages if attachment.has_pages else None,
        json.dumps(asdict(sampling)) if sampling else None,
    )


def _sampling_of(kept: StoredAttachment) -> Sampling:
    return Sampling(**json.loads(kept.sampling)) if kept.sampling else Sampling()


def _title_of(text: str, attachments: Sequence[Attachment]) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(line.split()) or ", ".join(attachment.source for attachment in attachments)
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"


def _pages_text(pages: PageRanges) -> str:
    """As `parse_pages` reads it."""
    return ",".join(f"{first}-{'' if last is None else last}" for first, last in pages.ranges)
