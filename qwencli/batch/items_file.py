"""Files of items, one JSON object a line: columns of one's own, or requests of OpenAI's Batch."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen35.errors import InputError
from qwencli.batch.items import Item, columns_of
from qwencli.batch.openai_request import OpenAIRequest
from qwencli.media.source import is_data_uri, is_url

SUFFIXES = (".jsonl", ".ndjson")
# Columns that name what a question is about: a path or a URL, or a list of them.
_INPUT_COLUMNS = ("inputs", "images", "image", "video", "path", "file")

Ask = Callable[[str, tuple[str, ...], Mapping[str, str]], Item]  # about inputs, with an item's id and columns


def read_items(lines: Iterable[bytes], source: str, ask: Ask | None) -> Iterator[Item]:
    """The items of `lines`; a bad line is one too, which fails and says its number.

    `ask` makes an item of an id, inputs and columns; without it each line has its own 'prompt'. Paths are
    those of the current folder, or else of the file's. A bad line keeps its id, so that whoever joins by it
    finds the failure, and the answer takes the failure's place once the line is mended.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        id = place = f"{source}:{number}"
        try:
            values = _object(line)
            id = _id_of(values) or place
            yield _item(values, id, place, Path(source).parent, ask)
        except InputError as error:
            yield bad_line(place, str(error), id)


def bad_line(place: str, what: str, id: str | None = None) -> Item:
    """The item of a line that cannot be asked; known by its place where it has no `id` of its own."""
    source, _, number = place.rpartition(":")
    return Item(id or place, error=InputError(f"{source}, line {number}: {what}", path=source), place=place)


def _item(values: dict[str, Any], id: str, place: str, folder: Path, ask: Ask | None) -> Item:
    if "custom_id" in values and "body" in values:
        if ask is not None:
            raise InputError("is an OpenAI Batch request, which has a question already; --system adds to it.")
        request = OpenAIRequest.from_dict(values, lambda spec: _found(spec, folder))
        return Item(id, request=request, place=place)
    inputs = tuple(_found(spec, folder) for spec in _inputs_of(values))
    if ask is not None:
        columns = dict(columns_of(inputs[0])) if inputs else {}
        columns |= {name: _as_text(value) for name, value in values.items()}
        return replace(ask(id, inputs, columns), place=place)
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("has no 'prompt'. Give it one, or ask one question about all lines.")
    return Item(id, inputs, prompt, place=place)


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, too
        raise InputError(f"is not JSON ({error}).") from None
    if not isinstance(values, dict):
        raise InputError("is not a JSON object.")
    return values


def _id_of(values: Mapping[str, Any]) -> str | None:
    """None: the line has none."""
    is_request = "custom_id" in values and "body" in values
    for name in ("custom_id",) if is_request else ("id", "custom_id"):
        value = values.get(name)
        if value is None and not is_request:
            continue
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise InputError(f"{name!r} is {value!r}, neither text nor a number.")
        return str(value)
    return None


def _inputs_of(values: Mapping[str, Any]) -> list[str]:
    inputs: list[str] = []
    for name in _INPUT_COLUMNS:
        if (value := values.get(name)) is None:
            continue
        specs = [value] if isinstance(value, str) else value
        if not isinstance(specs, list) or not all(isinstance(spec, str) and spec for spec in specs):
            raise InputError(f"{name!r} is neither a path nor a list of paths.")
        if "-" in specs:
            raise InputError(f"{name!r} is '-', but standard input cannot be that of one item.")
        inputs += specs
    return inputs


def _found(spec: str, folder: Path) -> str:
    if is_url(spec) or is_data_uri(spec):
        return spec
    with suppress(OSError, ValueError):
        if not Path(spec).exists() and (folder / spec).exists():
            return str(folder / spec)
    return spec


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
