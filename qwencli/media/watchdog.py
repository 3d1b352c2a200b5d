"""Work that foreign code does, in a thread of its own: whoever waits for it gets an error, not a hang.

What can be stopped is the waiting. A decoder that loops in C without an end cannot be interrupted from
outside: its thread is left behind, and ends with the process. Reads from files end by PyAV's own timeouts.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from qwen35.errors import InputError

STALL_S = 20.0
_LOOKS_PER_S = 4
_AHEAD = 2  # items that lie ready: enough to keep both threads at work, few enough to be no memory

T = TypeVar("T")
Beat = Callable[[], None]


class _StopWork(Exception):
    """Nobody waits any more."""


def watched(name: str, produce: Callable[[Beat], Iterator[T]], stall_s: float = STALL_S) -> Generator[T]:
    """What `produce` yields, computed ahead in another thread; its errors are raised here.

    It is given a function to call whenever it got on. Raises InputError, on the input called `name`, when
    it did not for `stall_s` seconds while it was waited for.
    """
    work = _Work(produce)
    work.start()
    try:
        # Counted in looks, not read off a clock: a process that was stopped for a while has not stalled.
        looks, beats = 0, -1
        while True:
            try:
                item, error, is_last = work.items.get(timeout=1 / _LOOKS_PER_S)
            except queue.Empty:
                looks, beats = (looks + 1 if work.beats == beats else 0), work.beats
                if looks >= stall_s * _LOOKS_PER_S:
                    raise InputError(
                        f"{name}: the decoder made no progress for {stall_s:g} s, and was given up. Convert "
                        "the file anew, or pass single frames as pictures.",
                        path=name,
                    ) from None
                continue
            looks = 0
            if error is not None:
                raise error
            if is_last:
                return
            yield item
    finally:
        work.stop()


class _Work(threading.Thread):
    def __init__(self, produce: Callable[[Beat], Iterator[Any]]) -> None:
        super().__init__(name="decoder", daemon=True)  # daemon: a stuck decoder does not keep the process
        self.items: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(_AHEAD)
        self.beats = 0
        self._produce = produce
        self._is_stopped = threading.Event()

    def run(self) -> None:
        try:
            for item in self._produce(self._beat):
                self._put(item, None, False)
            self._put(None, None, True)
        except _StopWork:
            pass
        except BaseException as error:  # raised again by whoever waits
            with contextlib.suppress(_StopWork):
                self._put(None, error, True)

    def stop(self) -> None:
        self._is_stopped.set()
        self.join(1.0)

    def _beat(self) -> None:
        self.beats += 1
        if self._is_stopped.is_set():
            raise _StopWork

    def _put(self, item: Any, error: BaseException | None, is_last: bool) -> None:
        while True:
            self._beat()
            try:
                self.items.put((item, error, is_last), timeout=1 / _LOOKS_PER_S)
                return
            except queue.Full:
                continue
