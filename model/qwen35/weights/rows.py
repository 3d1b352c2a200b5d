"""Rows of a checkpoint's tensors as numpy arrays, read without torch and without the whole."""

from math import prod

import numpy as np

from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.header import ITEM_BYTES, TensorInfo
from qwen35.weights.names import Place
from qwen35.weights.numbers import Numbers
from qwen35.weights.reading import read_into

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class RowReader:
    """Reads any place of the model, whether its experts lie fused or one by one in the files."""

    def __init__(self, checkpoint: Checkpoint, places: dict[str, Place]) -> None:
        self._tensors = {place: checkpoint.tensors[name] for name, place in places.items()}

    def source(self, place: Place) -> TensorInfo:
        """The tensor that holds `place`, by itself or in a fused stack."""
        return self._tensors.get(place) or self._tensors[Place(place.parameter)]

    def source_bytes(self, place: Place, num_weights: int) -> int:
        """What so many weights of `place` take in the file."""
        return num_weights * ITEM_BYTES[self.source(place).dtype]

    def read(self, place: Place, n: int, k: int, begin: int, end: int) -> Numbers:
        """Rows [begin, end) of the (n, k) matrix at `place`, as the file has them. Raises CheckpointError."""
        info = self.source(place)
        first = begin
        if place not in self._tensors:  # one of many in a stack (E, rows, K)
            index = place.index(info.shape)
            inner = index[1].start or 0 if len(index) > 1 and isinstance(index[1], slice) else 0
            assert isinstance(index[0], int)
            first += index[0] * info.shape[1] + inner
        assert (first - begin + n) * k <= prod(info.shape)
        rows: Numbers = np.empty((end - begin, k), _DTYPES[info.dtype])
        read_into(info.path, info.begin + first * k * rows.itemsize, rows.reshape(-1).view(np.uint8).data)
        return rows
