"""Signals in the chat: Ctrl-C ends the answer or command at hand, and never the chat; SIGTERM ends that."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from qwencli.interrupts import end_now

GRACE_S = 10.0  # for saving; a chat that was asked to end and has not is ended after it
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stops:
    """While entered, SIGINT raises KeyboardInterrupt within `armed`, once, and is dropped elsewhere.

    So what is being saved at the end of a stopped answer is saved whole, however often the key is hit.
    A signal that asks for the end, or a terminal that is gone, raises it anywhere, and sets `is_ended`.
    """

    def __init__(self) -> None:
        self.is_ended = False
        self._is_armed = False
        self._previous: dict[int, signal._HANDLER] = {}

    @contextmanager
    def armed(self) -> Iterator[None]:
        self._is_armed = True
        try:
            yield
        finally:
            self._is_armed = False

    def __enter__(self) -> Self:
        for signum, take in {signal.SIGINT: self._stop, **dict.fromkeys(_ENDINGS, self._end)}.items():
            # Ignored from outside (`nohup`): stays ignored.
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_ended and sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if self._is_armed:
            self._is_armed = False
            raise KeyboardInterrupt

    def _end(self, signum: int, frame: FrameType | None) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        if sys.platform != "win32":
            # Libraries in between may swallow what is raised here, or wait for ever for what it broke.
            signal.signal(signal.SIGALRM, lambda *_: end_now(signum))
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        previous = self._previous[signum]
        if callable(previous):
            previous(signum, frame)  # that of `Interrupts`, from which the exit code comes
        raise KeyboardInterrupt
