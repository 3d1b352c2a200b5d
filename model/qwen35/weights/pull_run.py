"""The weights' way in a pull: fetch, hash, pack, write, journal; and what an earlier run has left."""

import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwen35.cores import num_cores
from qwen35.errors import NetworkError, UnwritableError
from qwen35.weights.arrivals import Arrivals, Need, Unit, merged, units_of
from qwen35.weights.checksum import Checksum, combined
from qwen35.weights.file_hash import FileHash, WrongContent, wrong_content
from qwen35.weights.layout import Item, file_sizes
from qwen35.weights.loss import NO_LOSS, Loss
from qwen35.weights.manifest import FileEntry
from qwen35.weights.pack import check_room
from qwen35.weights.pack_plan import Plan
from qwen35.weights.pull_journal import Line, PullJournal
from qwen35.weights.remote import Hub, Repo
from qwen35.weights.remote_ahead import Run, fetch_ahead
from qwen35.weights.remote_folder import Remote
from qwen35.weights.slabs import AHEAD, Quantiser, Slab, Slabs
from qwen35.weights.tiles import matrix_bytes
from qwen35.weights.work_folder import DataFile, WorkFolder, writing

Stage = Literal["waiting", "checking", "fetching", "finishing"]
# Bytes done and in all, of packed files, or of the source's where they are fetched; of "waiting" units that
# the other process has written.
OnProgress = Callable[[Stage, int, int], None]

_PIECE = 4 << 20


