"""Threads that read: first what is waited for, then what may be needed later."""

from collections import deque
from collections.abc import Callable
from threading import Condition, Lock, Thread


class Read:
    """Something on its way from the disk. Written by Readers alone, without a lock: `is_done` comes last."""

    __slots__ = ("error", "is_begun", "is_done", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        """`work` reads and checks; what it raises is kept for whoever waits."""
        self.work = work
        self.is_begun = False
        self.is_done = False
        self.error: BaseException | None = None


class Readers:
    """A pool of threads over two queues. Mutable; one owner calls it, from one thread."""

    def __init__(self, num_threads: int) -> None:
        self._urgent: deque[Read] = deque()
        self._later: deque[Read] = deque()
        # Taken by its own name, never by a condition's: that would lose it where Ctrl-C comes just then.
        self._lock = Lock()
        self._offered, self._finished = Condition(self._lock), Condition(self._lock)  # for threads, for owner
        self._is_open = True
        self._threads = [
            Thread(target=self._run, name=f"disk-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, read: Read, *, is_urgent: bool) -> None:
        with self._lock:
            (self._urgent if is_urgent else self._later).append(read)
            self._offered.notify()

    def hurry(self, read: Read) -> None:
        """Somebody waits for what was only meant for later."""
        with self._lock:
            if read in self._later:
                self._later.remove(read)
                self._urgent.append(read)

    def cancel(self, read: Read) -> bool:
        """Take it back, where nobody has begun. Returns whether it was, or was never submitted."""
        with self._lock:
            for waiting in (self._urgent, self._later):
                if read in waiting:
                    waiting.remove(read)
            return not read.is_begun

    def wait(self, read: Read) -> None:
        """Return when it is done; raises nothing: see its `error`."""
        with self._lock:
            while not read.is_done:
                self._finished.wait()

    def close(self) -> None:
        """Drop what nobody has begun, and wait for the rest."""
        with self._lock:
            self._is_open = False
            self._urgent.clear()
            self._later.clear()
            self._offered.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (read := self._take()) is not None:
            try:
                read.work()
            except BaseException as error:  # for the thread that waits
                read.error = error
            with self._lock:
                read.is_done = True
                self._finished.notify_all()

    def _take(self) -> Read | None:
        with self._lock:
            while self._is_open:  # closing leaves both queues empty
                if waiting := self._urgent or self._later:
                    read = waiting.popleft()
                    read.is_begun = True
                    return read
                self._offered.wait()
            return None
