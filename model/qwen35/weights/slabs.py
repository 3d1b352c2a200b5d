"""Rows of the checkpoint to packed bytes, some rows at a time, in threads, handed out in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from qwen35.cores import num_cores
from qwen35.errors import CheckpointError
from qwen35.weights.grouped import holds, tiles_of
from qwen35.weights.layout import Item, Part
from qwen35.weights.loss import NO_LOSS, Loss, loss_of
from qwen35.weights.numbers import Numbers, to_float32
from qwen35.weights.rows import RowReader
from qwen35.weights.source import Grouped, is_plain
from qwen35.weights.tiles import F32, TILE_FORMATS, TILE_ROWS, TileFormat

# As `quantize.quantise`: the tiles of (N, K); ValueError, with the reason, for what cannot be held.
Quantiser = Callable[[Numbers, TileFormat], bytes | memoryview]

_SLAB = 1 << 20  # weights in one piece of work: 2 MiB of the file, a few ms
_CHUNK = 1 << 18  # weights unpacked at once of quantised ones: their float32 numbers stay in a cache
AHEAD = 8  # slabs for each thread: work to go on with while the writer waits for the disk


@dataclass(frozen=True, slots=True)
class Slab:
    """Packed rows of a part, up to row `end`."""

    end: int
    data: bytes | memoryview
    loss: Loss = NO_LOSS  # of weights that had been rounded before; of others it is not measured


@dataclass(frozen=True, slots=True)
class Slabs:
    reader: RowReader
    quantiser: Quantiser
    num_threads: int | None  # None: one for each core

    def of(self, items: Sequence[Item]) -> Generator[Slab]:
        """All slabs of all parts of `items`, in order; at most AHEAD for each thread wait in memory, packed.

        Raises CheckpointError for weights that cannot be packed.
        """
        num_threads = self.num_threads or num_cores()
        waiting: deque[Future[Slab]] = deque()
        with ThreadPoolExecutor(num_threads, "pack") as pool:
            try:
                for part in (part for item in items for part in item.parts):
                    for begin, end in cut(part):
                        waiting.append(pool.submit(self.pack, part, begin, end))
                        if len(waiting) > AHEAD * num_threads:
                            yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def pack(self, part: Part, begin: int, end: int) -> Slab:
        """Rows [begin, end) of a part, here and now."""
        tensor = self.reader.tensor(part.place)
        try:
            if part.format == F32:
                return Slab(end, self._floats(part, begin, end))
            if is_plain(tensor):
                rows = self.reader.read(part.place, part.n, part.k, begin, end)
                assert not isinstance(rows, Grouped)
                return Slab(end, self.quantiser(rows, TILE_FORMATS[part.format]))
            return self._pack_again(part, begin, end)
        except ValueError as error:
            raise CheckpointError(
                f"{tensor.path}: '{part.place}' holds {error} (rows {begin} to {end - 1}). "
                "Download the file again.",
                path=str(tensor.path),
            ) from None

    def _floats(self, part: Part, begin: int, end: int) -> bytes:
        rows = self.reader.read(part.place, part.n, part.k, begin, end)
        values = rows.to_float32() if isinstance(rows, Grouped) else to_float32(rows)
        if not np.isfinite(values).all():
            raise ValueError("weights that are not numbers")
        return values.astype("<f4", copy=False).tobytes()

    def _pack_again(self, part: Part, begin: int, end: int) -> Slab:
        """Of weights that were quantised: as they are, where the format holds them, else rounded anew."""
        tile = TILE_FORMATS[part.format]
        pieces: list[bytes | memoryview] = []
        loss = NO_LOSS
        step = max(1, _CHUNK // part.k // TILE_ROWS) * TILE_ROWS
        for first in range(begin, end, step):
            rows = self.reader.read(part.place, part.n, part.k, first, min(first + step, end))
            tiles: bytes | memoryview | None = None
            is_exact = False
            if isinstance(rows, Grouped) and holds(tile, rows):
                tiles, is_exact = tiles_of(rows, tile)
            if tiles is None or not is_exact:
                w = rows.to_float32() if isinstance(rows, Grouped) else rows
                tiles = self.quantiser(w, tile) if tiles is None else tiles
                if first == begin:
                    loss = loss_of(w, tiles, tile)
            pieces.append(tiles)
        return Slab(end, b"".join(pieces), loss)


def cut(part: Part) -> Iterator[tuple[int, int]]:
    """The rows of each slab of a part: first, and after the last."""
    step = max(1, _SLAB // part.k // TILE_ROWS) * TILE_ROWS
    for begin in range(0, part.n, step):
        yield begin, min(begin + step, part.n)
