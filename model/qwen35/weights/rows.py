"""Rows of a checkpoint's tensors as float32 numpy arrays, read without torch and without the whole."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.header import ITEM_BYTES, TensorInfo
from qwen35.weights.names import Place
from qwen35.weights.reading import read_into


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

    def read(self, place: Place, n: int, k: int, begin: int, end: int) -> NDArray[np.float32]:
        """Rows [begin, end) of the (n, k) matrix at `place`. Raises CheckpointError."""
        info = self.source(place)
        first = begin
        if place not in self._tensors:  # one of many in a stack (E, rows, K)
            index = place.index(info.shape)
            inner = index[1].start or 0 if len(index) > 1 and isinstance(index[1], slice) else 0
            assert isinstance(index[0], int)
            first += index[0] * info.shape[1] + inner
        assert (first - begin + n) * k <= prod(info.shape)
        row_bytes = k * ITEM_BYTES[info.dtype]
        raw = np.empty((end - begin) * row_bytes, np.uint8)
        read_into(info.path, info.begin + first * row_bytes, raw.data)
        return _to_float32(raw, info.dtype).reshape(end - begin, k)


def _to_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    assert dtype == "BF16"
    wide = raw.view("<u2").astype(np.uint32)  # bf16 is the upper half of a float32
    wide <<= np.uint32(16)
    return wide.view(np.float32)
