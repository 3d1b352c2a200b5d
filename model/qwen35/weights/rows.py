"""Rows of a source's tensors as numpy arrays, read without torch and without the whole."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from qwen35.weights.header import ITEM_BYTES
from qwen35.weights.names import Place
from qwen35.weights.source import PlainTensor, ReadInto, Rows, Source, SourceTensor, size_bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [begin, end) of a source's file."""

    path: Path
    begin: int
    end: int


class RowReader:
    """Reads any place of the model, whether its experts lie fused or one by one in the files."""

    def __init__(self, source: Source, places: dict[str, Place]) -> None:
        self._tensors = {place: source.tensors[name] for name, place in places.items()}
        self._read_into = source.read_into

    def by(self, read_into: ReadInto) -> "RowReader":
        """The same with another way to get at the files' bytes."""
        other = RowReader.__new__(RowReader)
        other._tensors, other._read_into = self._tensors, read_into
        return other

    def tensor(self, place: Place) -> SourceTensor:
        """The one that holds `place`, by itself or in a fused stack."""
        return self._tensors.get(place) or self._tensors[Place(place.parameter)]

    def source_bytes(self, place: Place, num_weights: int) -> int:
        """What so many weights of `place` take in the files."""
        tensor = self.tensor(place)
        return size_bytes(tensor) * num_weights // prod(tensor.shape)

    def read(self, place: Place, n: int, k: int, begin: int, end: int) -> Rows:
        """Rows [begin, end) of the (n, k) matrix at `place`, as the files have them.

        Raises CheckpointError.
        """
        tensor, first = self.tensor(place), self._first_row(place)
        assert (first + n) * k <= prod(tensor.shape)
        return tensor.read(self._read_into, k, first + begin, first + end)

    def spans(self, place: Place, k: int, begin: int, end: int) -> tuple[Span, ...]:
        """What `read` of the same rows may read: their own bytes where they are told apart from others."""
        tensor, first = self.tensor(place), self._first_row(place)
        if isinstance(tensor, PlainTensor):
            info, row = tensor.info, k * ITEM_BYTES[tensor.info.dtype]
            return (Span(info.path, info.begin + (first + begin) * row, info.begin + (first + end) * row),)
        return tuple(Span(piece.path, piece.begin, piece.end) for piece in tensor.pieces)

    def _first_row(self, place: Place) -> int:
        """Of a place in its tensor."""
        if place in self._tensors:
            return 0
        shape = self.tensor(place).shape  # of a stack (E, rows, K)
        index = place.index(shape)
        inner = index[1].start or 0 if len(index) > 1 and isinstance(index[1], slice) else 0
        assert isinstance(index[0], int)
        return index[0] * shape[1] + inner
