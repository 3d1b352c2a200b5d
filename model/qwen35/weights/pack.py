"""A source to a packed folder: item by item, in bounded memory, resumable, whole or not there.

The road: headers to a `Source`, its shapes to a layout (`lay_out`), items to files in a work folder
(`WorkFolder`), then config and tokenizer, the manifest, and one rename.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen35.errors import CheckpointError, UnwritableError
from qwen35.processing.vocabulary import FILE as VOCABULARY
from qwen35.processing.vocabulary import compile_vocabulary
from qwen35.weights.checksum import Checksum
from qwen35.weights.layout import file_sizes
from qwen35.weights.loss import NO_LOSS, Loss
from qwen35.weights.manifest import MANIFEST, FileEntry, Manifest, is_packed
from qwen35.weights.pack_plan import Plan, default_quant, manifest_of, plan_pack
from qwen35.weights.packed import open_manifest
from qwen35.weights.quantize import quantise
from qwen35.weights.recipe import Quant
from qwen35.weights.slabs import Quantiser, Slabs
from qwen35.weights.source import Source
from qwen35.weights.sources.open import open_source
from qwen35.weights.work_folder import (
    DataFile,
    Journal,
    WorkFolder,
    locked,
    sync_folder,
    write_synced,
    writing,
)

Stage = Literal["checking", "packing"]
OnProgress = Callable[[Stage, int, int], None]  # bytes done and in all: of packed files, of the source's

_SPARE_BYTES = 32 << 20  # of the disk: tokenizer, manifest, the file system's own


@dataclass(frozen=True, slots=True)
class Packed:
    """What `pack` left. `num_resumed` items came from an earlier run; all did where `was_there`."""

    folder: Path
    manifest: Manifest
    num_resumed: int
    was_there: bool


def pack(
    source: Path | Source,
    target: Path,
    quant: Quant | None = None,
    *,
    quantiser: Quantiser = quantise,
    num_threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Packed:
    """Pack `source`, opened or not, into `target`, which is absent, empty, or this very pack, unfinished.

    `quant` None: `default_quant`. An interrupted pack goes on at the item where it stopped; one that is there
    already is left alone. `quantiser` is `quantise` or one that gives the same bits sooner. Memory: a few
    slabs of some MiB for each thread. Raises CheckpointError for the source, UnwritableError for the target.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    plan = plan_pack(opened, quant or default_quant(opened))
    target = target.expanduser().resolve()
    work = WorkFolder.beside(target)
    with locked(work, target):
        if there := finished(target, plan):
            work.remove()
            return Packed(target, there, len(plan.items), was_there=True)
        with writing(work.root):
            journal = Journal.open(work.journal, plan.source.identity)
        if journal is None:
            raise UnwritableError(
                f"{work.root}: holds an unfinished pack of another model or another --quant, or of a "
                "source that has changed. Delete it, or choose another folder.",
                path=str(work.root),
            )
        with ThreadPoolExecutor(1) as beside:  # a second of work that needs no weights
            small = beside.submit(small_files, opened)
            num_resumed, entries = _write_data(plan, work, journal, quantiser, num_threads, on_progress)
        if opened.version() != plan.version:
            raise CheckpointError(
                f"{opened.path}: its weight files changed while they were packed. Delete {work.root}, then "
                "pack again.",
                path=str(opened.path),
            )
        manifest = publish(plan, work, target, journal.checksums, journal.losses, entries, small.result())
    return Packed(target, manifest, num_resumed, was_there=False)


