"""Where the lines of a batch go: a file that is gone on with (`output_file`), or a stream that is not."""

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol, Self

from qwen35.errors import UnwritableError
from qwencli.errors import OutputError, ReaderGone, UsageError

Done = Literal["answered", "incomplete", "failed"]


class Target(Protocol):
    def find(self, item: str, content: str) -> Done | None:
        """How an item was done before, with this content; None: it is to be asked."""
        ...

    def write(self, item: str, line: bytes) -> None:
        """Add the line of an item. Raises UnwritableError, OutputError or ReaderGone."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class StreamTarget:
    """Standard output, a pipe, a device: nothing is known of what was written there before."""

    def __init__(self, path: Path | None, header: bytes) -> None:
        """`path` None: standard output."""
        self._name = "Standard output" if path is None else str(path)
        self._path = path
        self._header = header
        self._file: IO[bytes] | None = None

    def find(self, item: str, content: str) -> Done | None:
        return None

    def write(self, item: str, line: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
                raise ReaderGone(f"The reader of {self._name} is gone.") from None
            kind = OutputError if self._path is None else UnwritableError
            raise kind(f"{self._name} cannot be written ({error.strerror}).") from None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = self._path.open("wb", buffering=0)
            except OSError as error:
                raise UnwritableError(f"{self._path}: cannot be written ({error.strerror}).") from None
        elif sys.stdout is None:
            raise OutputError("Standard output is closed. Name a file: -o FILE.")
        else:
            self._file = sys.stdout.buffer
        if self._header:
            self.write("", self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._path is not None and self._file is not None:
            self._file.close()


def is_stream(path: Path) -> bool:
    """Whether this is a pipe or a device."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:  # a name too long: it is told when it is opened
        return False


def check_output(out: Path | None, inputs: Sequence[str]) -> None:
    """Raises UsageError where an input would be written to."""
    if out is None:
        return
    for spec in inputs:
        with suppress(OSError, ValueError):
            if out.samefile(spec):
                raise UsageError(f"{out}: is an input. Choose another output.", path=str(out))
