"""manifest.json: what a packed folder holds, byte by byte. Written last; without it there is no packed model.

The first line holds the SHA-256 of all that follows it (`tail -n +2 manifest.json | sha256sum`), so
that no damage to the manifest itself goes unseen. That line, `format` and `version` stay as they are in
every version to come.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from qwen35.errors import CheckpointError
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE
from qwen35.weights.header import parse_json
from qwen35.weights.tiles import F32, FORMATS, LINE, matrix_bytes

MANIFEST = "manifest.json"
FORMAT, VERSION = "qwen-packed", 2
PACK_AGAIN = "Pack the model again (qwen models pack), or fetch the file again."


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's bytes [offset, offset + size_bytes) of `file`; `shape` as in the checkpoint."""

    format: str
    shape: tuple[int, ...]
    file: str
    offset: int
    size_bytes: int
    checksum: str  # as weights.checksum defines it; so are those of records

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """N and K: a vector is one row, a convolution's kernel is flattened."""
        if len(self.shape) == 1:
            return 1, self.shape[0]
        return self.shape[0], prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One matrix of every record of a layer, `offset` bytes from the record's start."""

    shape: tuple[int, int]
    offset: int


@dataclass(frozen=True, slots=True)
class ExpertsEntry:
    """A layer's records: expert e at `offset + e * stride` of `file`; `checksums[e]` covers the stride."""

    format: str
    file: str
    offset: int
    stride: int
    count: int
    parts: Mapping[str, PartEntry]  # gate, up, down
    checksums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileEntry:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """What was packed: the folder's name, its weights' dtype and size, and what tells it from others."""

    name: str
    dtype: str
    size_bytes: int
    identity: str


@dataclass(frozen=True, slots=True)
class ImportEntry:
    """Of a tensor or a layer's experts that the source had quantised already: as what, and what was lost.

    `relative_error` is 0 where the numbers passed as they were; else measured on a sample of the rows,
    against what the source's numbers stand for.
    """

    encoding: str
    relative_error: float


@dataclass(frozen=True)
class Manifest:
    source: SourceEntry
    quant: str  # what the bulk of the weights is in
    tensors: Mapping[str, TensorEntry]
    experts: Mapping[str, ExpertsEntry]  # by layer: "language_model.layers.0"
    files: Mapping[str, FileEntry]
    imports: Mapping[str, ImportEntry] = field(default_factory=dict)  # by tensor, experts by layer

    @cached_property
    def num_parameters(self) -> int:
        in_experts = (
            entry.count * prod(part.shape) for entry in self.experts.values() for part in entry.parts.values()
        )
        return sum(prod(entry.shape) for entry in self.tensors.values()) + sum(in_experts)

    @cached_property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files that hold weights, in order."""
        used = {tensor.file for tensor in self.tensors.values()}
        used |= {experts.file for experts in self.experts.values()}
        return tuple(name for name in self.files if name in used)

    @cached_property
    def fingerprint(self) -> str:
        """Of all that the folder holds: packs with the same one are the same, wherever they were made."""
        hashes = {name: entry.sha256 for name, entry in sorted(self.files.items())}
        return hashlib.sha256(json.dumps([VERSION, hashes]).encode()).hexdigest()

    @property
    def data_bytes(self) -> int:
        return sum(self.files[name].size_bytes for name in self.data_files)

    @property
    def bits_per_weight(self) -> float:
        """Scales and padding included."""
        return 8 * self.data_bytes / self.num_parameters

    def to_bytes(self) -> bytes:
        head = {"format": FORMAT, "version": VERSION}
        body = json.dumps(head | asdict(self), indent=1).removeprefix("{\n").encode()
        return b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode() + body


def is_packed(folder: Path) -> bool:
    """Whether this is meant to be a packed model; other programs keep a manifest.json beside safetensors."""
    return (folder / MANIFEST).exists() and not any((folder / name).exists() for name in (SINGLE_FILE, INDEX))


def read_manifest(folder: Path) -> Manifest:
    """The manifest, whole and consistent.

    Raises CheckpointError for one that is missing, damaged or not understood.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file. A packed model has one; if packing was interrupted, run it again.",
            path=str(path),
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None
    first, _, body = text.partition(b"\n")
    sha256 = hashlib.sha256(body).hexdigest()
    is_whole = first == b'{"sha256": "%s",' % sha256.encode()
    if not is_whole and not first.startswith(b'{"sha256": "'):
        _refuse(path, "not the manifest of a packed model. Is this another program's folder?")
    if not is_whole:
        _refuse(path, f"damaged: its own checksum does not fit. {PACK_AGAIN}")
    values = parse_json(path, text)
    if values.get("format") != FORMAT:
        _refuse(path, f"its format is {values.get('format')!r}, not {FORMAT!r}. Is this a packed model?")
    if values.get("version") != VERSION:
        _refuse(
            path,
            f"packed in version {values.get('version')!r} of the format; this program reads {VERSION}. "
            "Update qwen, or pack the model again with this one.",
        )
    try:
        manifest = _from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _refuse(path, f"incomplete or malformed ({type(error).__name__}: {error}). {PACK_AGAIN}")
    _check(path, manifest)
    return manifest