def publish(
    plan: Plan,
    work: WorkFolder,
    target: Path,
    checksums: Sequence[str],
    losses: Sequence[Loss],
    entries: dict[str, FileEntry],
    small: dict[str, bytes],
) -> Manifest:
    """All weights are there: add the small files, the manifest last, and let the target appear."""
    for name, data in small.items():
        entries[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
        with writing(work.root):
            write_synced(work.files / name, data)
    manifest = manifest_of(plan, checksums, losses, entries)
    with writing(work.root):
        write_synced(work.files / MANIFEST, manifest.to_bytes())
        sync_folder(work.files)
    with writing(target):
        if target.exists():  # empty: POSIX would replace it, Windows would not
            target.rmdir()
        work.files.rename(target)
        sync_folder(target.parent)
    work.remove()
    return manifest


def finished(target: Path, plan: Plan) -> Manifest | None:
    """The manifest where `target` is this very pack, finished; None where it is absent or empty.

    Raises UnwritableError where anything else is there.
    """
    with writing(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return None
    advice = "Choose another folder."
    if is_packed(target):
        advice = "Delete it, or choose another folder."
        try:
            manifest = open_manifest(target)
        except CheckpointError:
            what = "holds a packed model that is damaged"
        else:
            if manifest.source.identity == plan.source.identity:
                return manifest
            what = "holds another packed model"
    else:
        what = "is not empty" if target.is_dir() else "is a file"
    raise UnwritableError(f"{target}: {what}; nothing is overwritten. {advice}", path=str(target))


def _write_data(
    plan: Plan,
    work: WorkFolder,
    journal: Journal,
    quantiser: Quantiser,
    num_threads: int | None,
    on_progress: OnProgress | None,
) -> tuple[int, dict[str, FileEntry]]:
    """All items that are not there yet. Returns how many were, and the data files' sizes and checksums."""
    with writing(work.root):
        work.files.mkdir(parents=True, exist_ok=True)
        sizes = file_sizes(plan.items)
        files = {name: DataFile(work.files / name) for name in sizes}
    try:
        with writing(work.root):
            num_resumed = _check_earlier(plan, journal, files, on_progress)
            journal.cut(num_resumed)
            _check_room(plan, work, files)
        slabs = Slabs(plan.reader, quantiser, num_threads)
        _write_items(plan, work, journal, files, slabs, on_progress)
        with writing(work.root):
            return num_resumed, {
                name: FileEntry(sizes[name], files[name].finish(sizes[name])) for name in sizes
            }
    finally:
        for file in files.values():
            file.close()


def small_files(source: Source) -> dict[str, bytes]:
    """By name, the vocabulary in a form that is read at once among them."""
    files = source.small_files()
    if vocabulary := compile_vocabulary(files.get("tokenizer.json", b"")):
        files[VOCABULARY] = vocabulary
    return files


def _check_earlier(
    plan: Plan, journal: Journal, files: dict[str, DataFile], on_progress: OnProgress | None
) -> int:
    """How many items of an earlier run are on the disk as the journal says, from the first on."""
    claimed = plan.items[: len(journal.checksums)]
    total, done = sum(item.size_bytes for item in claimed), 0
    for index, item in enumerate(claimed):
        if not files[item.file].check(item.offset, item.size_bytes, journal.checksums[index]):
            return index
        done += item.size_bytes
        if on_progress:
            on_progress("checking", done, total)
    return len(claimed)


def _check_room(plan: Plan, work: WorkFolder, files: dict[str, DataFile]) -> None:
    check_room(plan, work, sum(file.end for file in files.values()))


def check_room(plan: Plan, work: WorkFolder, num_written: int) -> None:
    """That what is not written yet has room. Raises UnwritableError."""
    needed = plan.size_bytes - num_written + _SPARE_BYTES
    free = shutil.disk_usage(work.root).free
    if free < needed:
        raise UnwritableError(
            f"{work.root}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. "
            "Make room, or choose a folder on another disk.",
            path=str(work.root),
        )


def _write_items(
    plan: Plan,
    work: WorkFolder,
    journal: Journal,
    files: dict[str, DataFile],
    slabs: Slabs,
    on_progress: OnProgress | None,
) -> None:
    """Write in order: what is on the disk is always a beginning."""
    rest = plan.items[len(journal.checksums) :]
    total = sum(plan.reader.source_bytes(part.place, part.n * part.k) for item in rest for part in item.parts)
    done = 0
    with closing(slabs.of(rest)) as packed:
        for item in rest:
            file, checksum, loss = files[item.file], Checksum(), NO_LOSS

            def write(data: bytes | memoryview, file: DataFile = file, checksum: Checksum = checksum) -> None:
                with writing(work.root):
                    file.write(data)
                checksum.update(data)

            with writing(work.root):
                file.begin(item.offset)
            for part in item.parts:
                write(bytes(item.offset + part.offset - file.end))
                row = 0
                while row < part.n:
                    slab = next(packed)
                    write(slab.data)
                    loss += slab.loss
                    done += plan.reader.source_bytes(part.place, (slab.end - row) * part.k)
                    row = slab.end
                    if on_progress:
                        on_progress("packing", done, total)
            write(bytes(item.offset + item.size_bytes - file.end))
            with writing(work.root):
                journal.add(checksum.hexdigest(), loss)
