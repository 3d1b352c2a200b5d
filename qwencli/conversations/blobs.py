"""The bytes of what was attached, each kept once under its hash; and attachments made of them again."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwen35.errors import UnwritableError
from qwen35.messages import TextPart
from qwencli.media.attach import Attacher, Attachment
from qwencli.media.kinds import HEAD_BYTES, Kind, sniff
from qwencli.media.source import AnySource, FileSource, Source
from qwencli.media.text import decode_text

COMMAND = "!"  # begins the name of a command's output: "!ls -l"
MAX_KEPT_BYTES = 2**30
_FORGOTTEN_S = 3600
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Blobs:
    """Files named by the SHA-256 of their bytes; where nothing is to be written, new ones in a dictionary."""

    folder: Path | None
    can_write: bool = True
    _memory: dict[str, AnySource] = field(default_factory=dict)

    def put(self, source: AnySource) -> None:
        """Keep what `source` holds. Raises UnwritableError."""
        sha256 = source.sha256
        if self.folder is None or not self.can_write:
            self._memory[sha256] = source
            return
        path = self._path(sha256)
        with contextlib.suppress(OSError):
            if path.stat().st_size == source.size_bytes:
                path.touch()  # for `remove_forgotten`
                return
        try:
            for folder in (self.folder, path.parent):  # `mode` is that of the last folder alone
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Written aside and renamed: whoever finds the name finds the whole of it.
            descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if isinstance(source, FileSource):
                        with source.path.open("rb") as original:
                            shutil.copyfileobj(original, file, _CHUNK_BYTES)
                    else:
                        file.write(source.data)
                Path(aside).replace(path)
            except BaseException:
                Path(aside).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UnwritableError(
                f"{path.parent}: an attachment cannot be saved ({error.strerror}).", path=str(path.parent)
            ) from None

    def get(self, sha256: str, name: str) -> AnySource | None:
        """To be called `name`. None where the bytes are gone, or are not what they were."""
        if sha256 in self._memory or self.folder is None:
            kept = self._memory.get(sha256)
            return replace(kept, name=name) if kept else None
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                kind = sniff(file.read(HEAD_BYTES))
                file.seek(0)
                if kind.family == "video":
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                    source: AnySource = FileSource(name, path, kind, found, path.stat().st_size)
                else:
                    source = Source(name, file.read(), kind)
        except OSError:
            return None
        return source if source.sha256 == sha256 else None

    def remove(self, sha256: str) -> None:
        self._memory.pop(sha256, None)
        if self.folder is not None and self.can_write:
            with contextlib.suppress(OSError):
                self._path(sha256).unlink(missing_ok=True)

    def remove_forgotten(self, used: Set[str]) -> None:
        """What was attached to a question that was never asked, an hour ago or more."""
        if self.folder is None or not self.can_write:
            return
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                if path.name not in used and time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                    path.unlink()

    def _path(self, sha256: str) -> Path:
        assert self.folder is not None
        return self.folder / sha256[:2] / sha256


@dataclass(frozen=True, slots=True)
class KeepingAttacher(Attacher):
    """An Attacher that keeps the bytes of all it decodes, and knows the output of commands."""

    blobs: Blobs

    def restore(self, sha256: str, name: str) -> Attachment | None:
        """What was attached under that name, from its bytes; None where they are gone."""
        source = self.blobs.get(sha256, name)
        return None if source is None else self._make(source)

    def attach_output(self, command: str, output: bytes) -> Attachment:
        """What `command` wrote, under the name "!command"."""
        return self.decode(Source(COMMAND + command, output, Kind("text", "text")))

    def decode(self, source: AnySource) -> Attachment:
        attachment = self._make(source)
        if source.size_bytes > MAX_KEPT_BYTES:
            self.notify(
                f"{source.name}: is not copied into the saved conversation, which would take "
                f"{source.size_bytes / 2**30:.1f} GiB; whoever goes on with that later no longer sees it"
            )
        else:
            self.blobs.put(source)
        return attachment

    def _attach_numbered(self, spec: str) -> Attachment:
        attachment = Attacher._attach_numbered(self, spec)
        self.notify(
            f"{spec}: is not copied into the saved conversation; whoever goes on with that later no longer "
            "sees it"
        )
        return attachment

    def _make(self, source: AnySource) -> Attachment:
        if isinstance(source, FileSource) or not source.name.startswith(COMMAND):
            return Attacher.decode(self, source)  # super() has no class to refer to under slots=True
        text = decode_text(source.data, source.name, self.notify).rstrip()
        parts = (TextPart(f"$ {source.name.removeprefix(COMMAND)}\n{text}\n\n"),)
        return Attachment(source.name, "text", source.sha256, len(source.data), parts)
