"""Which experts are in memory, and how the others get there.

Each layer keeps the experts that were chosen most, as many as its equal share of the arena holds, by counts
that fade from token to token: of a long prompt, which needs nearly all experts, what its end needed.
(benchmarks/expert_policies.py measures this against other policies.) What a call needs beside them is read
into slots that no layer owns, and stays where it now counts more than another.

The disk would rest while a layer is computed, as the next one's experts are chosen after its mixer. So some
of these are guessed, and read behind what the layer itself waits for.
"""

import time
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import DoesNotFit
from qwen35.events import ExpertUse
from qwen35.experts.counts import FadingCounts
from qwen35.experts.files import RecordFile
from qwen35.experts.guesses import Guesses
from qwen35.experts.hot import read_hot, write_hot
from qwen35.experts.readers import Check, Read, Readers, ThreadReaders
from qwen35.experts.room import Room
from qwen35.memory import allocate, release
from qwen35.weights.manifest import ExpertsEntry

BATCH = 16  # experts that are computed while as many are being read
STAGING = 2 * BATCH  # slots that no layer owns, or as many as a layer has experts
STEPS = 32  # in which the arena grows from nothing to its full size


class ExpertStore:
    """The experts of all layers behind one arena of slots. Mutable; one owner, who calls from one thread.

    `tables[layer]` (E) are the addresses of the records that are in memory, as the kernels take them.
    """

    def __init__(
        self,
        folder: Path,
        layers: Sequence[ExpertsEntry],
        num_bytes: int,
        *,
        ram_bytes: int | None = None,
        hot: Path | None = None,
        readers: Readers | None = None,
    ) -> None:
        """An arena of `num_bytes` for the experts of all layers, whose records lie in `folder`.

        The `readers` are closed with it; without any Python's threads read. With `ram_bytes` it gives room
        back where the process grows beyond that. `hot`: a file that says what the last run had in memory,
        which is read ahead, and what this one has, when it is closed. Raises DoesNotFit, and CheckpointError.
        """
        self._layers = layers
        self._stride = max(entry.stride for entry in layers)
        num_experts = [entry.count for entry in layers]
        self._staging = min(STAGING, max(num_experts))
        num_slots = min(num_bytes // self._stride, sum(num_experts) + self._staging)
        assert num_slots > 0, "the placement leaves room for one expert at least"
        try:
            self._memory = allocate(num_slots * self._stride)
        except (OSError, ValueError, MemoryError, OverflowError):
            raise DoesNotFit(
                f"No memory for {num_bytes / 1e9:.1f} GB of experts. Use a smaller --ram."
            ) from None
        self._arena = np.frombuffer(self._memory, np.uint8)
        self._address = self._arena.ctypes.data
        self._free = list(range(num_slots - 1, -1, -1))
        self._num_slots = self._most_slots = num_slots
        self._given_back: list[int] = []  # slots whose memory the system has
        self._share = self._share_of(num_slots)
        self.tables = [np.zeros(count, np.uintp) for count in num_experts]
        # Plain numbers, here and in counts and guesses: of a token's few choices arrays cost more than loops.
        self._slots: list[dict[int, int]] = [{} for _ in layers]  # by expert, of those that are in memory
        self._counts = [FadingCounts(count) for count in num_experts]
        self._room = Room(ram_bytes)
        self._ahead: list[dict[int, tuple[int, Read]]] = [{} for _ in layers]  # on their way, for later
        self._guesses = [Guesses() for _ in layers]
        self._guessed_for = 0
        self._guessed: dict[int, tuple[int, Read]] = {}  # on their way for the next call, of that layer
        self._strays: list[tuple[int, Read]] = []  # slots that are being read into for nobody
        self._files = {name: RecordFile(str(folder / name)) for name in {entry.file for entry in layers}}
        self._readers = readers or ThreadReaders()
        self._hits = self._misses = self._bytes_read = self._bytes_wasted = 0
        self._stall_s = 0.0
        self._hot = hot
        if hot:
            self.read_ahead(read_hot(hot))

    @property
    def use(self) -> ExpertUse:
        arena_bytes = self._num_slots * self._stride
        return ExpertUse(
            self._hits, self._misses, self._bytes_read, self._stall_s, arena_bytes, self._bytes_wasted
        )

    @property
    def is_direct(self) -> bool:
        """Whether records pass by the system's cache."""
        return all(file.is_direct for file in self._files.values())

    def wants_guess(self, layer: int) -> bool:
        """Whether `guess` may be of use before the next `fetch`, of this layer."""
        return len(self._slots[layer]) < self._layers[layer].count and self._guesses[layer].is_due()

    def guess(self, layer: int, guessed: NDArray[np.int32]) -> None:
        """Begin to read what the next `fetch`, of this layer, is likely to want.

        `guessed` (M, A): by rank, what its router says before its turn. To be called when the layer before
        it has its experts, or the first of their batches.
        """
        self._let_go(list(self._guessed))
        self._guessed_for = layer
        begun = {}
        slots, rows = self._slots[layer], guessed.tolist()
        is_missing = [[expert not in slots for expert in row] for row in rows]
        for expert in self._guesses[layer].likely(rows, is_missing):
            if len(self._free) <= self._staging // 2:
                break
            if expert not in self._ahead[layer]:
                slot = self._free.pop()
                begun[expert] = slot, self._read(layer, expert, slot)
        if begun:
            self._readers.submit([read for _, read in begun.values()], is_urgent=False)
            self._guessed = begun  # after Ctrl-C before this nobody takes them for read

    def fetch(self, layer: int, chosen: NDArray[np.int32]) -> Generator[NDArray[np.uint8]] | None:
        """Bring the experts `chosen` (M, A) into memory, in batches: masks (E) of those that are there.

        Each of them is in one of the batches, and there until the next is asked for. The first holds those
        that need not be read, and may be empty. None where all of them are there and stay. The batches raise
        CheckpointError where a record cannot be read or is damaged.
        """
        slots = self._slots[layer]
        self._counts[layer].add(chosen)
        self._guesses[layer].judge(chosen)
        needed: list[int] = np.unique(chosen).tolist() if len(chosen) > 1 else sorted(chosen[0].tolist())
        self._collect(layer)
        missing = [expert for expert in needed if expert not in slots]
        self._hits += len(needed) - len(missing)
        self._misses += len(missing)
        if self._guessed:
            self._take_guessed(layer, missing)
        if not missing:
            if not self._ahead[layer] and len(slots) <= self._share:
                return None  # the usual case: nothing has to go
            if self._keep(layer, needed).issuperset(needed):
                return None
        return self._batches(layer, needed, missing)

    def _batches(self, layer: int, needed: Sequence[int], missing: list[int]) -> Generator[NDArray[np.uint8]]:
        slots = self._slots[layer]
        coming: list[tuple[int, int, Read]] = []
        kept: Container[int] = range(self._layers[layer].count)
        try:
            missing = self._join(layer, missing, coming)
            self._submit(layer, missing, coming)  # before anything else: the disk is what is waited for
            kept = self._keep(layer, needed)
            here = [expert for expert in needed if expert in slots]
            yield self._mask(layer, here)
            for expert in here:
                if expert not in kept:
                    self._drop(layer, expert)
            while missing or coming:
                self._submit(layer, missing, coming)
                assert coming, "a slot is free for what is missing"
                batch = self._arrived(coming, all_of_them=not missing and len(coming) <= BATCH)
                for expert, slot, _ in batch:
                    self._place(layer, expert, slot)
                yield self._mask(layer, [expert for expert, _, _ in batch])
                for expert, _, _ in batch:
                    if expert not in kept:
                        self._drop(layer, expert)
        finally:
            # After an error, or where nobody asked on.
            self._readers.cancel([read for _, _, read in coming])
            self._free += [slot for _, slot, _ in coming]
            for expert in [expert for expert in slots if expert not in kept]:
                self._drop(layer, expert)

    def _mask(self, layer: int, experts: list[int]) -> NDArray[np.uint8]:
        mask = np.zeros(self._layers[layer].count, np.uint8)
        mask[experts] = 1
        return mask

    def read_ahead(self, wanted: Mapping[int, Sequence[int]]) -> None:
        """Begin to read experts, by layer, that are likely to be needed: as many as there is room for."""
        for layer, experts in wanted.items():
            if not 0 <= layer < len(self._layers):
                continue
            for expert in [e for e in experts if 0 <= e < self._layers[layer].count][: self._share]:
                is_new = expert not in self._slots[layer] and expert not in self._ahead[layer]
                if is_new and len(self._free) > self._staging:
                    slot = self._free.pop()
                    read = self._read(layer, expert, slot)
                    self._ahead[layer][expert] = slot, read
                    self._readers.submit([read], is_urgent=False)

    def hot(self) -> dict[int, list[int]]:
        """By layer, the experts that are in memory, the most chosen first."""
        return {layer: self._by_count(layer, slots) for layer, slots in enumerate(self._slots)}

    def make_room(self) -> None:
        """Shrink where this process is larger than it may be, or others need the memory; or grow again.

        To be called between two steps of the model. It grows only when all of the arena is in use: what it
        has not touched yet is still counted as free.
        """
        step = -(-self._most_slots // STEPS) * self._stride
        is_full = len(self._free) < self._staging + len(self._layers)
        change = self._room.change(step, may_grow=bool(self._given_back) and is_full)
        if change < 0:
            self.shrink(-change)
        elif change > 0:
            self.grow(change)

    def shrink(self, num_bytes: int) -> None:
        """Give back at least `num_bytes` of the arena, or as much as can be missed, to the system."""
        least = self._staging + len(self._layers)
        goal = max(least, self._num_slots - -(-num_bytes // self._stride))
        if goal >= self._num_slots:
            return
        self._share = self._share_of(goal)
        for layer, slots in enumerate(self._slots):
            self._collect(layer)
            for expert in self._by_count(layer, slots)[self._share :]:
                self._drop(layer, expert)
            for expert in list(self._ahead[layer])[max(0, self._share - len(slots)) :]:
                slot, read = self._ahead[layer].pop(expert)
                self._readers.cancel([read])
                self._free.append(slot)
        # What is read for a call goes through free slots: without them it would wait for ever.
        while self._num_slots > goal and len(self._free) > self._staging:
            self._given_back.append(self._free.pop())
            release(self._memory, *self._bounds(self._given_back[-1]))
            self._num_slots -= 1

    def grow(self, num_bytes: int) -> None:
        """Take at most `num_bytes` of what was given back again."""
        count = min(len(self._given_back), num_bytes // self._stride)
        for _ in range(count):
            self._free.append(self._given_back.pop())
        self._num_slots += count
        self._share = self._share_of(self._num_slots)

    def close(self) -> None:
        """End all reads. To close twice is nothing."""
        self.save_hot()
        self._hot = None
        self._readers.close()
        for file in self._files.values():
            file.close()
        self._files = {}

    def save_hot(self) -> None:
        """Say in the file for it what is in memory now. Quick, and right at any moment."""
        if self._hot and self._misses:
            write_hot(self._hot, self.hot())

    def _share_of(self, num_slots: int) -> int:
        return max(0, num_slots - self._staging) // len(self._layers)

    def _by_count(self, layer: int, experts: Iterable[int]) -> list[int]:
        """The most chosen first, the first of those that were chosen as often."""
        counts = self._counts[layer].values
        return sorted(experts, key=lambda expert: (-counts[expert], expert))

    def _keep(self, layer: int, needed: Sequence[int]) -> set[int]:
        """Drop what the layer will not own after this call, but for what it needs now.

        It will own those that were chosen most: returns them.
        """
        slots = self._slots[layer]
        kept = {*slots, *needed}
        room = max(0, self._share - sum(expert not in needed for expert in self._ahead[layer]))
        if len(kept) > room:
            kept = {*self._by_count(layer, kept)[:room]}
        for expert in slots.keys() - kept - {*needed}:
            self._drop(layer, expert)
        return kept

    def _collect(self, layer: int) -> None:
        """Take over what was read ahead and is there."""
        if not self._ahead[layer]:
            return
        for expert, (slot, read) in list(self._ahead[layer].items()):
            if self._readers.is_done(read):
                del self._ahead[layer][expert]
                if read.error is None:
                    self._place(layer, expert, slot)
                else:  # whoever needs it will read it again, and say what is wrong
                    self._free.append(slot)

    def _take_guessed(self, layer: int, missing: list[int]) -> None:
        """Of what was guessed, take out of `missing` what is there, and let go what is not in it."""
        is_this = layer == self._guessed_for
        self._let_go([expert for expert in self._guessed if not (is_this and expert in missing)])
        for expert, (slot, read) in list(self._guessed.items()):
            if self._readers.is_done(read) and read.error is None:
                del self._guessed[expert]
                self._place(layer, expert, slot)
                missing.remove(expert)

    def _let_go(self, experts: list[int]) -> None:
        """Of these guesses nobody wants to know any more. Slots are free when nobody reads into them.

        In this order: after Ctrl-C in between a slot may be lost, but none is free twice.
        """
        if not experts and not self._strays:
            return
        strays = [self._guessed.pop(expert) for expert in experts]
        unread = set(self._readers.take_back([read for _, read in strays]))
        for slot, read in strays:
            num_bytes = read.memory.nbytes
            if read in unread:
                self._bytes_read -= num_bytes
                self._free.append(slot)
            else:
                self._bytes_wasted += num_bytes
                self._strays.append((slot, read))
        ended = [slot for slot, read in self._strays if self._readers.is_done(read)]
        self._strays = [(slot, read) for slot, read in self._strays if slot not in ended]
        self._free += ended

    def _join(self, layer: int, missing: list[int], coming: list[tuple[int, int, Read]]) -> list[int]:
        """Wait with the others for what is on its way already. Returns the rest of the missing ones."""
        rest = []
        for expert in missing:
            on_its_way = self._guessed if expert in self._guessed else self._ahead[layer]
            if expert in on_its_way:
                slot, read = on_its_way.pop(expert)
                self._readers.hurry([read])
                coming.append((expert, slot, read))
            else:
                rest.append(expert)
        return rest

    def _submit(self, layer: int, missing: list[int], coming: list[tuple[int, int, Read]]) -> None:
        """Begin as many reads as there are free slots."""
        first = len(coming)
        while missing and self._free and len(coming) < self._staging:
            expert, slot = missing.pop(0), self._free.pop()
            coming.append((expert, slot, self._read(layer, expert, slot)))
        if first < len(coming):
            self._readers.submit([read for _, _, read in coming[first:]], is_urgent=True)

    def _arrived(
        self, coming: list[tuple[int, int, Read]], *, all_of_them: bool
    ) -> list[tuple[int, int, Read]]:
        """Wait for the next batch of reads, and take it out of `coming`."""
        start = time.perf_counter()
        batch = coming[: len(coming) if all_of_them else max(1, min(BATCH, len(coming) // 2))]
        self._readers.wait([read for _, _, read in batch])
        self._stall_s += time.perf_counter() - start
        for _, _, read in batch:
            if read.error is not None:
                raise read.error
        del coming[: len(batch)]
        return batch

    def _bounds(self, slot: int) -> tuple[int, int]:
        return slot * self._stride, (slot + 1) * self._stride

    def _place(self, layer: int, expert: int, slot: int) -> None:
        self._slots[layer][expert] = slot
        self.tables[layer][expert] = self._address + slot * self._stride

    def _drop(self, layer: int, expert: int) -> None:
        slot = self._slots[layer].pop(expert)
        self.tables[layer][expert] = 0
        self._free.append(slot)  # last: after Ctrl-C in between it may be lost, but is not owned and free

    def _read(self, layer: int, expert: int, slot: int) -> Read:
        entry = self._layers[layer]
        begin, _ = self._bounds(slot)
        record = self._arena[begin : begin + entry.stride]

        check = Check(0, entry.stride, entry.checksums[expert], f"expert {expert} of layer {layer}")
        self._bytes_read += entry.stride
        return Read(self._files[entry.file], entry.offset + expert * entry.stride, record, [check])
