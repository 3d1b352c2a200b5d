"""What a batch is made of: one item, and the hash by which it is known again."""

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from qwen35.errors import InputError, Qwen35Error
from qwencli.batch.openai_request import OpenAIRequest
from qwencli.media.attach import MAX_FOLDER_FILES
from qwencli.media.numbered import is_numbered, open_numbered
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

    def may_differ_since(self, time_s: float) -> bool:
        """Whether its content may have changed, by the times of the files: they are not read."""
        inputs = self.request.inputs if self.request else self.inputs
        source = [self.place.rpartition(":")[0]] if self.place else []
        return any(_may_differ_since(spec, time_s) for spec in [*inputs, *source])

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
        return _hash(values)[:_DIGITS]


def columns_of(spec: str) -> Mapping[str, str]:
    """What a question may say of an input: {name}, {path}, {stem}."""
    if is_data_uri(spec):
        spec = "data"
    path = PurePath(spec.partition("?")[0] if is_url(spec) else spec)
    return {"name": path.name, "path": spec, "stem": path.stem}


def _may_differ_since(spec: str, time_s: float) -> bool:
    if is_url(spec) or is_data_uri(spec):
        return False
    try:
        found = Path(spec).expanduser().stat()
    except (OSError, ValueError, RuntimeError):
        return True
    # Of a folder, its files may have changed; ctime: a file may have been put in the place of another one.
    return not stat.S_ISREG(found.st_mode) or max(found.st_mtime, found.st_ctime) >= time_s


def _input_hash(spec: str) -> str:
    try:
        if not is_url(spec) and not is_data_uri(spec):
            path = Path(spec).expanduser()
            if path.is_file():  # a pipe can be read only once
                return _file_hash(path)
            if path.is_dir():
                return _folder_hash(path)
            if is_numbered(spec):
                return open_numbered(spec, lambda text: None)[0].sha256
    except (OSError, ValueError, RuntimeError, InputError):
        pass  # it is told when it is read
    return hashlib.sha256(spec.encode(errors="surrogatepass")).hexdigest()


def _folder_hash(folder: Path) -> str:
    """Of what a question about a folder is about: the files directly in it that are not hidden."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    if len(files) > MAX_FOLDER_FILES:
        raise ValueError("too many for one question")
    return _hash([[file.name, _file_hash(file)] for file in files])


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
