"""The messages of a question."""

from collections.abc import Sequence

from qwen35.errors import InputError
from qwen35.messages import Message, Part, TextPart
from qwencli.errors import UsageError
from qwencli.media.attach import Attachment
from qwencli.media.source import local_path


def messages_of(system: str | None, attachments: Sequence[Attachment], prompt: str) -> tuple[Message, ...]:
    """The system message if there is one, then what was attached and the question: the long part first.

    `system` is the text itself, as `system_text` gives it. An empty `prompt` means that attached text is the
    question. Raises UsageError if there is none.
    """
    parts: list[Part] = [part for attachment in attachments for part in attachment.parts]
    if prompt:
        parts.append(TextPart(prompt))
    elif not any(attachment.type == "text" for attachment in attachments):
        raise UsageError("There is no question. Ask one: qwen ask 'What is a vowel?'")
    question = Message("user", tuple(parts))
    return (Message.of_text("system", system), question) if system else (question,)


def system_text(text: str | None) -> str | None:
    """`text`, or what the file holds that it names as @FILE. Raises InputError."""
    if not text or not text.startswith("@"):
        return text
    path = local_path(text[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        is_no_text = isinstance(error, UnicodeDecodeError)
        reason = "no text" if is_no_text else getattr(error, "strerror", None) or error
        raise InputError(f"{path}: the system message cannot be read ({reason}).", path=str(path)) from None
