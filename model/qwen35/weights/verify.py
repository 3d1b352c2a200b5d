"""Every checksum of a packed model, and the first thing that is not as it was packed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qwen35.errors import CheckpointError
from qwen35.weights.arena import OnProgress
from qwen35.weights.manifest import PACK_AGAIN, Manifest
from qwen35.weights.packed import open_manifest, packed_config

_PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found whole."""

    manifest: Manifest
    num_tensors: int
    num_records: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Bytes with a checksum of their own."""

    name: str
    begin: int
    end: int
    sha256: str


def verify(folder: Path, on_progress: OnProgress | None = None) -> Verified:
    """Read the whole packed model and compare. `on_progress` hears bytes read and bytes in all.

    Raises CheckpointError that names the first bad tensor or expert, its file and its offset.
    """
    manifest = open_manifest(folder)
    total = sum(entry.size_bytes for entry in manifest.files.values())
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if on_progress:
            on_progress(done, total)

    for name, entry in manifest.files.items():
        stretches = sorted(_stretches(manifest, name), key=lambda stretch: stretch.begin)
        # A small file is one stretch, itself.
        _check_file(folder / name, stretches or [_Stretch("", 0, entry.size_bytes, entry.sha256)], count)
    packed_config(folder, manifest)
    num_records = sum(entry.count for entry in manifest.experts.values())
    return Verified(manifest, len(manifest.tensors), num_records, total)


def _stretches(manifest: Manifest, file: str) -> Iterator[_Stretch]:
    for name, tensor in manifest.tensors.items():
        if tensor.file == file:
            yield _Stretch(f"'{name}'", tensor.offset, tensor.offset + tensor.size_bytes, tensor.sha256)
    for layer, experts in manifest.experts.items():
        if experts.file == file:
            for e, sha256 in enumerate(experts.sha256):
                begin = experts.offset + e * experts.stride
                yield _Stretch(f"expert {e} of '{layer}'", begin, begin + experts.stride, sha256)


def _check_file(path: Path, stretches: list[_Stretch], count: Callable[[int], None]) -> None:
    """Each stretch has its checksum, and all else is zeros: then the file as a whole is as it was."""
    try:
        with path.open("rb") as file:
            for stretch in stretches:
                _check_gap(path, file, stretch.begin - file.tell(), count)
                sha256, rest = hashlib.sha256(), stretch.end - stretch.begin
                while rest and (piece := file.read(min(rest, _PIECE))):
                    sha256.update(piece)
                    rest -= len(piece)
                    count(len(piece))
                if sha256.hexdigest() != stretch.sha256:
                    what = f"{stretch.name} is damaged (bytes {stretch.begin:,} to {stretch.end:,})"
                    raise _damaged(path, what if stretch.name else "damaged or changed since it was packed")
            _check_gap(path, file, -1, count)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None


def _check_gap(path: Path, file: BinaryIO, num_bytes: int, count: Callable[[int], None]) -> None:
    """The next bytes, or all that are left, are zeros."""
    gap = file.read(num_bytes)
    if any(gap):
        raise _damaged(path, f"damaged between the tensors (before byte {file.tell():,})")
    count(len(gap))


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}. {PACK_AGAIN}", path=str(path))