def _from_dict(values: dict[str, Any]) -> Manifest:
    tensors = {
        name: TensorEntry(**entry | {"shape": tuple(map(int, entry["shape"]))})
        for name, entry in values["tensors"].items()
    }
    experts = {}
    for layer, entry in values["experts"].items():
        parts = {
            name: PartEntry((int(part["shape"][0]), int(part["shape"][1])), int(part["offset"]))
            for name, part in entry["parts"].items()
        }
        experts[layer] = ExpertsEntry(**entry | {"parts": parts, "checksums": tuple(entry["checksums"])})
    files = {name: FileEntry(**entry) for name, entry in values["files"].items()}
    imports = {name: ImportEntry(**entry) for name, entry in values.get("imports", {}).items()}
    return Manifest(SourceEntry(**values["source"]), values["quant"], tensors, experts, files, imports)


def _check(path: Path, manifest: Manifest) -> None:
    """Formats that are known, sizes that fit shapes, data within files, aligned: kernels trust all of it."""
    formats = {name: tensor.format for name, tensor in manifest.tensors.items()}
    formats |= {layer: experts.format for layer, experts in manifest.experts.items()}
    for name, format_name in formats.items():
        if format_name not in FORMATS:
            _refuse(
                path,
                f"'{name}' is packed as {format_name!r}, which this program does not know "
                f"(known: {', '.join(FORMATS)}). Update qwen, or pack the model again with this one.",
            )
    for name, tensor in manifest.tensors.items():
        fits = tensor.size_bytes == matrix_bytes(tensor.format, *tensor.matrix_shape)
        if not fits or not _is_within(manifest, tensor.file, tensor.offset, tensor.size_bytes):
            _refuse(path, f"the place of '{name}' does not fit its shape or its file. {PACK_AGAIN}")
    for layer, experts in manifest.experts.items():
        fits = (
            experts.format != F32 and len(experts.checksums) == experts.count and experts.stride % LINE == 0
        )
        end = 0
        for name in ("gate", "up", "down"):
            fits &= experts.parts[name].offset == end  # kernels work it out from the shapes
            end += matrix_bytes(experts.format, *experts.parts[name].shape)
        fits &= end <= experts.stride
        if not fits or not _is_within(manifest, experts.file, experts.offset, experts.count * experts.stride):
            _refuse(path, f"the experts of '{layer}' do not fit their shapes or their file. {PACK_AGAIN}")
    if outside := [name for name in manifest.files if Path(name).name != name]:
        _refuse(path, f"names a file outside the folder: {outside[0]!r}.")


def _is_within(manifest: Manifest, file: str, offset: int, size_bytes: int) -> bool:
    in_file = manifest.files[file].size_bytes if file in manifest.files else 0
    return offset >= 0 and offset % LINE == 0 and offset + size_bytes <= in_file


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path}: {what}", path=str(path))
