"""The bytes of what was attached, each kept once under its hash; and attachments made of them again."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from qwen35.errors import UnwritableError
from qwen35.messages import TextPart
from qwencli.media.attach import Attacher, Attachment
from qwencli.media.kinds import HEAD_BYTES, Kind, sniff
from qwencli.media.source import Source
from qwencli.media.text import decode_text

COMMAND = "!"  # begins the name of a command's output: "!ls -l"
_FORGOTTEN_S = 3600


@dataclass(frozen=True, slots=True)
class Blobs:
    """Files named by the SHA-256 of their bytes; where nothing is to be written, new ones in a dictionary."""

    folder: Path | None
    can_write: bool = True
    _memory: dict[str, bytes] = field(default_factory=dict)

    def put(self, sha256: str, data: bytes) -> None:
        """Keep `data`. Raises UnwritableError."""
        if self.folder is None or not self.can_write:
            self._memory[sha256] = data
            return
        path = self._path(sha256)
        with contextlib.suppress(OSError):
            if path.stat().st_size == len(data):
                path.touch()  # for `remove_forgotten`
                return
        try:
            for folder in (self.folder, path.parent):  # `mode` is that of the last folder alone
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Written aside and renamed: whoever finds the name finds the whole of it.
            descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(aside).replace(path)
            except BaseException:
                Path(aside).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UnwritableError(
                f"{path.parent}: an attachment cannot be saved ({error.strerror}).", path=str(path.parent)
            ) from None

    def get(self, sha256: str) -> bytes | None:
        """None where they are gone, or are not what they were."""
        if sha256 in self._memory or self.folder is None:
            return self._memory.get(sha256)
        try:
            data = self._path(sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

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
        data = self.blobs.get(sha256)
        return None if data is None else self._make(Source(name, data, sniff(data[:HEAD_BYTES])))

    def attach_output(self, command: str, output: bytes) -> Attachment:
        """What `command` wrote, under the name "!command"."""
        return self.decode(Source(COMMAND + command, output, Kind("text", "text")))

    def decode(self, source: Source) -> Attachment:
        attachment = self._make(source)
        self.blobs.put(source.sha256, source.data)
        return attachment

    def _make(self, source: Source) -> Attachment:
        if not source.name.startswith(COMMAND):
            return Attacher.decode(self, source)  # super() has no class to refer to under slots=True
        text = decode_text(source.data, source.name, self.notify).rstrip()
        parts = (TextPart(f"$ {source.name.removeprefix(COMMAND)}\n{text}\n\n"),)
        return Attachment(source.name, "text", source.sha256, len(source.data), parts)
