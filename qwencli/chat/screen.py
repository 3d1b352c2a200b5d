"""Where the chat shows things: answers and what was asked for on standard output, all else beside it."""

import os
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from qwen35.events import Note
from qwencli.render.aside import Aside, Verbosity
from qwencli.render.base import Renderer
from qwencli.render.output import Output
from qwencli.render.safe import terminal_safe

_PAGE_COLUMNS = 100


class Screen:
    """`folds_reasoning` shows of the thinking no more than that there was some. Mutable in that alone."""

    def __init__(self, output: Output, verbosity: Verbosity) -> None:
        self.folds_reasoning = False
        self.is_terminal = output.isatty() and os.environ.get("TERM") != "dumb"
        self.verbosity = verbosity
        self.output = output
        self.aside = Aside(verbosity)

    def note(self, text: str) -> None:
        self.aside.show(Note(text))

    def say(self, text: str) -> None:
        """What a command did; one line."""
        self._print(text, "dim")

    def complain(self, text: str) -> None:
        self._print(f"error: {text}", "red", console=Aside(Verbosity.NORMAL).console)  # quiet or not

    def show(self, text: str, *, is_prose: bool = False) -> None:
        """What a command was asked for; long lines of prose are broken between words on a terminal."""
        if is_prose and self.columns:
            text = "\n".join(_broken(line, self.columns) for line in text.split("\n"))
        self.output.write_text(text if text.endswith("\n") else text + "\n")
        self.output.flush()

    def end_answer(self) -> None:
        """An empty line, where a person reads on."""
        if self.is_terminal:
            self.output.write("\n")
            self.output.flush()

    @property
    def columns(self) -> int | None:
        """Of the terminal; None where there is none, and lines stay whole."""
        return self.width if self.is_terminal else None

    @property
    def width(self) -> int:
        """Columns for what is shown; without a terminal, those of a printed page."""
        return shutil.get_terminal_size().columns if self.is_terminal else _PAGE_COLUMNS

    def _print(self, text: str, style: str, console: Console | None = None) -> None:
        # Between words where a person reads; a program gets its line whole.
        console = console or self.aside.console
        console.print(Text(terminal_safe(text), style=style), soft_wrap=not console.is_terminal)

    @contextmanager
    def answering(self, *, is_markdown: bool = True) -> Iterator[tuple[Renderer, Aside]]:
        """What shows one answer."""
        renderer: Renderer
        with Aside(self.verbosity, shows_reasoning=not self.folds_reasoning) as aside:
            if self.is_terminal and is_markdown:
                from qwencli.render.terminal import TerminalRenderer

                renderer = TerminalRenderer(self.output, aside)
            else:
                from qwencli.render.plain import PlainRenderer

                renderer = PlainRenderer(self.output, aside)
            with renderer:
                yield renderer, aside


def _broken(line: str, columns: int) -> str:
    if len(line) <= columns:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, columns, subsequent_indent=indent, replace_whitespace=False, break_on_hyphens=False
    )
