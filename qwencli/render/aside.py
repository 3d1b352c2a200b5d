"""Standard error: all that is not the answer. Notes, reasoning, progress, and the figures of `-v`."""

import sys
from enum import IntEnum
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from qwen35.events import Event, Note, PictureProgress, Prefilled, PrefillProgress, ReasoningDelta
from qwencli.render.progress import Progress
from qwencli.render.safe import one_line, terminal_safe


class Verbosity(IntEnum):
    QUIET = 0  # errors alone
    NORMAL = 1
    VERBOSE = 2  # token counts and timings as well


class Aside:
    """What a person watching reads beside the answer. `shows_reasoning` is off where JSON carries it."""

    def __init__(self, verbosity: Verbosity, *, shows_reasoning: bool = True) -> None:
        self._is_quiet = verbosity is Verbosity.QUIET
        self._shows_reasoning = shows_reasoning
        self._is_in_line = False
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.console = Console(
            stderr=True, force_terminal=is_terminal, soft_wrap=True, highlight=False, quiet=self._is_quiet
        )
        self.progress = Progress(self.console)

    def show(self, event: Event) -> None:
        match event:
            case Note(text):
                self._end_line()  # a progress line stays: Rich prints above it
                self.print(Text(f"note: {one_line(text)}", style="dim"))
            case PictureProgress(done, total):
                self.progress.update("looking at the pictures", done, total, "tokens")
            case PrefillProgress(done, total):
                self.progress.update("reading the prompt", done, total, "tokens")
            case Prefilled():
                self.progress.end()
            case ReasoningDelta(text) if self._shows_reasoning:
                self.progress.end()
                self.console.print(Text(terminal_safe(text), style="dim italic"), end="")
                self._is_in_line = not text.endswith("\n")
            case _:
                self.progress.end()
                self._end_line()

    def figures(self, text: str) -> None:
        """The lines of `-v`."""
        self.print(Text(terminal_safe(text.removesuffix("\n")), style="dim"))

    def print(self, text: Text) -> None:
        """Lines that are broken between words where a person reads; a program gets them whole."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.end()
        self._end_line()

    def _end_line(self) -> None:
        if self._is_in_line:
            self.console.print()
            self._is_in_line = False
