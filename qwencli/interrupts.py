"""Ctrl-C and SIGTERM as one exception, whatever the libraries in between make of it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

before_leaving: list[Callable[[], object]] = []
"""What must be done even where an interrupt ends the process, which runs no exit handlers: quickly."""


class Interrupts:
    """While entered, the first SIGINT or SIGTERM raises KeyboardInterrupt; a second one ends the process.

    `signum` keeps what came: an import that is interrupted half-way may turn KeyboardInterrupt into
    another exception, and that is an interrupted run all the same.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupts":
        for signum in (signal.SIGINT, signal.SIGTERM):
            # Ignored from outside (`nohup`, a background job of a script): stays ignored.
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def leave(self) -> NoReturn:
        """End the interrupted process with 130 after SIGINT, 143 after SIGTERM, as shells count.

        On a terminal SIGINT is what ends it in fact: only then does a shell end the loop that it runs
        the program in. Not by sys.exit: Python 3.11 would make its own choice between the two.
        """
        assert self.signum is not None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: closed from the start
                stream.flush()
        if self.signum == signal.SIGINT and sys.stderr is not None and sys.stderr.isatty():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _clean_up()
            os.kill(os.getpid(), signal.SIGINT)
        end_now(self.signum)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            end_now(signum)
        self.signum = signum
        raise KeyboardInterrupt


def end_now(signum: int) -> NoReturn:
    """End the process as shells count that signal, wherever it is."""
    _clean_up()
    os._exit(128 + signum)


def _clean_up() -> None:
    for work in before_leaving:
        with contextlib.suppress(Exception):
            work()
