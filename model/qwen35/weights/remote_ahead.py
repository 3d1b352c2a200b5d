"""Runs of remote files, fetched in pieces by several connections ahead of their use, handed out in order."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from qwen35.weights.remote import Hub, RemoteFile, Repo

NUM_CONNECTIONS = 8
# Of one request. What is on its way is lost when the process is killed: on slow lines pieces stay small, on
# fast ones the way to the server and back must not count.
FIRST_BYTES, LEAST_BYTES, MOST_BYTES = 512 << 10, 256 << 10, 8 << 20
_FAST_S, _SLOW_S = 0.5, 4.0  # for a piece
_AHEAD = 2  # pieces for each connection that are there or on their way: 128 MiB of memory at most


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes [begin, end) of a file."""

    file: RemoteFile
    begin: int
    end: int


def fetch_ahead(
    hub: Hub, repo: Repo, wanted: Iterable[Run], num_connections: int = NUM_CONNECTIONS
) -> Generator[tuple[Run, memoryview]]:
    """All of `wanted` in order, piece by piece. Closing it ends what is on its way, and `hub` with it.

    Raises NetworkError.
    """
    size = _Size()

    def fetch(piece: Run) -> memoryview:
        began = time.monotonic()
        memory = memoryview(bytearray(piece.end - piece.begin))
        hub.read(repo, piece.file, piece.begin, memory)
        size.learn(len(memory), time.monotonic() - began)
        return memory

    waiting: deque[tuple[Run, Future[memoryview]]] = deque()
    pool = ThreadPoolExecutor(num_connections, "fetch")
    try:
        for piece in _cut(wanted, size):
            waiting.append((piece, pool.submit(fetch, piece)))
            if len(waiting) >= _AHEAD * num_connections:
                ready, future = waiting.popleft()
                yield ready, future.result()
        while waiting:
            ready, future = waiting.popleft()
            yield ready, future.result()
        pool.shutdown()
    except BaseException:  # GeneratorExit too: whoever interrupts does not wait for the network
        hub.close()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


@dataclass(slots=True)
class _Size:
    """Of the next piece. Mutable; threads may write over each other, which does no harm."""

    num_bytes: int = 0

    def __post_init__(self) -> None:
        self.num_bytes = FIRST_BYTES

    def learn(self, num_bytes: int, seconds: float) -> None:
        if seconds < _FAST_S and num_bytes == self.num_bytes:
            self.num_bytes = min(2 * num_bytes, MOST_BYTES)
        elif seconds > _SLOW_S and num_bytes >= self.num_bytes:
            self.num_bytes = max(num_bytes // 2, LEAST_BYTES)


def _cut(wanted: Iterable[Run], size: _Size) -> Iterator[Run]:
    for run in wanted:
        begin = run.begin
        while begin < run.end:
            end = min(begin + size.num_bytes, run.end)
            yield Run(run.file, begin, end)
            begin = end
