"""A packed model in memory: tiles by address for the native kernels, vectors as arrays.

Mutable: `PackedModel` owns the weights' memory from `open` to `close`.
"""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.arena import Bytes, Extent, OnProgress, Reader, map_files
from qwen35.weights.layout import EXPERTS
from qwen35.weights.manifest import PACK_AGAIN, ExpertsEntry, Manifest, read_manifest
from qwen35.weights.names import Projection
from qwen35.weights.placement import LoadMode, Placement, place
from qwen35.weights.quantize import dequantise
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.tiles import F32, matrix_bytes


class PackedModel:
    """Names are our parameters' (no leading `model.`); addresses hold until `close`.

    Two models whose `manifest.fingerprint` is the same are the same, bit by bit.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        data: dict[str, Bytes],
        reader: Reader | None,
        placement: Placement,
    ) -> None:
        """`reader`: what still fills `data`; None where all of it is there."""
        self.folder = folder
        self.manifest = manifest
        self.config = config
        self.placement = placement
        self._data: dict[str, Bytes] | None = data
        self._reader = reader

    @classmethod
    def open(
        cls,
        folder: Path,
        load: LoadMode = "auto",
        on_progress: OnProgress | None = None,
        ram: int | None = None,
    ) -> "PackedModel":
        """Check the manifest's own hash and every file's size, then map the weights or begin to read them.

        "read" copies them into memory of this process, in the background: `wait_for` what an address is used
        for. "mmap" uses the system's cache in place, "auto" does as `weights.placement.place` says of `ram`
        bytes; where it leaves experts on the disk, the text model's are not here but in an ExpertStore.
        `on_progress` hears in `wait_for` of bytes read and bytes in all.
        Raises CheckpointError, and DoesNotFit where memory is short.
        """
        manifest = open_manifest(folder)
        config = packed_config(folder, manifest)
        placement = place(manifest, config, load, ram)
        names = list(manifest.data_files)
        if placement.expert_bytes is not None:
            names.remove(EXPERTS)
        extents = [Extent(folder / name, manifest.files[name].size_bytes) for name in names]
        reader = Reader(extents, on_progress) if placement.load == "read" else None
        arrays = reader.arrays if reader else map_files(extents)
        return cls(folder, manifest, config, dict(zip(names, arrays, strict=True)), reader, placement)

    def wait_for(self, prefix: str) -> None:
        """Return when all tensors and experts whose names begin so are in memory.

        Raises CheckpointError where a file could not be read.
        """
        if self._reader is None:
            return
        ends = dict.fromkeys(self._data or (), 0)
        for name, entry in self.manifest.tensors.items():
            if name.startswith(prefix):
                ends[entry.file] = max(ends[entry.file], entry.offset + entry.size_bytes)
        for layer, experts in self.manifest.experts.items():
            if f"{layer}.".startswith(prefix) and experts.file in ends:
                end = experts.offset + experts.count * experts.stride
                ends[experts.file] = max(ends[experts.file], end)
        for file, end in enumerate(ends.values()):
            if end:
                self._reader.wait_for(file, end)

    def has(self, name: str) -> bool:
        return name in self.manifest.tensors

    def matrix(self, name: str) -> tuple[int, str, int, int]:
        """Address, format, N and K (logical) of a matrix; "f32" is row by row without padding.

        The address is valid at once, what lies there after `wait_for(name)`; so it is with `experts`.
        """
        entry = self.manifest.tensors[name]
        return self._address(entry.file, entry.offset), entry.format, *entry.matrix_shape

    def vector(self, name: str) -> NDArray[np.float32]:
        """An unquantised tensor in its logical shape: a view of the weights, not to be written to."""
        self.wait_for(name)
        entry = self.manifest.tensors[name]
        assert entry.format == F32, f"{name} is packed as {entry.format}"
        view = self._bytes(entry.file, entry.offset, entry.size_bytes).view("<f4").reshape(entry.shape)
        view.flags.writeable = False
        return view

    def has_experts(self, layer: int | str) -> bool:
        return _layer_name(layer) in self.manifest.experts

    def experts(self, layer: int | str) -> tuple[int, int]:
        """Address of expert 0's record, and bytes from one record to the next.

        `layer` is an index, or a prefix such as "mtp.layers.0". A record is gate (I, D), up (I, D) and
        down (D, I), one after another (tiles are multiples of 64 bytes).
        """
        entry = self.experts_entry(layer)
        return self._address(entry.file, entry.offset), entry.stride

    def expert_format(self, layer: int | str) -> str:
        """Of all parts of a layer's experts."""
        return self.experts_entry(layer).format

    def experts_entry(self, layer: int | str) -> ExpertsEntry:
        """Where a layer's records lie on the disk, and their checksums."""
        return self.manifest.experts[_layer_name(layer)]

    def dequantised(self, name: str) -> NDArray[np.float32]:
        """A tensor's weights in its logical shape, in new memory: for tests and for paths without kernels."""
        self.wait_for(name)
        entry = self.manifest.tensors[name]
        if entry.format == F32:
            return self.vector(name).copy()
        tiles = self._bytes(entry.file, entry.offset, entry.size_bytes)
        return dequantise(tiles, entry.format, *entry.matrix_shape).reshape(entry.shape)

    def dequantised_expert(
        self, layer: int | str, expert: int, projection: Projection
    ) -> NDArray[np.float32]:
        """One projection of one expert, (N, K), in new memory."""
        self.wait_for(f"{_layer_name(layer)}.")
        entry = self.experts_entry(layer)
        part = entry.parts[projection]
        offset = entry.offset + expert * entry.stride + part.offset
        tiles = self._bytes(entry.file, offset, matrix_bytes(entry.format, *part.shape))
        return dequantise(tiles, entry.format, *part.shape)

    def close(self) -> None:
        """Let go of the memory: addresses are void from here on, arrays from `vector` keep it alive.

        To close twice is nothing.
        """
        self._data = None
        if self._reader:
            self._reader.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, name: str) -> Bytes:
        assert self._data is not None, "the model is closed"
        return self._data[name]

    def _bytes(self, file: str, offset: int, size_bytes: int) -> Bytes:
        return self._file(file)[offset : offset + size_bytes]

    def _address(self, file: str, offset: int) -> int:
        return int(self._file(file).ctypes.data) + offset


