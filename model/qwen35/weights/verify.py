"""Every checksum of a packed model, and the first thing that is not as it was packed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qwen35.errors import CheckpointError
from qwen35.weights.arena import OnProgress
from qwen35.weights.checksum import Checksum
from qwen35.weights.manifest import PACK_AGAIN, FileEntry, Manifest
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
    checksum: str


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
        _check_file(folder / name, entry, stretches, count)
    packed_config(folder, manifest)
    num_records = sum(entry.count for entry in manifest.experts.values())
    return Verified(manifest, len(manifest.tensors), num_records, total)


def _stretches(manifest: Manifest, file: str) -> Iterator[_Stretch]:
    for name, tensor in manifest.tensors.items():
        if tensor.file == file:
            yield _Stretch(f"'{name}'", tensor.offset, tensor.offset + tensor.size_bytes, tensor.checksum)
    for layer, experts in manifest.experts.items():
        if experts.file == file:
            for e, checksum in enumerate(experts.checksums):
                begin = experts.offset + e * experts.stride
                yield _Stretch(f"expert {e} of '{layer}'", begin, begin + experts.stride, checksum)


def _check_file(
    path: Path, entry: FileEntry, stretches: list[_Stretch], count: Callable[[int], None]
) -> None:
    """Each stretch has its checksum, which tells what is damaged, and the file its SHA-256."""
    whole = hashlib.sha256()

    def read(file: BinaryIO, num_bytes: int) -> str:
        """The checksum of the next bytes."""
        own = Checksum()
        while num_bytes > 0 and (piece := file.read(min(num_bytes, _PIECE))):
            whole.update(piece)
            own.update(piece)
            count(len(piece))
            num_bytes -= len(piece)
        return own.hexdigest()

    try:
        with path.open("rb") as file:
            for stretch in stretches:
                read(file, stretch.begin - file.tell())
                if read(file, stretch.end - stretch.begin) != stretch.checksum:
                    where = f"bytes {stretch.begin:,} to {stretch.end:,}"
                    raise _damaged(path, f"{stretch.name} is damaged ({where})")
            read(file, entry.size_bytes - file.tell())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None
    if whole.hexdigest() != entry.sha256:
        raise _damaged(path, "damaged or changed since it was packed")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}. {PACK_AGAIN}", path=str(path))
