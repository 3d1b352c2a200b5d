"""Threads that read records: those that are waited for first, then those that may be needed later."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock, Thread


class Read:
    """A record on its way, in parts that are read side by side: a disk serves one request alone slowly.

    Changed by Readers alone; `error` is what went wrong, once it `is_done`.
    """

    def __init__(self, parts: Sequence[Callable[[], None]], check: Callable[[], None]) -> None:
        """`check` is called when all parts are there; what either raises is kept for whoever waits."""
        self.parts, self.check = parts, check
        self.num_left = len(parts)
        self.is_done = False
        self.error: BaseException | None = None


Queue = deque[tuple[Read, Callable[[], None]]]


class Readers:
    """A pool of threads over two queues. Mutable; one owner calls it, from one thread."""

    def __init__(self, num_threads: int) -> None:
        self._urgent: Queue = deque()
        self._later: Queue = deque()
        lock = Lock()
        self._offered, self._finished = Condition(lock), Condition(lock)  # for the threads, for the owner
        self._is_open = True
        self._threads = [
            Thread(target=self._run, name=f"experts-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, read: Read, *, is_urgent: bool) -> None:
        with self._offered:
            (self._urgent if is_urgent else self._later).extend((read, part) for part in read.parts)
            self._offered.notify(len(read.parts))

    def hurry(self, read: Read) -> None:
        """Somebody waits for what was only meant for later."""
        with self._offered:
            self._urgent.extend(self._take_back(self._later, read))

    def cancel(self, read: Read) -> None:
        """What nobody has begun is not read; it is done when the rest is."""
        with self._finished:
            for queue in (self._urgent, self._later):
                read.num_left -= len(self._take_back(queue, read))
            read.is_done = read.is_done or read.num_left == 0

    def wait(self, read: Read) -> None:
        """Return when it is done; raises nothing: see its `error`."""
        with self._finished:
            while not read.is_done:
                self._finished.wait()

    def close(self) -> None:
        """Drop what nobody has begun, and wait for the rest."""
        with self._offered:
            self._is_open = False
            self._urgent.clear()
            self._later.clear()
            self._offered.notify_all()
        for thread in self._threads:
            thread.join()

    @staticmethod
    def _take_back(queue: Queue, read: Read) -> Queue:
        found = deque(item for item in queue if item[0] is read)
        if found:
            others = [item for item in queue if item[0] is not read]
            queue.clear()
            queue.extend(others)
        return found

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            read, part = taken
            error = _error_of(part)
            with self._finished:
                read.error = read.error or error
                read.num_left -= 1
                is_whole = read.num_left == 0
            if is_whole:
                error = None if read.error else _error_of(read.check)
                with self._finished:
                    read.error = read.error or error
                    read.is_done = True
                    self._finished.notify_all()

    def _take(self) -> tuple[Read, Callable[[], None]] | None:
        with self._offered:
            while self._is_open:
                for queue in (self._urgent, self._later):
                    if queue:
                        return queue.popleft()
                self._offered.wait()
            return None


def _error_of(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:  # for the thread that waits
        return error
    return None
