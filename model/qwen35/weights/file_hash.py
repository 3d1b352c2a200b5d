"""The SHA-256 of a remote file as it passes by, from its first byte to its last."""

from collections.abc import Sequence
from dataclasses import dataclass

from qwen35.errors import NetworkError
from qwen35.weights.midstate import Sha256
from qwen35.weights.pull_journal import Line
from qwen35.weights.remote import RemoteFile


@dataclass(slots=True)
class FileHash:
    """Mutable. `position`: bytes that are in it; `own` None: they were counted elsewhere, and are lost."""

    file: RemoteFile
    position: int
    own: Sha256 | None

    @classmethod
    def begin(cls, file: RemoteFile, header: bytes, lines: Sequence[Line]) -> "FileHash":
        """From the file's start, or from where the last of `lines` left off, which are this file's."""
        if not lines:
            own = Sha256()
            own.update(memoryview(header))
            return cls(file, len(header), own)
        position, state = lines[-1].hashed, lines[-1].state
        try:
            return cls(file, position, Sha256(bytes.fromhex(state)) if state else None)
        except ValueError:  # begun where another library was
            return cls(file, position, None)

    def take(self, begin: int, data: memoryview, end: int) -> None:
        """What is new of `data`, which lie at `begin` of the file, up to the byte `end` of it."""
        if end <= self.position:
            return
        if self.own:
            assert begin <= self.position
            self.own.update(data[self.position - begin : end - begin])
        self.position = end

    @property
    def state(self) -> str | None:
        state = self.own.state if self.own else None
        return state.hex() if state else None

    @property
    def can_tell(self) -> bool:
        """Whether the file can be compared with the hub's hash once it is through."""
        return self.own is not None and self.file.sha256 is not None

    @property
    def is_wrong(self) -> bool:
        """Of a file that is through."""
        assert self.position == self.file.size_bytes
        return self.can_tell and self.own is not None and self.own.hexdigest() != self.file.sha256


class WrongContent(NetworkError):
    """A file whose bytes are not those that the hub tells of."""


def wrong_content(repo: str, file: RemoteFile) -> WrongContent:
    return WrongContent(
        f"{repo}/{file.name}: what came is not what the hub tells of (its SHA-256 differs); it was thrown "
        "away. Run the same command again: the rest is kept.",
        path=f"{repo}/{file.name}",
    )
