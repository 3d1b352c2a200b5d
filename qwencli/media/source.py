"""An input as bytes: a path, an http(s) URL, a data: URI or standard input.

Bytes arrive in pieces, so that a video, an archive or a file without end is refused by its first
ones, before the rest is read or downloaded.
"""

import base64
import binascii
import hashlib
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen35.errors import InputError
from qwencli.media.kinds import HEAD_BYTES, Kind, require_usable

MAX_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**20
_SHOWN_OF_NAME = 80  # characters of a name that is no name


@dataclass(frozen=True, slots=True)
class Source:
    """All bytes of one input, and what the user calls it."""

    name: str
    data: bytes
    kind: Kind

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def is_url(spec: str) -> bool:
    return spec.lower().startswith(("http://", "https://"))


def is_data_uri(spec: str) -> bool:
    return spec.lower().startswith("data:")


def is_named_elsewhere(spec: str) -> bool:
    """Whether `spec` is an input that is not a path: a URL, a data: URI, or standard input."""
    return spec == "-" or is_url(spec) or is_data_uri(spec)


def collect(name: str, chunks: Iterable[bytes], max_bytes: int = MAX_BYTES) -> Source:
    """Join `chunks`. Raises InputError as soon as they turn out unusable or too many."""
    data = bytearray()
    kind = None
    for chunk in chunks:
        data += chunk
        if kind is None and len(data) >= HEAD_BYTES:
            kind = require_usable(bytes(data[:HEAD_BYTES]), name)
        if len(data) > max_bytes:
            raise InputError(f"{name}: is larger than {max_bytes / 2**20:g} MiB, the limit.", path=name)
    return Source(name, bytes(data), kind or require_usable(bytes(data), name))


def local_path(spec: str) -> Path:
    """Raises InputError for what cannot be a path here: an unknown ~user, a name too long."""
    try:
        path = Path(spec).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "no such home folder"
        raise InputError(f"{spec[:_SHOWN_OF_NAME]}: {reason}.", path=spec) from None
    return path


def read_path(spec: str) -> Source:
    """Raises InputError where there is no such file, or it cannot be read or used."""
    try:
        return collect(spec, _chunks(local_path(spec)))
    except FileNotFoundError:
        raise InputError(f"{spec}: no such file.", path=spec) from None
    except IsADirectoryError:
        raise InputError(f"{spec}: is a folder where a file is meant.", path=spec) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{spec}: cannot be read ({reason}).", path=spec) from None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def read_data_uri(spec: str) -> Source:
    header, comma, body = spec.partition(",")
    name = f"{header[:40]},..."
    if not comma:
        raise InputError(
            f"{name}: a data: URI without a comma; data:image/png;base64,... is meant.", path=name
        )
    data = urllib.parse.unquote_to_bytes(body)
    if header.lower().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise InputError(f"{name}: is not base64 ({error}).", path=name) from None
    return collect(name, [data])
