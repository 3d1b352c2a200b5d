"""Standard output, whose ends of trouble have names: a reader that left, a disk that is full."""

import errno
import json
import sys
from typing import Any, NoReturn, TextIO

from qwencli.errors import OutputError, ReaderGone
from qwencli.render.safe import terminal_safe


class Output:
    """A text stream that is written through at once. Raises ReaderGone or OutputError, nothing else.

    Enough of a file for Rich to write to.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is None:
            raise OutputError("Standard output is closed. Redirect it to a file or a pipe.")
        try:
            self._stream.write(text)
        except OSError as error:
            _raise_for(error)
        return len(text)

    def write_text(self, text: str) -> None:
        """Text of unknown origin: as it is for a program, harmless for a terminal."""
        self.write(terminal_safe(text) if self.isatty() else text)

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            _raise_for(error)

    def print_json(self, values: dict[str, Any]) -> None:
        """One object: indented for a person, on one line for a program."""
        self.write(json.dumps(values, ensure_ascii=False, indent=2 if self.isatty() else None) + "\n")
        self.flush()

    def print_line(self, values: dict[str, Any]) -> None:
        """One of many objects, always on one line."""
        self.write(json.dumps(values, ensure_ascii=False) + "\n")
        self.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return -1 if self._stream is None else self._stream.fileno()


def _raise_for(error: OSError) -> NoReturn:
    if error.errno in (errno.EPIPE, errno.ESHUTDOWN):
        raise ReaderGone("The reader of standard output is gone.") from None
    raise OutputError(f"Standard output cannot be written ({error.strerror}).") from None


def standard_output() -> Output:
    """The process's own: UTF-8 where a program reads it, the terminal's encoding on a terminal."""
    stream = sys.stdout
    if stream is not None:
        encoding = stream.encoding if stream.isatty() else "utf-8"
        stream.reconfigure(encoding=encoding, errors="replace")  # type: ignore[union-attr]
    return Output(stream)
