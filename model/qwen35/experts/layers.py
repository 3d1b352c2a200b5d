"""Decoder layers that do not fit into memory: read from disk at every step, each while others are computed.

A layer is computed from its buffer; then the buffer is for the layer after the next on the disk. Where the
disk is slower than the computation, as with one token at a time, it never rests.
"""

import time
from collections.abc import Iterator

from qwen35.events import ExpertUse
from qwen35.experts.files import RecordFile
from qwen35.experts.readers import Check, Read, Readers, ThreadReaders
from qwen35.weights.layout import PAGE
from qwen35.weights.manifest import TensorEntry
from qwen35.weights.packed import PackedModel, StreamedLayer
from qwen35.weights.placement import NUM_BUFFERS

PIECE = 2 << 20  # bytes that are read at once, at least: tensors are not parted


class LayerStream:
    """Brings the layers that `weights` streams to their addresses.

    A step goes through the layers in order, and `enter`s and `leave`s each of them. One that was given up
    half-way does no harm to the next. Mutable; one owner, who calls from one thread.
    """

    def __init__(self, weights: PackedModel, readers: Readers | None = None) -> None:
        """Begin to read the first layers, by `readers`, which are closed with it, or by Python's threads.

        Raises CheckpointError.
        """
        assert len(weights.streamed) > NUM_BUFFERS, "the placement streams no fewer"
        self._layers = weights.streamed
        self._places = {layer.index: place for place, layer in enumerate(self._layers)}
        tensors = weights.manifest.tensors
        self._pieces = [
            list(_pieces({name: tensors[name] for name in layer.stretch.names})) for layer in self._layers
        ]
        self._holds: list[int | None] = [None] * NUM_BUFFERS  # the place of the layer that is read into it
        self._reads: list[list[Read]] = [[] for _ in range(NUM_BUFFERS)]
        self._hits = self._misses = self._bytes_read = 0
        self._stall_s = 0.0
        self._arena_bytes = weights.layer_bytes
        names = {layer.stretch.file for layer in self._layers}
        self._files = {name: RecordFile(str(weights.folder / name)) for name in names}
        self._readers = readers or ThreadReaders()
        for place in range(NUM_BUFFERS):
            self._begin(place)

    @property
    def use(self) -> ExpertUse:
        """Of layers instead of experts: each counted once in a step."""
        return ExpertUse(self._hits, self._misses, self._bytes_read, self._stall_s, self._arena_bytes)

    @property
    def is_direct(self) -> bool:
        """Whether layers pass by the system's cache."""
        return all(file.is_direct for file in self._files.values())

    def enter(self, index: int) -> None:
        """Return when the layer is in memory, where it stays until `leave`.

        Raises CheckpointError where it cannot be read or is damaged.
        """
        place = self._places.get(index)
        if place is None:
            self._hits += 1
            return
        self._misses += 1
        buffer = self._layers[place].buffer
        if self._holds[buffer] != place:  # after a step that was given up
            self._begin(place)
        start = time.perf_counter()
        self._readers.hurry(self._reads[buffer])
        self._readers.wait(self._reads[buffer])
        self._stall_s += time.perf_counter() - start
        for read in self._reads[buffer]:
            if read.error is not None:
                self._holds[buffer] = None  # whoever asks again will read it again
                raise read.error

    def leave(self, index: int) -> None:
        """The layer has been computed: begin to read the next one of its buffer, perhaps of the next step."""
        place = self._places.get(index)
        if place is not None:
            after = place + NUM_BUFFERS
            self._begin(after if after < len(self._layers) else self._layers[place].buffer)

    def close(self) -> None:
        """End all reads. To close twice is nothing."""
        self._readers.close()
        for file in self._files.values():
            file.close()
        self._files = {}

    def _begin(self, place: int) -> None:
        """Let the layer come into its buffer, whatever is there or on its way there."""
        layer = self._layers[place]
        self._holds[layer.buffer] = None
        self._readers.cancel(self._reads[layer.buffer])
        # Known before they are submitted: an interrupt in between leaves none that nobody waits for.
        reads = [self._read(layer, tensors) for tensors in self._pieces[place]]
        self._reads[layer.buffer] = reads
        self._readers.submit(reads, is_urgent=False)
        self._bytes_read += layer.stretch.size_bytes
        self._holds[layer.buffer] = place

    def _read(self, layer: StreamedLayer, tensors: dict[str, TensorEntry]) -> Read:
        """Of tensors side by side, with the pages around them."""
        entries = list(tensors.values())
        first = entries[0].offset // PAGE * PAGE
        last = -(-(entries[-1].offset + entries[-1].size_bytes) // PAGE) * PAGE
        checks = [
            Check(entry.offset - first, entry.offset - first + entry.size_bytes, entry.checksum, f"'{name}'")
            for name, entry in tensors.items()
        ]
        memory = layer.memory[first - layer.stretch.begin : last - layer.stretch.begin]
        return Read(self._files[layer.stretch.file], first, memory, checks)


def _pieces(tensors: dict[str, TensorEntry]) -> Iterator[dict[str, TensorEntry]]:
    """Tensors to be read at once, in the order of the file. No page is in two pieces."""
    piece: dict[str, TensorEntry] = {}
    size_bytes = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].offset):
        if size_bytes >= PIECE and entry.offset % PAGE == 0:
            yield piece
            piece, size_bytes = {}, 0
        piece[name] = entry
        size_bytes += entry.size_bytes
    yield piece
