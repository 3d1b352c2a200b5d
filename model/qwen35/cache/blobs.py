"""States as files: safetensors that describe themselves, with a checksum over all of it.

A snapshot is one file of what has a fixed size (recurrent states, convolution inputs) and the keys and
values since the last whole block, and one file for each whole block of 256 tokens before that. A block
belongs to a prefix, not to a snapshot: all snapshots that begin alike share it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from qwen35.memory import zeroed
from qwen35.state import BLOCK_TOKENS, KVBlocks, LinearMemory, ModelState

Tensors = dict[str, np.ndarray]
_DTYPES = {"F32": np.float32, "F16": np.float16, "U16": np.uint16}  # of states, in the words of safetensors


class BadBlob(Exception):
    """A file that is not what its name says. The message says how."""


def snapshot_tensors(state: ModelState) -> Tensors:
    """All of `state` but its whole blocks of keys and values."""
    tensors: Tensors = {}
    for index, layer in enumerate(state.layers):
        if isinstance(layer, LinearMemory):
            tensors[f"conv.{index}"], tensors[f"state.{index}"] = layer.conv, layer.state
        elif tail := layer.num_tokens % BLOCK_TOKENS:
            tensors[f"k.{index}"] = np.ascontiguousarray(layer.k[-1][:, :tail])
            tensors[f"v.{index}"] = np.ascontiguousarray(layer.v[-1][:, :tail])
    return tensors


def block_tensors(state: ModelState, number: int) -> Tensors:
    """Keys and values of tokens [256 * number, 256 * (number + 1))."""
    tensors: Tensors = {}
    for index, layer in enumerate(state.layers):
        if isinstance(layer, KVBlocks):
            tensors[f"k.{index}"], tensors[f"v.{index}"] = layer.k[number], layer.v[number]
    return tensors


def restore(state: ModelState, num_tokens: int, snapshot: Tensors, blocks: list[Tensors]) -> None:
    """Fill a new `state` with what was saved of a prefix. Raises BadBlob where shapes differ."""
    tail = num_tokens % BLOCK_TOKENS
    for index, layer in enumerate(state.layers):
        if isinstance(layer, LinearMemory):
            layer.conv = _like(snapshot, f"conv.{index}", layer.conv.shape, layer.conv.dtype)
            layer.state = _like(snapshot, f"state.{index}", layer.state.shape, layer.state.dtype)
            continue
        for block in blocks:
            layer.k.append(_like(block, f"k.{index}", layer.shape, layer.dtype))
            layer.v.append(_like(block, f"v.{index}", layer.shape, layer.dtype))
        layer.num_tokens = len(blocks) * BLOCK_TOKENS
        if tail:
            shape = layer.shape[0], tail, layer.shape[2]
            k, v = (_like(snapshot, f"{name}.{index}", shape, layer.dtype) for name in "kv")
            layer.append(k, v)
    state.num_tokens = num_tokens


def is_close(a: ModelState, b: ModelState) -> bool:
    """Whether two states of as many tokens differ by less than a hundredth, layer by layer."""
    parts = [(snapshot_tensors(a), snapshot_tensors(b))]
    blocks = a.num_tokens // BLOCK_TOKENS
    parts += [(block_tensors(a, number), block_tensors(b, number)) for number in range(blocks)]
    return all(_distance(one[name], other[name]) < 0.01 for one, other in parts for name in one)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of `a` from `b`, in parts of `b`."""
    a, b = (x if x.dtype != np.uint16 else (x.astype(np.uint32) << 16).view(np.float32) for x in (a, b))
    length = float(np.linalg.norm(b.astype(np.float64)))
    return float(np.linalg.norm(a.astype(np.float64) - b)) / (length or 1.0)


def most_bytes(tensors: Tensors, about: Mapping[str, Any]) -> int:
    """That a blob may have, a little more than it will."""
    header = len(json.dumps(about)) + 160 * (len(tensors) + 3)  # names, shapes and places; the checksum
    return header + sum(array.nbytes for array in tensors.values())


def write(path: Path, tensors: Tensors, about: Mapping[str, Any]) -> int:
    """Write a blob. Returns its bytes; raises OSError and leaves nothing."""
    text = json.dumps(about)
    data = safetensors.numpy.save(tensors, {"about": text, "sha256": _checksum(tensors, text)})
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return len(data)


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """A blob's tensors and what it says about itself. Raises BadBlob, and OSError where there is none."""
    data = _read_whole(path)
    try:
        tensors, metadata = _views(data)
        text, checksum = metadata["about"], metadata["sha256"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadBlob(f"{path.name} is damaged ({error})") from None
    if _checksum(tensors, text) != checksum:
        raise BadBlob(f"{path.name} is damaged (its checksum differs)")
    return tensors, json.loads(text)


def describe(path: Path) -> dict[str, Any]:
    """What a blob says about itself, from its header alone. Raises BadBlob and OSError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return json.loads(_metadata(size.to_bytes(8, "little") + file.read(min(size, 1 << 24)))["about"])
    except (ValueError, LookupError, TypeError) as error:
        raise BadBlob(f"{path.name} is damaged ({error})") from None


def _read_whole(path: Path) -> np.ndarray:
    """A file's bytes, to be written to by whoever owns the state. Raises OSError."""
    with path.open("rb") as file:
        data = np.frombuffer(zeroed(os.fstat(file.fileno()).st_size), np.uint8)
        count = file.readinto(data.data)
    return data[:count]


def _views(data: np.ndarray) -> tuple[Tensors, dict[str, str]]:
    """Tensors where they lie in `data`, and the metadata: safetensors would copy each of them into fresh
    pages, which takes longer than all else. Raises ValueError and its like for what is no such file."""
    size = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + size].tobytes())
    metadata = header.pop("__metadata__")
    body, tensors, place = data[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != place:
            raise ValueError(f"{name} is not where it should be")
        place = end
        tensors[name] = body[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    if place != len(body):
        raise ValueError(f"it holds {len(body)} bytes instead of {place}")
    return tensors, metadata


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size])["__metadata__"]


def _checksum(tensors: Tensors, about: str) -> str:
    digest = hashlib.sha256(f"{about}\n".encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _like(tensors: Tensors, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = tensors.get(name)
    if array is None or array.shape != shape or array.dtype != dtype:
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise BadBlob(f"'{name}' is {found}, expected {dtype} {shape}")
    return array
