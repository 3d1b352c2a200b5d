"""An input as bytes: a path, an http(s) URL, a data: URI or standard input.

Bytes arrive in pieces, so that an archive or a file without end is refused by its first ones, before the
rest is read or downloaded. A video stays on the disk, or is put there: it may be larger than memory.
"""

import base64
import binascii
import hashlib
import os
import tempfile
import threading
import urllib.parse
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from qwen35.errors import InputError, UnwritableError
from qwencli.interrupts import before_leaving
from qwencli.media.kinds import HEAD_BYTES, Kind, require_usable, sniff

MAX_BYTES = 256 * 2**20
MAX_VIDEO_BYTES = 4 * 2**30  # of one that is no file yet, and becomes a temporary one
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

    @property
    def size_bytes(self) -> int:
        return len(self.data)


class _Hashing(threading.Thread):
    """A file's SHA-256, computed while other things are done with it: of gigabytes it takes seconds."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name="hash", daemon=True)
        self._source, self._path = name, path
        self._digest = ""
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._error = error

    def result(self) -> str:
        """Wait for it. Raises InputError where the file could not be read to its end."""
        self.join()
        if self._error:
            raise InputError(f"{self._source}: cannot be read ({self._error.strerror}).", path=self._source)
        return self._digest


@dataclass(frozen=True, slots=True)
class FileSource:
    """A video, whose bytes are not all read at once. `hashed`: its SHA-256, or what computes it."""

    name: str
    path: Path
    kind: Kind
    hashed: str | _Hashing
    size_bytes: int
    keeper: Any = None  # of a temporary file: it is there as long as this object

    @property
    def sha256(self) -> str:
        return self.hashed if isinstance(self.hashed, str) else self.hashed.result()


AnySource = Source | FileSource


def is_url(spec: str) -> bool:
    return spec.lower().startswith(("http://", "https://"))


def is_file_url(spec: str) -> bool:
    return spec.lower().startswith("file://")


def is_data_uri(spec: str) -> bool:
    return spec.lower().startswith("data:")


def is_named_elsewhere(spec: str) -> bool:
    """Whether `spec` is an input that is not a path: a URL, a data: URI, or standard input."""
    return spec == "-" or is_url(spec) or is_file_url(spec) or is_data_uri(spec)


def collect(name: str, chunks: Iterable[bytes], max_bytes: int = MAX_BYTES) -> AnySource:
    """Join `chunks`. Raises InputError as soon as they turn out unusable or too many."""
    data = bytearray()
    kind = None
    chunks = iter(chunks)
    for chunk in chunks:
        data += chunk
        if kind is None and len(data) >= HEAD_BYTES:
            kind = require_usable(bytes(data[:HEAD_BYTES]), name)
            if kind.family == "video":
                return _spool(name, kind, bytes(data), chunks)
        if len(data) > max_bytes:
            raise InputError(f"{name}: is larger than {max_bytes / 2**20:g} MiB, the limit.", path=name)
    kind = kind or require_usable(bytes(data), name)
    if kind.family == "video":
        return _spool(name, kind, bytes(data), chunks)
    return Source(name, bytes(data), kind)


def _spool(name: str, kind: Kind, first: bytes, chunks: Iterator[bytes]) -> FileSource:
    """A video that comes in pieces, in a temporary file: its end may have to be read first.

    Raises UnwritableError where there is no room for it.
    """
    digest, size = hashlib.sha256(), 0
    try:
        keeper = _TemporaryFile()
        with keeper.path.open("wb") as file:
            for chunk in chain([first], chunks):
                size += len(chunk)
                if size > MAX_VIDEO_BYTES:
                    raise InputError(
                        f"{name}: is larger than {MAX_VIDEO_BYTES / 2**30:g} GiB. Save it as a file.",
                        path=name,
                    )
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise UnwritableError(
            f"{name}: cannot be put into a temporary file ({error.strerror}). TMPDIR names another folder.",
            path=name,
        ) from None
    return FileSource(name, keeper.path, kind, digest.hexdigest(), size, keeper)


class _TemporaryFile:
    """A file that is there as long as this object, and gone at the end of the process at the latest."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="qwen-")
        os.close(descriptor)
        self.path = Path(path)
        before_leaving.append(weakref.finalize(self, self.path.unlink, missing_ok=True))


def local_path(spec: str) -> Path:
    """Of a path, or a file: URL as browsers show it. Raises InputError for what cannot be a path here: an
    unknown ~user, a name too long, a file of another machine."""
    try:
        path = _path_of_url(spec) if is_file_url(spec) else Path(spec).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "no such home folder"
        raise InputError(f"{spec[:_SHOWN_OF_NAME]}: {reason}.", path=spec) from None
    return path


def _path_of_url(spec: str) -> Path:
    host, _, path = spec[len("file://") :].partition("/")
    if host.lower() not in ("", "localhost"):
        raise InputError(f"{spec[:_SHOWN_OF_NAME]}: names no file of this machine.", path=spec)
    return Path("/" + urllib.parse.unquote(path))


def read_path(spec: str) -> AnySource:
    """Raises InputError where there is no such file, or it cannot be read or used."""
    path = local_path(spec)
    try:
        return _video_at(spec, path) or collect(spec, _chunks(path))
    except FileNotFoundError:
        raise InputError(f"{spec}: no such file.", path=spec) from None
    except IsADirectoryError:
        raise InputError(f"{spec}: is a folder where a file is meant.", path=spec) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{spec}: cannot be read ({reason}).", path=spec) from None


def _video_at(name: str, path: Path) -> FileSource | None:
    """The file as it lies there, if it is a video; None for anything else, and for what is read only once."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
        if kind.family != "video":
            return None
    return FileSource(name, path, kind, _Hashing(name, path), path.stat().st_size)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def read_data_uri(spec: str) -> AnySource:
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
