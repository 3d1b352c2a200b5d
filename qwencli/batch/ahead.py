"""Work on what comes next, in other threads, while what came before is being answered."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

_LOOK_S = 0.1  # between two looks whether to stop


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
) -> Generator[R]:
    """What `work` makes of `items`, in their order.

    At most `most` are under way or ready. One is begun when a thread is free for it, so that no more are
    begun while those that are ready hold `max_bytes`. It ends early when it `is_stopped`. What `work` raises
    is raised here.
    """
    waiting = iter(items)
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(num_threads, "prepare")
    try:
        while not is_stopped():
            while len(pending) < most and _has_room(pending, num_threads, max_bytes):
                try:
                    item = next(waiting)
                except StopIteration:
                    break
                pending.append(pool.submit(work, item))
            if not pending:
                return
            if _is_done(pending[0]):
                yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what waits for the net is not waited for


def _is_done(future: Future[R]) -> bool:
    try:
        future.exception(_LOOK_S)
    except TimeoutError:
        return False
    return True


def _has_room(pending: Iterable[Future[R]], num_threads: int, max_bytes: int) -> bool:
    ready = [future for future in pending if future.done()]
    if sum(not future.done() for future in pending) >= num_threads:
        return False
    return sum(future.result().num_bytes for future in ready if not future.exception()) < max_bytes
