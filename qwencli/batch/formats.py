"""How an answer stands in the output: as `qwen ask --json` has it, in OpenAI's Batch form, or as a CSV row.

Each form can be read back: the output alone says what is done.
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal, Protocol

from qwencli.batch.targets import Done
from qwencli.render.record import Record
from qwencli.structured.tables import cell, value_at

Form = Literal["json", "openai", "csv"]
csv.field_size_limit((1 << 31) - 1)  # characters of a cell that is read back; csv's own bound is 131,072
_COLUMNS = ("item", "answer", "finish_reason", "error", "prompt_tokens", "completion_tokens", "model", "id")


@dataclass(frozen=True, slots=True)
class Line:
    """What a line of an output says: whose answer it is, and what kind of end it had."""

    item: str
    id: str
    done_as: Done
    model: str | None


class Format(Protocol):
    """`prefix`: what the ids of its answers begin with; `header`: what stands before the first of them.

    `beginning`: what each line begins with.
    """

    @property
    def prefix(self) -> str: ...

    @property
    def header(self) -> bytes: ...

    @property
    def beginning(self) -> bytes: ...

    def encode(self, record: Record, error: dict[str, Any] | None) -> bytes:
        """The whole line, with its end."""
        ...

    def decode(self, line: bytes) -> Line:
        """Raises ValueError, LookupError or TypeError for what is no such line."""
        ...

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """Of a file from where it stands; the last one may be torn."""
        ...

    def is_whole(self, line: bytes) -> bool: ...


class JsonFormat:
    prefix, header = "item-", b""
    beginning = b'{"schema_version": '

    def encode(self, record: Record, error: dict[str, Any] | None) -> bytes:
        return _json(record.to_dict(error))

    def decode(self, line: bytes) -> Line:
        values = json.loads(line)
        done_as = _done_as("error" if values["error"] else values["finish_reason"])
        return Line(_text(values["item"]), _text(values["id"]), done_as, values["model"])

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        yield from file

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n")


class OpenAIFormat(JsonFormat):
    prefix = "batch_req_"
    beginning = b'{"id": "batch_req_'

    def encode(self, record: Record, error: dict[str, Any] | None) -> bytes:
        failure = {"code": error["kind"], "message": error["message"]} if error else None
        response = (
            None if error else {"status_code": 200, "request_id": record.id, "body": completion(record)}
        )
        values = {"id": record.id, "custom_id": record.item, "response": response, "error": failure}
        return _json(values)

    def decode(self, line: bytes) -> Line:
        values = json.loads(line)
        body = values["response"]["body"] if values["error"] is None else None
        done_as = _done_as(body["choices"][0]["finish_reason"] if body else "error")
        return Line(_text(values["custom_id"]), _text(values["id"]), done_as, body["model"] if body else None)


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """`fields`: those of a schema, by the keys that lead to them; each has a column behind the fixed ones."""

    fields: tuple[tuple[str, ...], ...] = ()
    prefix: ClassVar[str] = "item-"
    beginning: ClassVar[bytes] = b""

    @property
    def columns(self) -> list[str]:
        """One that is called as a fixed one gets `data.` before its name."""
        names = [".".join(keys) for keys in self.fields]
        return [*_COLUMNS, *(f"data.{name}" if name in _COLUMNS else name for name in names)]

    @property
    def header(self) -> bytes:
        return _row(self.columns)

    def encode(self, record: Record, error: dict[str, Any] | None) -> bytes:
        usage = record.usage
        data = None if error else record.data
        return _row(
            [
                *(record.item, None if error else record.answer),
                *("error" if error else record.finish_reason, error["message"] if error else None),
                *(usage.prompt_tokens, usage.completion_tokens, record.model, record.id),
                *(cell(value_at(data, keys)) for keys in self.fields),
            ]
        )

    def decode(self, line: bytes) -> Line:
        (row,) = csv.reader(io.StringIO(_decoded(line), newline=""), strict=True)
        values = dict(zip(self.columns, row, strict=True))
        done_as = _done_as(values["finish_reason"])
        return Line(values["item"], values["id"], done_as, values["model"] or None)

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """Rows: a line's end between quotes ends none."""
        row = b""
        for line in file:
            row += line
            if self.is_whole(row):
                yield row
                row = b""
        if row:
            yield row

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\r\n") and line.count(b'"') % 2 == 0


def _done_as(finish_reason: str) -> Done:
    if finish_reason == "error":
        return "failed"
    return "answered" if finish_reason == "stop" else "incomplete"


def _row(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    # Names of files may hold bytes that are no text: they come back as they were.
    try:
        return text.getvalue().encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character, of JSON's escapes
        return text.getvalue().encode(errors="surrogatepass")


def _decoded(row: bytes) -> str:
    try:
        return row.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return row.decode(errors="surrogateescape")


FORMATS: dict[Form, Format] = {"json": JsonFormat(), "openai": OpenAIFormat(), "csv": CsvFormat()}


def completion(record: Record) -> dict[str, Any]:
    """An answer as OpenAI's chat completions have it, the reasoning as vLLM adds it."""
    usage = record.usage
    message = {"role": "assistant", "content": record.answer or "", "refusal": None}
    if record.reasoning:
        message["reasoning_content"] = record.reasoning
    reason = "stop" if record.finish_reason == "stop" else "length"  # there is no word for a loop
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {
        "id": f"chatcmpl-{record.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": record.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        },
    }


def _json(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a file's name with bytes that are no text: as JSON's own escapes
        return json.dumps(values).encode() + b"\n"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