def open_manifest(folder: Path) -> Manifest:
    """The manifest, and the certainty that every file it lists is there in full.

    Raises CheckpointError that names the file.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror}), but the manifest lists it. {PACK_AGAIN}",
                path=str(path),
            ) from None
        if size_bytes != entry.size_bytes:
            word = "truncated" if size_bytes < entry.size_bytes else "changed"
            raise CheckpointError(
                f"{path}: {word}: {size_bytes:,} bytes, packed with {entry.size_bytes:,}. {PACK_AGAIN}",
                path=str(path),
            )
    return manifest


def packed_config(folder: Path, manifest: Manifest) -> ModelConfig:
    """config.json, with the MTP module only where it was packed. Raises CheckpointError."""
    config = ModelConfig.from_folder(folder)
    has_mtp = any(name.startswith("mtp.") for name in manifest.tensors)
    config = replace(config, text=replace(config.text, num_mtp_layers=int(has_mtp)))
    _check_shapes(folder, manifest, config)
    return config


def _check_shapes(folder: Path, manifest: Manifest, config: ModelConfig) -> None:
    """What was packed is what config.json describes: kernels trust these shapes."""
    wanted = parameter_shapes(config)
    found: dict[str, tuple[int, ...]] = {name: entry.shape for name, entry in manifest.tensors.items()}
    for layer, entry in manifest.experts.items():
        (size, D), down = entry.parts["gate"].shape, entry.parts["down"].shape
        found[f"{layer}.mlp.experts.gate_up_proj"] = entry.count, 2 * size, D
        found[f"{layer}.mlp.experts.down_proj"] = entry.count, *down
    if found != wanted:
        odd = sorted(set(found.items()) ^ set(wanted.items()))[0][0]
        path = folder / "config.json"
        raise CheckpointError(
            f"{path}: does not describe the packed weights: '{odd}' is {found.get(odd)}, "
            f"expected {wanted.get(odd)}. {PACK_AGAIN}",
            path=str(path),
        )


def _layer_name(layer: int | str) -> str:
    return f"language_model.layers.{layer}" if isinstance(layer, int) else layer
