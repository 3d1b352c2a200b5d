"""The header of a GGUF file, or of all files of a split one: metadata, and where each tensor lies.

Little-endian throughout: "GGUF", version, counts; then metadata as key, type, value; then the tensors as
name, sizes (the fastest axis first), type, offset; then, from the next multiple of the alignment on, data.
"""

import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from qwen35.errors import CheckpointError
from qwen35.weights.header import AGAIN, TensorInfo
from qwen35.weights.sources.gguf_types import BLOCKS, TYPE_NAMES

VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 24  # entries, elements, bytes of a string: more is damage
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

OpenFile = Callable[[Path], tuple[BinaryIO, int]]  # a file to be read from its start, and its size


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`tensors` have their axes as torch has them, the fastest last, and GGUF's names of types."""

    path: Path  # of the first file
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def get(self, key: str, kind: type) -> Any:
        """Raises CheckpointError for a key that is missing or of another type."""
        value = self.metadata.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind):
            found = "missing" if value is None else f"{value!r}, expected {kind.__name__}"
            raise CheckpointError(f"{self.path}: the metadata '{key}' is {found}.", path=str(self.path))
        return value


def open_local(path: Path) -> tuple[BinaryIO, int]:
    """Raises CheckpointError."""
    try:
        file = path.open("rb")
        return file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None


def is_gguf(path: Path) -> bool:
    """Whether the file begins like one, whatever it is called."""
    return _start(path, 4) == b"GGUF"


def peek_architecture(path: Path) -> str | None:
    """What the file's first key says, where that is the architecture, as it always is; else None.

    The whole header, with its vocabulary, would take half a second.
    """
    key = b"general.architecture"
    start = _start(path, 256)
    at = 4 + 4 + 8 + 8  # "GGUF", version, two counts
    if start[:4] != b"GGUF" or start[at : at + 8 + len(key)] != len(key).to_bytes(8, "little") + key:
        return None
    at += 8 + len(key) + 4  # the type: text
    length = int.from_bytes(start[at : at + 8], "little")
    return start[at + 8 : at + 8 + min(length, 64)].decode("ascii", "replace")


