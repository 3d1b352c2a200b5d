"""A packed model in memory: tiles by address for the native kernels, vectors as arrays.

Mutable: `PackedModel` owns the weights' memory from `open` to `close`.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.arena import Bytes, Extent, OnProgress, Reader, block_of, map_files
from qwen35.weights.layout import EXPERTS
from qwen35.weights.manifest import PACK_AGAIN, ExpertsEntry, Manifest, read_manifest
from qwen35.weights.names import Projection
from qwen35.weights.placement import NUM_BUFFERS, LoadMode, Placement, place
from qwen35.weights.quantize import dequantise
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.stretches import Stretch, layer_stretches, resident_stretches
from qwen35.weights.tiles import F32, matrix_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Bytes of a file, from `begin` on, in memory. `number`: the Reader's extent; None where all is there."""

    begin: int
    data: Bytes
    number: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StreamedLayer:
    """A decoder layer on the disk, and the memory that it is to be read into whenever it is needed.

    The layers that share a `buffer` share that memory: only one of them is there at a time.
    """

    index: int
    stretch: Stretch
    buffer: int
    memory: Bytes


class PackedModel:
    """Names are our parameters' (no leading `model.`); addresses hold until `close`.

    Two models whose `manifest.fingerprint` is the same are the same, bit by bit.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        placement: Placement,
        parts: Mapping[str, Part],
        reader: Reader | None,
        streamed: Sequence[StreamedLayer] = (),
    ) -> None:
        """`parts`: where each tensor is, and the experts of each layer; `reader`: what still fills them.

        `streamed`: the layers whose parts hold something only while somebody reads them there.
        """
        self.folder = folder
        self.manifest = manifest
        self.config = config
        self.placement = placement
        self.streamed = streamed
        self._parts: Mapping[str, Part] | None = parts
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
        bytes. Where that leaves experts on the disk, the text model's are not here but in an ExpertStore;
        where it leaves layers there, a LayerStream brings them to their addresses, for a time.
        `on_progress` hears in `wait_for` of bytes read and bytes in all.
        Raises CheckpointError, and DoesNotFit where memory is short.
        """
        manifest = open_manifest(folder)
        config = packed_config(folder, manifest)
        placement = place(manifest, config, load, ram)
        if placement.is_tight:
            return cls._open_tight(folder, manifest, config, placement, on_progress)
        names = list(manifest.data_files)
        if placement.expert_bytes is not None:
            names.remove(EXPERTS)
        extents = [Extent(folder / name, manifest.files[name].size_bytes) for name in names]
        reader = Reader(extents, on_progress) if placement.load == "read" else None
        arrays = reader.arrays if reader else map_files(extents)
        files = {
            name: Part(0, array, number if reader else None)
            for number, (name, array) in enumerate(zip(names, arrays, strict=True))
        }
        parts = {name: files[entry.file] for name, entry in manifest.tensors.items()}
        parts |= {
            layer: files[entry.file] for layer, entry in manifest.experts.items() if entry.file in files
        }
        parts |= _draft_experts(folder, manifest, set(parts))
        return cls(folder, manifest, config, placement, parts, reader)

    @classmethod
    def _open_tight(
        cls,
        folder: Path,
        manifest: Manifest,
        config: ModelConfig,
        placement: Placement,
        on_progress: OnProgress | None,
    ) -> "PackedModel":
        """With no more in memory than every token needs, and buffers for the layers that are streamed."""
        stretches = resident_stretches(manifest, config, placement.streamed)
        layers = layer_stretches(manifest, config.text.num_hidden_layers)
        size = max((layers[index].size_bytes for index in placement.streamed), default=0)
        buffers = block_of(NUM_BUFFERS * size).reshape(NUM_BUFFERS, size) if size else None
        streamed = [
            StreamedLayer(index, layers[index], place % NUM_BUFFERS, buffers[place % NUM_BUFFERS])
            for place, index in enumerate(placement.streamed)
            if buffers is not None
        ]
        names = sorted({entry.file for entry in manifest.tensors.values()})
        mapped = map_files([Extent(folder / name, manifest.files[name].size_bytes) for name in names])
        files = dict(zip(names, mapped, strict=True))
        parts = {name: Part(0, files[entry.file]) for name, entry in manifest.tensors.items()}
        for layer in streamed:
            parts |= dict.fromkeys(layer.stretch.names, Part(layer.stretch.begin, layer.memory))
        extents = [Extent(folder / each.file, each.size_bytes, each.begin) for each in stretches]
        reader = Reader(extents, on_progress)
        for number, (each, array) in enumerate(zip(stretches, reader.arrays, strict=True)):
            parts |= dict.fromkeys(each.names, Part(each.begin, array, number))
        parts |= _draft_experts(folder, manifest, set(parts))
        return cls(folder, manifest, config, placement, parts, reader, streamed)

    def wait_for(self, prefix: str) -> None:
        """Return when all tensors and experts whose names begin so are in memory.

        Those of a streamed layer are not waited for: whoever streams it knows when they are there. Raises
        CheckpointError where a file could not be read.
        """
        if self._reader is None:
            return
        ends: dict[int, int] = {}
        for name, part in (self._parts or {}).items():
            if part.number is not None and f"{name}.".startswith(prefix):
                if name in self.manifest.tensors:
                    entry = self.manifest.tensors[name]
                    end = entry.offset + entry.size_bytes - part.begin
                else:
                    experts = self.manifest.experts[name]
                    end = experts.offset + experts.count * experts.stride - part.begin
                ends[part.number] = max(ends.get(part.number, 0), end)
        for number, end in sorted(ends.items()):
            self._reader.wait_for(number, end)

    def has(self, name: str) -> bool:
        return name in self.manifest.tensors

    def matrix(self, name: str) -> tuple[int, str, int, int]:
        """Address, format, N and K (logical) of a matrix; "f32" is row by row without padding.

        The address is valid at once, what lies there after `wait_for(name)`; so it is with `experts`.
        """
        entry = self.manifest.tensors[name]
        return self._address(name, entry.offset), entry.format, *entry.matrix_shape

    def vector(self, name: str) -> NDArray[np.float32]:
        """An unquantised tensor in its logical shape: a view of the weights, not to be written to."""
        self.wait_for(name)
        entry = self.manifest.tensors[name]
        assert entry.format == F32, f"{name} is packed as {entry.format}"
        view = self._bytes(name, entry.offset, entry.size_bytes).view("<f4").reshape(entry.shape)
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
        return self._address(_layer_name(layer), entry.offset), entry.stride

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
        tiles = self._bytes(name, entry.offset, entry.size_bytes)
        return dequantise(tiles, entry.format, *entry.matrix_shape).reshape(entry.shape)

    def dequantised_expert(
        self, layer: int | str, expert: int, projection: Projection
    ) -> NDArray[np.float32]:
        """One projection of one expert, (N, K), in new memory."""
        self.wait_for(f"{_layer_name(layer)}.")
        entry = self.experts_entry(layer)
        part = entry.parts[projection]
        offset = entry.offset + expert * entry.stride + part.offset
        tiles = self._bytes(_layer_name(layer), offset, matrix_bytes(entry.format, *part.shape))
        return dequantise(tiles, entry.format, *part.shape)

    @property
    def layer_bytes(self) -> int:
        """Memory for the decoder layers without their experts: for those that stay, and for the buffers."""
        layers = layer_stretches(self.manifest, self.config.text.num_hidden_layers)
        streamed = {layer.index for layer in self.streamed}
        buffers = {layer.buffer: layer.memory.size for layer in self.streamed}
        return sum(buffers.values()) + sum(
            layer.size_bytes for index, layer in enumerate(layers) if index not in streamed
        )

    def close(self) -> None:
        """Let go of the memory: addresses are void from here on, arrays from `vector` keep it alive.

        To close twice is nothing.
        """
        self._parts = None
        if self._reader:
            self._reader.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _part(self, name: str) -> Part:
        assert self._parts is not None, "the model is closed"
        return self._parts[name]

    def _bytes(self, name: str, offset: int, size_bytes: int) -> Bytes:
        part = self._part(name)
        return part.data[offset - part.begin : offset - part.begin + size_bytes]

    def _address(self, name: str, offset: int) -> int:
        part = self._part(name)
        return int(part.data.ctypes.data) + offset - part.begin


def _draft_experts(folder: Path, manifest: Manifest, known: Set[str]) -> dict[str, Part]:
    """Experts of the MTP module that are nowhere else, in the system's cache: no store brings them."""
    found = {}
    for name, entry in manifest.experts.items():
        if name.startswith("mtp.") and name not in known:
            extent = Extent(folder / entry.file, manifest.files[entry.file].size_bytes)
            found[name] = Part(0, map_files([extent])[0])
    return found


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
