"""Rows of the checkpoint to packed bytes, some rows at a time, in threads, handed out in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from qwen35.cores import num_cores
from qwen35.errors import CheckpointError
from qwen35.weights.layout import Item, Part
from qwen35.weights.numbers import Numbers, to_float32
from qwen35.weights.rows import RowReader
from qwen35.weights.tiles import F32, TILE_FORMATS, TILE_ROWS, TileFormat

# As `quantize.quantise`: the tiles of (N, K); ValueError, with the reason, for what cannot be held.
Quantiser = Callable[[Numbers, TileFormat], bytes | memoryview]

_SLAB = 1 << 20  # weights in one piece of work: 2 MiB of the file, a few ms
_AHEAD = 8  # slabs for each thread: work to go on with while the writer waits for the disk


@dataclass(frozen=True, slots=True)
class Slab:
    """Packed rows of a part, up to row `end`."""

    end: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Slabs:
    reader: RowReader
    quantiser: Quantiser
    num_threads: int | None  # None: one for each core

    def of(self, items: Sequence[Item]) -> Generator[Slab]:
        """All slabs of all parts of `items`, in order; at most _AHEAD for each thread wait in memory, packed.

        Raises CheckpointError for weights that cannot be packed.
        """
        num_threads = self.num_threads or num_cores()
        waiting: deque[Future[Slab]] = deque()
        with ThreadPoolExecutor(num_threads, "pack") as pool:
            try:
                for part, begin, end in _cut(items):
                    waiting.append(pool.submit(self._pack, part, begin, end))
                    if len(waiting) > _AHEAD * num_threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _pack(self, part: Part, begin: int, end: int) -> Slab:
        rows = self.reader.read(part.place, part.n, part.k, begin, end)
        try:
            if part.format != F32:
                return Slab(end, self.quantiser(rows, TILE_FORMATS[part.format]))
            values = to_float32(rows)
            if not np.isfinite(values).all():
                raise ValueError("weights that are not numbers")
        except ValueError as error:
            path = self.reader.source(part.place).path
            raise CheckpointError(
                f"{path}: '{part.place}' holds {error} (rows {begin} to {end - 1}). Download the file again.",
                path=str(path),
            ) from None
        return Slab(end, values.astype("<f4", copy=False).tobytes())


def _cut(items: Sequence[Item]) -> Iterator[tuple[Part, int, int]]:
    for item in items:
        for part in item.parts:
            step = max(1, _SLAB // part.k // TILE_ROWS) * TILE_ROWS
            for begin in range(0, part.n, step):
                yield part, begin, min(begin + step, part.n)