@dataclass(slots=True)
class PullRun:
    """Mutable; one owner, which holds the lock of `work`. `units[i]` is described by `journal.lines[i]`."""

    hub: Hub
    repo: Repo
    remote: Remote
    plan: Plan
    work: WorkFolder
    journal: PullJournal
    show: OnProgress
    units: list[Unit]
    needs: list[list[Need]]  # of each unit
    bytes_fetched: int = 0
    bytes_resumed: int = 0
    _hashes: list[FileHash] = field(default_factory=list)
    _files: dict[str, io.FileIO] = field(default_factory=dict)
    _marked: list[tuple[int, str | None]] = field(default_factory=list)  # of units: position, state of hash
    _checksum: Checksum = field(default_factory=Checksum)  # of the unit that is being written
    _loss: Loss = NO_LOSS

    @classmethod
    def prepare(
        cls,
        hub: Hub,
        repo: Repo,
        remote: Remote,
        plan: Plan,
        work: WorkFolder,
        journal: PullJournal,
        show: OnProgress,
    ) -> "PullRun":
        paths = [Path(repo.name) / file.name for file in remote.weights]
        pairs = units_of(plan.items, plan.reader, paths)
        units, needs = [unit for unit, _ in pairs], [own for _, own in pairs]
        return cls(hub, repo, remote, plan, work, journal, show, units, needs)

    def work_through(self, quantiser: Quantiser, num_threads: int | None) -> dict[str, FileEntry]:
        """Until all weights are in the data files. Returns their sizes and checksums."""
        with ExitStack() as opened:
            with writing(self.work.root):
                self.work.files.mkdir(parents=True, exist_ok=True)
                for name, size_bytes in file_sizes(self.plan.items).items():
                    self._files[name] = opened.enter_context(_open(self.work.files / name, size_bytes))
                num_there = self._check_earlier()
                self.journal.cut(num_there)
                written = sum(unit.part.size_bytes for unit in self.units[:num_there])
                check_room(self.plan, self.work, written)
            self._resume_hashes()
            self._fetch(num_there, quantiser, num_threads or num_cores())
            if num_there:
                with writing(self.work.root):
                    self._clear_gaps()
        return self._finish()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Files that could not be compared with the hub's hash."""
        used = {unit.last[0] for unit in self.units}
        return tuple(
            own.file.name for index, own in enumerate(self._hashes) if index in used and not own.can_tell
        )

    def written(self) -> tuple[list[str], list[Loss]]:
        """Checksums and losses of the plan's items, in their order."""
        lines = {id(unit.part): line for unit, line in zip(self.units, self.journal.lines, strict=True)}

        def loss(item: Item) -> Loss:
            return sum((lines[id(part)].loss for part in item.parts), NO_LOSS)

        checksums = [
            combined((part.offset, lines[id(part)].checksum) for part in item.parts)
            for item in self.plan.items
        ]
        return checksums, [loss(item) for item in self.plan.items]

    def _check_earlier(self) -> int:
        """How many units of earlier runs are on the disk as the journal says, from the first on."""
        claimed = self.units[: len(self.journal.lines)]
        total, done = sum(unit.part.size_bytes for unit in claimed), 0
        for index, unit in enumerate(claimed):
            file, rest, checksum = self._files[unit.item.file], unit.part.size_bytes, Checksum()
            file.seek(unit.offset)
            while rest and (piece := file.read(min(rest, _PIECE))):
                checksum.update(piece)
                rest -= len(piece)
            if checksum.hexdigest() != self.journal.lines[index].checksum:
                return index
            done += unit.part.size_bytes
            self.show("checking", done, total)
        return len(claimed)

    def _resume_hashes(self) -> None:
        """Where each file's hash stands; a file that is through is compared. Raises NetworkError."""
        lines: list[list[Line]] = [[] for _ in self.remote.weights]
        for unit, line in zip(self.units, self.journal.lines, strict=False):
            lines[unit.last[0]].append(line)
        for file, own in zip(self.remote.weights, lines, strict=True):
            self._hashes.append(FileHash.begin(file, self.remote.headers[file.name], own))
        for index, file_hash in enumerate(self._hashes):
            if file_hash.position == file_hash.file.size_bytes:
                self._compare(index)

    def _fetch(self, first: int, quantiser: Quantiser, num_threads: int) -> None:
        """All units from `first` on."""
        arrivals = Arrivals([need for own in self.needs[first:] for need in own])
        wanted, total = self._wanted(arrivals)
        self.bytes_resumed = sum(
            self.plan.reader.source_bytes(unit.part.place, unit.part.n * unit.part.k)
            for unit in self.units[:first]
        )
        self._marked = [(line.hashed, line.state) for line in self.journal.lines]
        slabs = Slabs(self.plan.reader.by(arrivals.read_into), quantiser, num_threads)
        waiting: deque[tuple[Need, Future[Slab]]] = deque()
        pool = ThreadPoolExecutor(num_threads, "pack")
        self.show("fetching", 0, total)
        try:
            with closing(fetch_ahead(self.hub, self.repo, wanted)) as fetched:
                for piece, data in fetched:
                    self.bytes_fetched += len(data)
                    index = self.remote.weights.index(piece.file)
                    self._hash(index, piece, data)
                    path = Path(self.repo.name) / piece.file.name
                    for need in arrivals.add(path, piece.begin, data):
                        part = self.units[need.unit].part
                        waiting.append((need, pool.submit(slabs.pack, part, need.begin, need.end)))
                    while waiting and (len(waiting) > AHEAD * num_threads or waiting[0][1].done()):
                        self._write(arrivals, *waiting.popleft())
                    self.show("fetching", self.bytes_fetched, total)
        except WrongContent:
            waiting.clear()
            raise
        except NetworkError:
            self._write_all(arrivals, waiting)  # what has come is kept
            raise
        else:
            self._write_all(arrivals, waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _wanted(self, arrivals: Arrivals) -> tuple[list[Run], int]:
        """What has to be fetched, in order, and how many bytes that is.

        Of each file all that was not hashed yet, so that its hash can be told; and what lies before, of units
        that wait for something else.
        """
        found: list[Run] = []
        for file, own in zip(self.remote.weights, self._hashes, strict=True):
            spans = list(arrivals.wanted(Path(self.repo.name) / file.name))
            is_begun = own.position > len(self.remote.headers[file.name])
            if own.own is None:
                runs = merged(spans, file.size_bytes)
            elif spans or is_begun:
                runs = [*merged(spans, own.position), (own.position, file.size_bytes)]
            else:
                runs = []  # nothing of it is needed
            found.extend(Run(file, begin, end) for begin, end in runs)
        return found, sum(run.end - run.begin for run in found)

    def _hash(self, index: int, piece: Run, data: memoryview) -> None:
        """Go on with a file's hash, and note where it stands at the end of each unit."""
        own = self._hashes[index]
        while len(self._marked) < len(self.units):
            file_index, end = self.units[len(self._marked)].last
            if (file_index, end) > (index, piece.end):
                break
            if file_index == index:
                own.take(piece.begin, data, end)
            own_of_unit = self._hashes[file_index]
            self._marked.append((own_of_unit.position, own_of_unit.state))
        own.take(piece.begin, data, piece.end)
        if own.position == own.file.size_bytes and piece.end == own.file.size_bytes:
            self._compare(index)

    def _compare(self, index: int) -> None:
        """Raise NetworkError for a file that is not the hub's, and forget the units that it gave."""
        own = self._hashes[index]
        if own.is_wrong:
            first = next(number for number, unit in enumerate(self.units) if unit.last[0] == index)
            with writing(self.work.root):
                self.journal.cut(min(first, len(self.journal.lines)))
            raise wrong_content(self.repo.name, own.file)

    def _write(self, arrivals: Arrivals, need: Need, future: Future[Slab]) -> None:
        slab, unit = future.result(), self.units[need.unit]
        arrivals.release(need)
        file, rest = self._files[unit.item.file], memoryview(slab.data)
        self._checksum.update(slab.data)
        self._loss += slab.loss
        with writing(self.work.root):
            file.seek(unit.offset + matrix_bytes(unit.part.format, need.begin, unit.part.k))
            while len(rest):
                rest = rest[file.write(rest) :]
            if need.end == unit.part.n:
                hashed, state = self._marked[need.unit]
                line = Line(
                    self._checksum.hexdigest(), self._loss.squared_error, self._loss.squares, hashed, state
                )
                self.journal.add(line)
                self._checksum, self._loss = Checksum(), NO_LOSS

    def _write_all(self, arrivals: Arrivals, waiting: deque[tuple[Need, Future[Slab]]]) -> None:
        while waiting:
            self._write(arrivals, *waiting.popleft())

    def _clear_gaps(self) -> None:
        """Zeros between units: an earlier run, or the disk, may have left anything there."""
        ends = dict.fromkeys(self._files, 0)
        for unit in sorted(self.units, key=lambda unit: (unit.item.file, unit.offset)):
            name = unit.item.file
            self._files[name].seek(ends[name])
            self._files[name].write(bytes(unit.offset - ends[name]))
            ends[name] = unit.offset + unit.part.size_bytes
        for name, size_bytes in file_sizes(self.plan.items).items():
            self._files[name].seek(ends[name])
            self._files[name].write(bytes(size_bytes - ends[name]))

    def _finish(self) -> dict[str, FileEntry]:
        """Read all of it back: what was written is on the disk, and the files get their SHA-256."""
        sizes = file_sizes(self.plan.items)
        total, done = sum(sizes.values()), 0
        entries: dict[str, FileEntry] = {}
        checksums, _ = self.written()
        with writing(self.work.root):
            for name, size_bytes in sizes.items():
                with closing(DataFile(self.work.files / name)) as file:
                    for item, checksum in zip(self.plan.items, checksums, strict=True):
                        if item.file != name:
                            continue
                        if not file.check(item.offset, item.size_bytes, checksum):
                            raise _not_as_written(self.work.files / name)
                        done += item.size_bytes
                        self.show("finishing", done, total)
                    entries[name] = FileEntry(size_bytes, file.finish(size_bytes))
        return entries


def _open(path: Path, size_bytes: int) -> io.FileIO:
    """To be written anywhere; what is not written is zeros."""
    file = io.FileIO(path, "r+" if path.exists() else "w+")
    file.truncate(size_bytes)
    return file


def _not_as_written(path: Path) -> UnwritableError:
    return UnwritableError(
        f"{path}: does not read back as it was written. Is the disk failing? Run the same command again: "
        "what is whole is kept.",
        path=str(path),
    )
