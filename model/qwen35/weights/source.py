"""What packing reads: a model's tensors by name, in whatever form they lie, wherever they lie.

    files ─► Files: raw tensors, small files, a way to read bytes ─► Source: the model's tensors ─► pack

`Files` knows names, types and places of bytes; where the bytes are (a folder, a server) is a matter of its
`read_into`. `sources` turns it into a `Source`: dequantised where need be, names, order and norms undone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen35.config import ModelConfig
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import Floats, Numbers
from qwen35.weights.reading import read_into
from qwen35.weights.tiles import GROUP

# Fills the memory from that offset of that file. Raises CheckpointError. Called from several threads at once.
ReadInto = Callable[[Path, int, memoryview], None]

Exact = Literal["q4", "q8"]


@dataclass(frozen=True, slots=True)
class Files:
    """A model's files before anybody has made sense of them.

    `tensors` are as the headers have them, quantised or not; `small` gives the content of a file such as
    config.json, None where there is none; `version` what changes when the files do (anything JSON can hold).
    """

    path: Path  # the folder, or the file; errors name it
    tensors: Mapping[str, TensorInfo]
    small: Callable[[str], bytes | None]
    version: Callable[[], object]
    read_into: ReadInto = read_into


@dataclass(frozen=True, slots=True)
class Grouped:
    """Weights (N, K) as whole numbers `q`, each group of 32 columns with a scale: (N, K / 32), float32."""

    q: NDArray[np.int8]
    scales: Floats

    def to_float32(self) -> Floats:
        w = self.q.astype(np.float32).reshape(len(self.q), -1, GROUP)
        w *= self.scales[..., None]
        return w.reshape(self.q.shape)


Rows = Numbers | Grouped


class SourceTensor(Protocol):
    """One tensor of the model, or one expert's projection."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the official checkpoint has it."""
        ...

    @property
    def encoding(self) -> str:
        """How it lies in the files: BF16, F16, F32, or a quantised format by the name that its users know."""
        ...

    @property
    def pieces(self) -> tuple[TensorInfo, ...]:
        """All that `read` may read of the files, the bulk first."""
        ...

    @property
    def path(self) -> Path:
        """The file of the bulk, and where in it that begins."""
        ...

    @property
    def begin(self) -> int: ...

    @property
    def exact_in(self) -> Exact | None:
        """The smaller tile format that holds its numbers as they are. A forecast: `read` decides."""
        ...

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        """Rows [begin, end) of all its weights seen as a matrix of `k` columns. Raises CheckpointError.

        A caller asks for a tensor's own columns (the product of all axes but the first, or of a stack the
        last axis), or for a vector as one row.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A model to be packed. `tensors` by names that `names.place_of` understands."""

    path: Path
    kind: str  # "" for unquantised safetensors, else what the user knows it as: "FP8", "GPTQ", "GGUF", ...
    config: ModelConfig
    tensors: Mapping[str, SourceTensor]
    small_files: Callable[[], dict[str, bytes]]  # config.json, tokenizer.json and so on, official
    version: Callable[[], object]
    read_into: ReadInto = read_into
    notes: tuple[str, ...] = ()  # what the user should hear: no vision, no chat template, ...


class OfPieces:
    """What follows from the pieces of a SourceTensor."""

    __slots__ = ()
    pieces: tuple[TensorInfo, ...]

    @property
    def path(self) -> Path:
        return self.pieces[0].path

    @property
    def begin(self) -> int:
        return self.pieces[0].begin


@dataclass(frozen=True, slots=True)
class PlainTensor:
    """Weights of 16 or 32 bits, row by row."""

    info: TensorInfo
    exact_in: Exact | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def path(self) -> Path:
        return self.info.path

    @property
    def begin(self) -> int:
        return self.info.begin

    @property
    def encoding(self) -> str:
        return self.info.dtype

    @property
    def pieces(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Numbers:
        rows: Numbers = np.empty((end - begin, k), _DTYPES[self.info.dtype])
        files(
            self.info.path, self.info.begin + begin * k * rows.itemsize, rows.reshape(-1).view(np.uint8).data
        )
        return rows


_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PLAIN = tuple(_DTYPES)


def is_plain(tensor: SourceTensor) -> bool:
    """Whether its weights were never rounded to a quantised format."""
    return tensor.encoding in PLAIN


def size_bytes(tensor: SourceTensor) -> int:
    return sum(piece.size_bytes for piece in tensor.pieces)