def _start(path: Path, num_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
    except OSError:
        return b""


def split_files(path: Path) -> list[Path]:
    """All files of the model, in their order."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    return [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


def read_gguf(path: Path, open_file: OpenFile = open_local) -> GgufHeader:
    """The headers of `path` and of the files that it is split into.

    Raises CheckpointError for files that are missing, cut short, damaged or of a version not known.
    """
    paths = split_files(path)
    if open_file is open_local and (missing := [each for each in paths if not each.exists()]):
        raise CheckpointError(
            f"{missing[0]}: no such file, but the model is split into {len(paths)} ({len(missing)} missing). "
            "Download the missing files into the same folder.",
            path=str(missing[0]),
        )
    metadata: dict[str, Any] = {}
    tensors: dict[str, TensorInfo] = {}
    for each in paths:
        file, size = open_file(each)
        with file:
            header = _Reader(each, file, size).read()
        metadata = dict(header.metadata) | metadata  # the first file's counts
        if twice := tensors.keys() & header.tensors.keys():
            _refuse(each, f"holds '{min(twice)}', and so does another file of the same model. {AGAIN}")
        tensors |= header.tensors
    count = metadata.get("split.count", 1)
    if count not in (0, 1, len(paths)):
        _refuse(
            paths[0], f"one of {count} files; its name must end in -00001-of-{count:05}.gguf, as published."
        )
    expected = metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        _refuse(paths[0], f"{len(tensors)} tensors in {len(paths)} files, {expected} were split. {AGAIN}")
    return GgufHeader(paths[0], metadata, tensors)


class _Reader:
    """Of one file. Mutable: it reads on."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._end = 0

    def read(self) -> GgufHeader:
        magic = self._file.read(4)
        self._end = 4
        if magic != b"GGUF":
            what = (
                "a Git LFS pointer, not the weights. Run `git lfs pull`."
                if magic == b"vers"
                else (f"not a GGUF file (it begins with {magic!r}). {AGAIN}")
            )
            _refuse(self._path, what)
        version = self._scalar("I")
        if version not in VERSIONS:
            if version & 0xFFFF == 0:
                _refuse(self._path, "big-endian, which is not supported. Use the common, little-endian file.")
            age = "newer than this program knows: update qwen" if version > VERSIONS[-1] else "from 2023"
            _refuse(self._path, f"GGUF version {version} is {age}; supported: 2 and 3.")
        num_tensors, num_values = self._count("Q"), self._count("Q")
        metadata = {self._string(): self._value(self._scalar("I")) for _ in range(num_values)}
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            _refuse(self._path, f"the metadata 'general.alignment' is {alignment!r}. {AGAIN}")
        start = -(-self._end // alignment) * alignment
        tensors = {
            name: self._info(name, shape, kind, start + offset) for name, shape, kind, offset in entries
        }
        return GgufHeader(self._path, metadata, tensors)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        num_axes = self._scalar("I")
        if num_axes > 8:
            _refuse(self._path, f"damaged: '{name}' has {num_axes} axes. {AGAIN}")
        shape = tuple(self._scalar("Q") for _ in range(num_axes))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _info(self, name: str, shape: tuple[int, ...], kind: int, begin: int) -> TensorInfo:
        type_name = TYPE_NAMES.get(kind)
        if type_name is None:
            _refuse(
                self._path,
                f"'{name}' has the type {kind}, which this program does not know: it may be newer. Update "
                "qwen, or use a file in Q4_K_M, Q8_0 or another common type.",
            )
        if type_name not in BLOCKS:  # refused where the tensor is wanted
            return TensorInfo(type_name, shape, self._path, begin, begin)
        values, size_bytes = BLOCKS[type_name]
        if shape and shape[-1] % values:
            _refuse(
                self._path, f"'{name}' {type_name} {list(shape)}: rows are no multiple of {values}. {AGAIN}"
            )
        end = begin + prod(shape) // values * size_bytes
        if end > self._size:
            _refuse(
                self._path,
                f"cut short: '{name}' ends at byte {end:,}, the file at {self._size:,}. {AGAIN}",
            )
        return TensorInfo(type_name, shape, self._path, begin, end)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._scalar("I"), self._count("Q")
            if inner in _SCALARS:
                form = f"<{count}{_SCALARS[inner]}"
                return list(struct.unpack(form, self._bytes(struct.calcsize(form))))
            return self._strings(count) if inner == _STRING else [self._value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            _refuse(self._path, f"damaged, or newer than this program: metadata of the type {kind}. {AGAIN}")
        return self._scalar(_SCALARS[kind])

    def _strings(self, count: int) -> list[str]:
        """A vocabulary has hundreds of thousands: as few calls for each as can be."""
        read, end, found = self._file.read, self._end, []
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            data = read(length) if length <= _MOST else b""
            end += 8 + length
            if len(data) < length or end > self._size:
                self._end = end
                self._bytes(1)  # tells that nothing is left
                _refuse(self._path, f"damaged: a string of {length:,} bytes in the header. {AGAIN}")
            found.append(data.decode("utf-8", "replace"))
        self._end = end
        return found

    def _string(self) -> str:
        return self._bytes(self._count("Q")).decode("utf-8", "replace")

    def _count(self, form: str) -> int:
        count = self._scalar(form)
        if count > _MOST:
            _refuse(self._path, f"damaged: a count of {count:,} in the header. {AGAIN}")
        return count

    def _scalar(self, form: str) -> Any:
        return struct.unpack("<" + form, self._bytes(struct.calcsize("<" + form)))[0]

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        self._end += count
        if len(data) < count:
            _refuse(
                self._path, f"cut short: its header alone needs more than the {self._size:,} bytes. {AGAIN}"
            )
        return data


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path}: {what}", path=str(path))
