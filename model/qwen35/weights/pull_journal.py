"""What a pull has written so far, a line for each unit, and how far each source file is hashed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwen35.weights.loss import Loss


@dataclass(frozen=True, slots=True)
class Line:
    """A unit on the disk, its checksum and loss; `hashed` bytes of its file passed, and then SHA-256 stood at
    `state` (hexadecimal; None where it cannot be kept)."""

    checksum: str
    squared_error: float
    squares: float
    hashed: int
    state: str | None

    @property
    def loss(self) -> Loss:
        return Loss(self.squared_error, self.squares)


class PullJournal:
    """Mutable; one owner, which holds the lock. Units are in their order, from the first on."""

    def __init__(self, path: Path, lines: list[Line]) -> None:
        self._path = path
        self.lines = lines

    @classmethod
    def open(cls, path: Path, identity: str, commit: str) -> "PullJournal | None":
        """The journal at `path`, begun if there is none; None if it is that of something else."""
        first = json.dumps({"identity": identity, "commit": commit}).encode()
        raw = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        if not raw:
            path.write_bytes(first + b"\n")
        elif raw[0] != first:
            return None
        journal = cls(path, _whole(raw[1:]))
        journal.cut(len(journal.lines))
        return journal

    def cut(self, num_units: int) -> None:
        """Forget what comes after the first `num_units`."""
        del self.lines[num_units:]
        with self._path.open("r+b") as file:
            for _ in range(num_units + 1):
                file.readline()
            file.truncate(file.tell())

    def add(self, line: Line) -> None:
        self.lines.append(line)
        with self._path.open("ab") as file:
            file.write(json.dumps(asdict(line)).encode() + b"\n")


def pinned_commit(path: Path) -> str | None:
    """The commit that an unfinished pull is of."""
    first = _first_line(path)
    return first.get("commit") if first else None


def num_units(path: Path) -> int:
    """How many are written, told from outside."""
    try:
        return max(0, path.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _first_line(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            values = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _whole(raw: list[bytes]) -> list[Line]:
    """Lines up to the first that cannot be read: a kill may have cut it off, or the disk have lost it."""
    lines = []
    for text in raw:
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            break
    return lines
