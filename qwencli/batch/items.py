"""What a batch is made of: one item, and the hash by which it is known again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from qwen35.errors import Qwen35Error
from qwencli.batch.openai_request import OpenAIRequest
from qwencli.media.source import is_data_uri, is_url

_DIGITS = 16  # hexadecimal, of an item's hash


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `id` is its name in the output, the same in every run.

    It has a `prompt` with `inputs`, as `qwen ask` takes them; or a `request`, which says all by itself; or
    an `error`, which is known before anything is read. `place`: the line of an items file that it is from.
    """

    id: str
    inputs: tuple[str, ...] = ()
    prompt: str = ""
    request: OpenAIRequest | None = None
    error: Qwen35Error | None = None
    place: str = ""

    def content_hash(self) -> str:
        """Of the item's id, the question, and the bytes of all files that it is about.

        What lies elsewhere (a URL) is known by its address, a file that cannot be read by its name.
        """
        inputs = self.request.inputs if self.request else self.inputs
        values: list[Any] = [self.id, self.prompt, [_input_hash(spec) for spec in inputs]]
        if self.request:
            values.append(self.request.body)
        if self.error:
            values.append(str(self.error))
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def columns_of(spec: str) -> Mapping[str, str]:
    """What a question may say of an input: {name}, {path}, {stem}."""
    if is_data_uri(spec):
        spec = "data"
    path = PurePath(spec.partition("?")[0] if is_url(spec) else spec)
    return {"name": path.name, "path": spec, "stem": path.stem}


def _input_hash(spec: str) -> str:
    try:
        path = Path(spec).expanduser()
        if not is_url(spec) and not is_data_uri(spec) and path.is_file():  # a pipe can be read only once
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RuntimeError):
        pass  # it is told when it is read
    return hashlib.sha256(spec.encode(errors="surrogatepass")).hexdigest()
