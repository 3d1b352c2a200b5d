"""The header of a safetensors file: what it holds and where, before a byte of data is read.

Own, rather than the package's, for its errors: each says which file is damaged and how.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35.errors import CheckpointError

ITEM_BYTES = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "F64": 8,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "U16": 2,
    "I16": 2,
    "U32": 4,
    "I32": 4,
    "U64": 8,
    "I64": 8,
}
LENGTH_BYTES = 8  # the header's length, little-endian, at the start of the file
AGAIN = "Download the file again."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor at rest: bytes [begin, end) of the file at `path`."""

    dtype: str  # as safetensors spells it: "BF16", "F16", "F32", ...
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin

    def slices(self) -> list["TensorInfo"]:
        """A stack, one by one: each index of the first axis as a tensor of its own."""
        count, *shape = self.shape
        size = self.size_bytes // count
        begins = range(self.begin, self.end, size)
        return [TensorInfo(self.dtype, tuple(shape), self.path, begin, begin + size) for begin in begins]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file, checked against its size. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise _damaged(path, "a Git LFS pointer, not the weights themselves. Run `git lfs pull`.")
            if len(start) < LENGTH_BYTES or LENGTH_BYTES + length > size:
                expected = LENGTH_BYTES + (length if len(start) == LENGTH_BYTES else 0)
                raise _damaged(
                    path,
                    "truncated, or not a safetensors file: its header alone needs "
                    f"{expected} bytes, found {size}. {AGAIN}",
                )
            text = file.read(length)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror}).") from None
    entries = parse_json(path, text)
    entries.pop("__metadata__", None)
    offset = LENGTH_BYTES + length
    tensors = {name: _read_entry(path, name, entry, offset) for name, entry in entries.items()}
    _check_layout(path, tensors, offset, size)
    return tensors


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object in which no key stands twice. Raises CheckpointError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            raise _damaged(path, f"the key {max(keys, key=keys.count)!r} stands there twice.")
        return values

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:  # JSON and UTF-8 alike
        raise _damaged(path, f"not JSON where JSON is meant ({error}). {AGAIN}") from None
    if not isinstance(values, dict):
        raise _damaged(path, f"expected a JSON object, found {type(values).__name__}.")
    return values


def _read_entry(path: Path, name: str, entry: Any, offset: int) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"the header's entry for '{name}' is {entry!r}. {AGAIN}") from None
    expected = math.prod(shape) * ITEM_BYTES.get(dtype, 0)
    if dtype in ITEM_BYTES and end - begin != expected:
        raise _damaged(
            path, f"'{name}' {dtype} {list(shape)} takes {expected} bytes, the header gives {end - begin}."
        )
    return TensorInfo(dtype, shape, path, offset + begin, offset + end)


def _check_layout(path: Path, tensors: dict[str, TensorInfo], offset: int, size: int) -> None:
    """The data must fill the file from the header to the end, each byte belonging to one tensor."""
    end = offset
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != end:
            raise _damaged(path, f"the data of '{name}' overlap another tensor's or leave a gap. {AGAIN}")
        end = info.end
    if end != size:
        word = "truncated" if size < end else "too long"
        raise _damaged(path, f"{word}: expected {end} bytes, found {size}. {AGAIN}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}", path=str(path))
