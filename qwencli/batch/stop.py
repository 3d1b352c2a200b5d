"""Ctrl-C in a batch: once, and what is running is finished; twice, and it ends at once."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Stop:
    """While entered, the first SIGINT sets `is_asked`; the next one is what it was outside.

    SIGTERM is not touched: it ends the batch at once, which loses no line.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._previous: signal._HANDLER = signal.SIG_DFL

    def __enter__(self) -> Self:
        # Ignored from outside (`nohup`, a background job of a script): stays ignored.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if signal.getsignal(signal.SIGINT) == self._take:
            signal.signal(signal.SIGINT, self._previous)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.is_asked:
            signal.signal(signal.SIGINT, self._previous)
            if callable(self._previous):
                self._previous(signum, frame)
        self.is_asked = True
