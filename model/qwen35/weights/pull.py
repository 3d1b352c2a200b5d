"""A repository of a hub to a packed folder: its files pass by, hashed and packed, and are never on the disk.

Each weight file is fetched from its first byte to its last, by several connections, so that its SHA-256 can
be compared with the hub's. Rows are packed when their bytes have come, and written where the layout wants
them. After an interrupt, files are fetched from where the first unfinished unit begins; the hash goes on from
there.
"""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35.errors import CheckpointError, UnwritableError
from qwen35.weights.manifest import Manifest, is_packed
from qwen35.weights.pack import finished, publish, small_files
from qwen35.weights.pack_plan import plan_pack
from qwen35.weights.packed import open_manifest
from qwen35.weights.pull_journal import PullJournal, num_units
from qwen35.weights.pull_run import OnProgress, PullRun
from qwen35.weights.quantize import quantise
from qwen35.weights.recipe import Quant
from qwen35.weights.remote import Hub, Repo
from qwen35.weights.remote_folder import open_remote
from qwen35.weights.slabs import Quantiser
from qwen35.weights.sources.safetensors import source_of
from qwen35.weights.work_folder import WorkFolder, locked, writing

_PAUSE_S = 0.3  # between two looks at whether another process has finished


@dataclass(frozen=True, slots=True)
class Pulled:
    """What `pull` left. `bytes_fetched` of weights in this run, `bytes_resumed` in earlier ones.

    `unchecked` files could not be compared with the hub's hash; `notes` are the source's.
    """

    folder: Path
    manifest: Manifest
    was_there: bool
    bytes_fetched: int = 0
    bytes_resumed: int = 0
    unchecked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pull(
    hub: Hub,
    repo: Repo,
    target: Path,
    quant: Quant = "q4",
    *,
    restart: bool = False,
    quantiser: Quantiser = quantise,
    num_threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Pulled:
    """Fetch and pack `repo` into `target`, which is absent, empty, or this very model, whole or unfinished.

    A second pull of the same model waits for the first one, and takes over if that ends before it is done.
    `restart` throws an unfinished one away. `hub` is closed where this is interrupted. Raises NetworkError,
    CheckpointError, UnwritableError; what has come by then is kept.
    """
    target = target.expanduser().resolve()
    work = WorkFolder.beside(target)
    show: OnProgress = on_progress or (lambda *_: None)

    def wait() -> None:
        show("waiting", num_units(work.journal), 0)
        time.sleep(_PAUSE_S)

    with locked(work, target, wait):
        if restart:
            with writing(work.root):
                shutil.rmtree(work.files.parent, ignore_errors=True)
                work.journal.unlink(missing_ok=True)
        if there := _packed_from(repo, target, quant):
            work.remove()
            return Pulled(target, there, was_there=True)
        remote = open_remote(hub, repo, work.files.parent / ".source")
        source = source_of(remote.files)
        plan = plan_pack(source, quant)
        plan = replace(plan, source=replace(plan.source, name=source_name(repo)))
        if there := finished(target, plan):
            return Pulled(target, there, was_there=True)
        with writing(work.root):
            journal = PullJournal.open(work.journal, plan.source.identity, repo.commit)
        if journal is None:
            raise UnwritableError(
                f"{work.root}: holds an unfinished model of another repository, revision or quantisation. "
                "Run again with --restart to throw it away.",
                path=str(work.root),
            )
        with ThreadPoolExecutor(1) as beside:  # a second of work that needs no weights
            small = beside.submit(small_files, source)
            run = PullRun.prepare(hub, repo, remote, plan, work, journal, show)
            entries = run.work_through(quantiser, num_threads)
        checksums, losses = run.written()
        manifest = publish(plan, work, target, checksums, losses, entries, small.result())
    return Pulled(
        target,
        manifest,
        was_there=False,
        bytes_fetched=run.bytes_fetched,
        bytes_resumed=run.bytes_resumed,
        unchecked=run.unchecked,
        notes=source.notes,
    )


def source_name(repo: Repo) -> str:
    """What the manifest calls it."""
    return f"{repo.name}@{repo.commit[:12]}"


def _packed_from(repo: Repo, target: Path, quant: Quant) -> Manifest | None:
    """The manifest where `target` was packed from this very commit; told without fetching a header."""
    if not is_packed(target):
        return None
    try:
        manifest = open_manifest(target)
    except CheckpointError:
        return None  # `finished` says what is wrong
    name, _, commit = manifest.source.name.partition("@")
    if manifest.quant != quant or name != repo.name:
        return None
    if source_name(repo) != manifest.source.name:
        raise UnwritableError(
            f"{target}: was packed from commit {commit}; the repository is at {repo.commit[:12]} by now. To "
            f"fetch it again, delete the old one first: qwen models rm {target}",
            path=str(target),
        )
    return manifest
