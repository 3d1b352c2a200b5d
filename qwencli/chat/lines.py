"""The chat's input where nobody types: lines from a pipe or a file, one message or command each."""

import os
from collections.abc import Iterator
from typing import TextIO

QUOTES = '"""'  # around a message of several lines
_STDIN = 0


class LineReader:
    """Reads standard input line by line, as it comes."""

    is_interactive = False

    def __init__(self) -> None:
        self._lines = _lines()

    def read(self, draft: str) -> str | None:
        """The next message, without the quotes of one of several lines; None at the end."""
        line = next(self._lines, None)
        if line is None or not is_open(line):
            return None if line is None else unquoted(line)
        parts = [line]
        while (more := next(self._lines, None)) is not None:
            parts.append(more)
            if QUOTES in more:
                break
        return unquoted("\n".join(parts))


def is_open(text: str) -> bool:
    """Whether a message that begins with the quotes is not ended by them yet."""
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) < 2


def unquoted(text: str) -> str:
    if not text.lstrip().startswith(QUOTES):
        return text
    return text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")


def _lines() -> Iterator[str]:
    try:
        os.fstat(_STDIN)
    except OSError:  # closed from the start
        return
    file: TextIO
    with open(_STDIN, encoding="utf-8-sig", errors="replace", closefd=False) as file:
        for line in file:
            yield line.rstrip("\r\n")
