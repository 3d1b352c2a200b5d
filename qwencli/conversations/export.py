"""A conversation for other programs and for reading: Markdown, JSON, JSON lines."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from qwen35.errors import UnwritableError
from qwencli.conversations.records import StoredMessage, Summary
from qwencli.render.record import SCHEMA_VERSION

_ENDINGS = {
    None: "unfinished: its program ended",
    "length": "cut: no room for more tokens",
    "loop": "stopped: it repeated itself",
    "interrupted": "interrupted",
    "error": "broken off by an error",
}


def to_markdown(summary: Summary, path: Sequence[StoredMessage], everything: Sequence[StoredMessage]) -> str:
    """The conversation as it stands, for a person; other branches are counted alone."""
    lines = [f"# {summary.title}", "", f"{when(summary.created_at)} · {summary.id}", ""]
    for message in path:
        lines += _markdown_of(message)
    if num_others := len(everything) - len(path):
        lines += [f"*{num_others} messages of other branches are not shown.*", ""]
    return "\n".join(lines)


def _markdown_of(message: StoredMessage) -> list[str]:
    if message.role == "compact":
        summary = ["## Summary in their place", "", message.text, ""] if message.text else []
        return ["---", "", "*Here older turns were left out of what the model sees.*", "", *summary]
    if message.role == "user":
        attached = [f"- attached: `{a.source}` ({a.type})" for a in message.attachments]
        return ["## Question", "", *attached, *([""] if attached else []), message.text, ""]
    ending = ending_of(message)
    note = ["", f"*({ending})*"] if ending else []
    thoughts = [f"> {line}".rstrip() for line in (message.reasoning or "").splitlines()]
    return [
        f"## Answer ({message.model})",
        "",
        *thoughts,
        *([""] if thoughts else []),
        message.text,
        *note,
        "",
    ]


def to_json(summary: Summary, path: Sequence[StoredMessage], everything: Sequence[StoredMessage]) -> str:
    """All of it: the messages of every branch, and which of them lead to where it stands."""
    return json.dumps(to_dict(summary, path, everything), ensure_ascii=False, indent=2) + "\n"


def to_jsonl(summary: Summary, path: Sequence[StoredMessage], everything: Sequence[StoredMessage]) -> str:
    """One message a line, of the conversation as it stands."""
    lines = [{"chat_id": summary.id} | message.to_dict() for message in path]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def to_dict(
    summary: Summary, path: Sequence[StoredMessage], everything: Sequence[StoredMessage]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(summary),
        "path": [message.id for message in path],
        "messages": [message.to_dict() for message in everything],
        "error": None,
    }


Exporter = Callable[[Summary, Sequence[StoredMessage], Sequence[StoredMessage]], str]
FORMATS: dict[str, Exporter] = {"md": to_markdown, "json": to_json, "jsonl": to_jsonl}


def ending_of(message: StoredMessage) -> str | None:
    """How an answer ended, where it did not end by itself."""
    return (
        None
        if message.finish_reason == "stop"
        else _ENDINGS.get(message.finish_reason, message.finish_reason)
    )


def when(seconds: float) -> str:
    """Local time for a person."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def write_export(
    target: Path,
    form: str | None,
    summary: Summary,
    path: Sequence[StoredMessage],
    everything: Sequence[StoredMessage],
    *,
    another: str,
    overwrites: bool = False,
) -> None:
    """Write to a file, in the format that its name ends in where none is given.

    Raises UnwritableError, for a file that exists too: `another` says what to do then.
    """
    ending = target.suffix.lstrip(".").lower()
    chosen = form or {"markdown": "md", "ndjson": "jsonl"}.get(ending, ending)
    text = FORMATS.get(chosen, to_markdown)(summary, path, everything)
    try:
        with target.expanduser().open("w" if overwrites else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UnwritableError(f"{target}: exists already; {another}.", path=str(target)) from None
    except OSError as error:
        raise UnwritableError(f"{target}: cannot be written ({error.strerror}).", path=str(target)) from None
