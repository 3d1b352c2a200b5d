"""How far packed weights are from those of a source that was quantised already."""

from dataclasses import dataclass

import numpy as np

from qwen35.weights.numbers import Numbers, to_float32
from qwen35.weights.quantize import dequantise
from qwen35.weights.tiles import TILE_ROWS, TileFormat, num_blocks


@dataclass(frozen=True, slots=True)
class Loss:
    """Sums over weights: of squared differences, and of the squares of the weights themselves."""

    squared_error: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.squared_error + other.squared_error, self.squares + other.squares)

    @property
    def relative(self) -> float:
        """The root of mean squares of the differences to that of the weights; 0 where nothing was lost."""
        return (self.squared_error / self.squares) ** 0.5 if self.squares else 0.0


NO_LOSS = Loss()


def loss_of(w: Numbers, tiles: bytes | memoryview, tile: TileFormat) -> Loss:
    """Of the first block of rows: a sample, for to unpack all of it takes longer than packing does."""
    k = w.shape[1]
    sample = to_float32(w[:TILE_ROWS])
    num_bytes = num_blocks(TILE_ROWS, k) * tile.block_bytes
    found = dequantise(memoryview(tiles)[:num_bytes], tile.name, len(sample), k)
    error = (sample - found).ravel()
    return Loss(float(np.vdot(error, error)), float(np.vdot(sample, sample)))
