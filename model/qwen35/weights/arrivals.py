"""Bytes of remote files as they come, in order, and the slabs that can be packed from them.

A slab needs spans of files: of unquantised weights its own rows, of others all that its tensor is made of.
A unit is what is journaled and resumed as one: all slabs of a part. Units are in the order in which they can
be finished, which is that of the files.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwen35.errors import CheckpointError
from qwen35.weights.layout import Item, Part
from qwen35.weights.rows import RowReader, Span
from qwen35.weights.slabs import cut

Position = tuple[int, int]  # index of a file, byte in it


@dataclass(frozen=True, slots=True)
class Need:
    """A slab, rows [begin, end) of its unit's part, and where its numbers come from."""

    unit: int
    begin: int
    end: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of an item; `last` is where the last byte comes from that it needs, exclusive."""

    item: Item
    part: Part
    last: Position

    @property
    def offset(self) -> int:
        """In the data file."""
        return self.item.offset + self.part.offset


def units_of(
    items: Sequence[Item], reader: RowReader, files: Sequence[Path]
) -> list[tuple[Unit, list[Need]]]:
    """All parts of `items`, sorted; what each needs lies in `files`, which are fetched in this order."""
    index = {path: number for number, path in enumerate(files)}
    found: list[tuple[Unit, list[Need]]] = []
    for item in items:
        for part in item.parts:
            needs = [
                Need(0, begin, end, reader.spans(part.place, part.k, begin, end)) for begin, end in cut(part)
            ]
            last = max((index[s.path], s.end) for need in needs for s in need.spans)
            found.append((Unit(item, part, last), needs))
    found.sort(key=lambda pair: pair[0].last)
    return [
        (unit, [Need(number, need.begin, need.end, need.spans) for need in needs])
        for number, (unit, needs) in enumerate(found)
    ]


@dataclass(slots=True)
class _Held:
    """A span that is needed, and as much of it as has come."""

    span: Span
    memory: bytearray = field(default_factory=bytearray)
    num_missing: int = -1  # bytes; -1: none has come yet
    needs: list[int] = field(default_factory=list)


class Arrivals:
    """Mutable. `add` and `release` belong to one thread; `read_into` may be called from several."""

    def __init__(self, needs: Sequence[Need]) -> None:
        self._needs = needs
        self._missing = [len(set(need.spans)) for need in needs]  # spans, of each slab
        held: dict[Span, _Held] = {}
        for number, need in enumerate(needs):
            for span in need.spans:
                own = held.setdefault(span, _Held(span))
                if not own.needs or own.needs[-1] != number:
                    own.needs.append(number)
        self._waiting: dict[Path, list[_Held]] = {}  # by file, the next one last
        for own in sorted(held.values(), key=lambda own: own.span.begin, reverse=True):
            self._waiting.setdefault(own.span.path, []).append(own)
        self._coming: dict[Path, list[_Held]] = {}
        self._there: dict[Path, dict[int, _Held]] = {}  # by file and begin
        self._by_span = held
        self._lock = threading.Lock()

    def wanted(self, path: Path) -> Iterator[Span]:
        """What is needed of a file, by where it begins."""
        return (own.span for own in reversed(self._waiting.get(path, ())))

    def add(self, path: Path, begin: int, data: memoryview) -> list[Need]:
        """Bytes of a file from `begin` on. Returns the slabs that lack nothing any more, in their order."""
        end = begin + len(data)
        waiting, coming = self._waiting.get(path, []), self._coming.setdefault(path, [])
        while waiting and waiting[-1].span.begin < end:
            own = waiting.pop()
            size = own.span.end - own.span.begin
            own.memory, own.num_missing = bytearray(size), size
            coming.append(own)
        ready: list[int] = []
        for own in coming:
            first, last = max(begin, own.span.begin), min(end, own.span.end)
            if first < last:
                at = first - own.span.begin
                own.memory[at : at + last - first] = data[first - begin : last - begin]
                own.num_missing -= last - first
            if own.num_missing == 0:
                with self._lock:
                    self._there.setdefault(path, {})[own.span.begin] = own
                for number in own.needs:
                    self._missing[number] -= 1
                    if self._missing[number] == 0:
                        ready.append(number)
        self._coming[path] = [own for own in coming if own.num_missing]
        return [self._needs[number] for number in sorted(ready)]

    def release(self, need: Need) -> None:
        """That slab is packed: let go of what no other one needs."""
        for span in set(need.spans):
            own = self._by_span[span]
            own.needs.pop()  # their number alone counts from now on
            if not own.needs:
                with self._lock:
                    del self._there[span.path][span.begin], self._by_span[span]

    def read_into(self, path: Path, offset: int, memory: memoryview) -> None:
        """As `reading.read_into`, of what has come."""
        with self._lock:
            there = self._there.get(path, {})
            own = there.get(offset)
            if own is None:
                begins = sorted(there)
                at = bisect_right(begins, offset) - 1
                own = there[begins[at]] if at >= 0 else None
        end = offset + len(memory)
        if own is None or end > own.span.end:
            raise CheckpointError(f"{path}: bytes {offset:,} to {end:,} were not foreseen.", path=str(path))
        first = offset - own.span.begin
        memory[:] = memoryview(own.memory)[first : first + len(memory)]


def merged(spans: Iterable[Span], end: int) -> list[tuple[int, int]]:
    """What of `spans` (of one file, sorted) lies before `end`, each byte once."""
    runs: list[tuple[int, int]] = []
    for span in spans:
        first, last = span.begin, min(span.end, end)
        if first < last and runs and first <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(runs[-1][1], last)
        elif first < last:
            runs.append((first, last))
    return runs
