"""Work on what comes next, in other threads, while what came before is being answered."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol, TypeVar

_LOOK_S = 0.1  # between two looks whether to stop
_SLOW_S = 1.0  # what takes longer is passed by what is ready behind it
_END_S = 1.0  # what is under way at the end is waited for; what waits for the net is left behind


class Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


T = TypeVar("T")
R = TypeVar("R", bound=Sized)


def ahead(
    items: Iterable[T],
    work: Callable[[T], R],
    *,
    num_threads: int,
    most: int,
    max_bytes: int,
    is_stopped: Callable[[], bool],
    may_wait: Callable[[], bool] = lambda: True,
) -> Generator[R | None]:
    """What `work` makes of `items`, in their order, save that what is slow is passed by others.

    At most `most` are under way or ready. One is begun when a thread is free for it, so that no more are
    begun while those that are ready hold `max_bytes`. It ends early when it `is_stopped`. What `work` raises
    is raised here. None: nothing is ready yet, and it may not be waited for.
    """
    waiting = iter(items)
    pending: dict[Future[R], float] = {}  # and when they were begun
    try:
        while not is_stopped():
            while len(pending) < most and _has_room(pending, num_threads, max_bytes):
                try:
                    item = next(waiting)
                except StopIteration:
                    break
                pending[_begin(work, item)] = time.monotonic()
            if not pending:
                return
            if ready := _ready(pending):
                del pending[ready]
                yield ready.result()
            elif may_wait():
                wait([one for one in pending if not one.done()], _LOOK_S, FIRST_COMPLETED)
            else:
                yield None
    finally:
        wait(pending, _END_S)


def _begin(work: Callable[[T], R], item: T) -> Future[R]:
    """In a thread that ends with the process: those of an executor are waited for at its end."""
    one: Future[R] = Future()

    def run() -> None:
        try:
            one.set_result(work(item))
        except BaseException as error:
            one.set_exception(error)

    threading.Thread(target=run, name="prepare", daemon=True).start()
    return one


def _ready(pending: Mapping[Future[R], float]) -> Future[R] | None:
    """The first one that is; none while one before it may be soon."""
    for one, begun in pending.items():
        if one.done():
            return one
        if time.monotonic() - begun < _SLOW_S:
            return None
    return None


def _has_room(pending: Iterable[Future[R]], num_threads: int, max_bytes: int) -> bool:
    ready = [future for future in pending if future.done()]
    if sum(not future.done() for future in pending) >= num_threads:
        return False
    return sum(future.result().num_bytes for future in ready if not future.exception()) < max_bytes
