"""A progress line on standard error: only on a terminal, only for what takes a while, gone afterwards."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.table import Table

PATIENCE_S = 0.5
_BAR_WIDTH = 16
_LEAST_LABEL = 6  # columns; a shorter piece says nothing

Unit = Literal["bytes", "tokens", "files", "states", "items"]


class Progress:
    """One piece of work at a time: `update` under a new label begins the next.

    The line is drawn by a thread of its own, so that it appears and moves also while the work tells
    nothing, as the import of torch does.
    """

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._lock = threading.Lock()
        self._work: _Work | None = None
        self._timer: threading.Timer | None = None
        self._live: Live | None = None

    def update(self, label: str, done: int, total: int, unit: Unit, detail: str = "") -> None:
        """`done` of `total` in `unit`; a total of 0 is not known. `detail`: shown for the speed."""
        if self._work is None or self._work.label != label:
            self.end()
            self._begin(_Work(label, unit))
        assert self._work is not None
        self._work.done, self._work.total, self._work.detail = done, total, detail

    def end(self) -> None:
        """Clear the line; nothing to do where none is drawn."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            if self._live:
                self._live.stop()
            self._work = self._timer = self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _begin(self, work: "_Work") -> None:
        self._work = work
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._timer = threading.Timer(PATIENCE_S, self._appear, (work,))
            self._timer.daemon = True
            self._timer.start()

    def _appear(self, work: "_Work") -> None:
        from rich.live import Live

        with self._lock:
            if work is not self._work:  # it ended while the timer fired
                return
            self._live = Live(
                work,
                console=self._console,
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()


@dataclass(slots=True)
class _Work:
    """Mutable: updated by the working thread, read by the drawing one."""

    label: str
    unit: Unit
    done: int = 0
    total: int = 0
    detail: str = ""
    started: float = field(default_factory=time.monotonic)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Table]":
        """Label, bar and figures; on a narrow terminal the figures stay, and as much of the label as fits."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = Table.grid(padding=(0, 1))
        cells: list[str | ProgressBar] = [self._figures()]
        space = options.max_width - len(self._figures()) - 1
        label = self.label if len(self.label) <= space else f"{self.label[: max(space - 1, 0)]}…"
        if space >= _LEAST_LABEL:
            cells.insert(0, label)
        if space - len(label) > _BAR_WIDTH + 1:
            bar = ProgressBar(self.total or None, self.done, width=_BAR_WIDTH, pulse=not self.done)
            cells.insert(1, bar)
        for _ in cells:
            row.add_column(no_wrap=True)
        row.add_row(*cells)
        yield row

    def _figures(self) -> str:
        elapsed_s = time.monotonic() - self.started
        if not self.done:
            return f"{elapsed_s:.0f} s"
        rate = self.done / elapsed_s
        scale, unit = (1e6, "MB") if self.unit == "bytes" else (1, self.unit)
        done, speed = f"{self.done / scale:,.0f}", self.detail or f"{rate / scale:,.0f}/s"
        if not self.total:
            return f"{done} {unit}, {speed}"
        minutes, seconds = divmod(int((self.total - self.done) / rate), 60)
        return f"{done}/{self.total / scale:,.0f} {unit}, {speed}, {minutes}:{seconds:02} left"
