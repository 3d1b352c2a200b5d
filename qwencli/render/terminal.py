"""The answer on a terminal: Markdown that grows as it comes.

Finished blocks are printed once and for all; only the block that is still growing is drawn anew, in a
region never taller than the screen. So a long answer scrolls as any other output does.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

from qwen35.events import Event, Finished, TextDelta
from qwencli.render.aside import Aside
from qwencli.render.markdown import FaithfulMarkdown, finished_length
from qwencli.render.output import Output
from qwencli.render.safe import terminal_safe

_REDRAW_S = 0.08


class TerminalRenderer:
    def __init__(self, output: Output, aside: Aside) -> None:
        self._console = Console(file=output, force_terminal=True, highlight=False)  # type: ignore[arg-type]
        self._aside = aside
        self._growing = ""
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._has_blocks = False

    def show(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._aside.show(event)
            self._grow(terminal_safe(event.text))
        else:
            self._clear()  # the cursor belongs to one of the two streams at a time
            if isinstance(event, Finished):
                self._print_rest()
            self._aside.show(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clear()
        self._print_rest()

    def _grow(self, text: str) -> None:
        self._growing += text
        length = finished_length(self._growing)
        if length:
            self._clear()
            self._print(self._growing[:length])
            self._growing = self._growing[length:]
        if time.monotonic() - self._drawn_at > _REDRAW_S:
            self._draw()

    def _print(self, markup: str) -> None:
        if markup.strip():
            self._console.print(self._block(markup))
            self._has_blocks = True

    def _print_rest(self) -> None:
        self._print(self._growing)
        self._growing = ""

    def _draw(self) -> None:
        if not self._growing.strip():
            return
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(_Tail(self._block(self._growing)), refresh=True)
        self._drawn_at = time.monotonic()

    def _clear(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _block(self, markup: str) -> "_Spaced":
        return _Spaced(markup, self._has_blocks)


class _Spaced:
    """Markdown below an empty line, as blocks of one text stand."""

    def __init__(self, markup: str, has_blocks_above: bool) -> None:
        self._markup = markup
        self._has_blocks_above = has_blocks_above

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(FaithfulMarkdown(self._markup), options, pad=False)
        while lines and not _text_of(lines[0]):  # some elements bring empty lines of their own
            lines.pop(0)
        while lines and not _text_of(lines[-1]):
            lines.pop()
        if self._has_blocks_above:
            yield Segment.line()
        for line in lines:
            yield from line
            yield Segment.line()


class _Tail:
    """As many of the last lines as the screen has room for."""

    def __init__(self, content: _Spaced) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def _text_of(line: list[Segment]) -> str:
    return "".join(segment.text for segment in line).strip()
