"""`qwen models pull`: a model of a hub, fetched and packed in one go."""

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import completions, options

if TYPE_CHECKING:
    from qwen35.events import Note
    from qwen35.weights.manifest import Manifest
    from qwen35.weights.remote import Repo
    from qwencli.folders import Folders
    from qwencli.hub import Access, Wanted
    from qwencli.render.aside import Aside

_LABELS = {  # short, so that they and the figures fit a narrow terminal
    "waiting": "waiting for another pull",
    "checking": "checking",
    "packing": "packing",
    "fetching": "fetching",
    "finishing": "reading back",
}
_QUIET_S = 5.0  # between two notes about the network


def pull_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:q4|q8]",
            help="A short name (see `ls --known`) or OWNER/NAME; default :q4.",
            autocompletion=completions.complete_release,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="TARGET",
            help="A new or empty folder. Default: OWNER/NAME-q4 in the data folder.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision", metavar="REV", help="Branch, tag or commit. Default: main.", show_default=False
        ),
    ] = None,
    limit_rate: options.LimitRate = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an interrupted pull has left.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch a model from the Hugging Face hub and pack it as it comes: only the packed model needs room.

    An interrupted pull goes on where it stopped. HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and HTTPS_PROXY count.
    """
    from qwen35.events import Note
    from qwencli.folders import Folders
    from qwencli.hub import DEFAULT_QUANT, Access, parse_name
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.settings import own_models

    folders = Folders.locate(os.environ)
    wanted = parse_name(name, own_models(folders.config_file))
    target = (output or folders.models / wanted.packed_name).expanduser().resolve()
    stdout = standard_output()
    with Aside(Verbosity.NORMAL) as aside:
        try:
            values = _Pull(wanted, target, folders, Access.locate(), aside).run(revision, limit_rate, restart)
        except KeyboardInterrupt:
            aside.progress.end()
            aside.show(Note("stopped; the same command goes on from here"))
            raise
        aside.progress.end()
        for text in values["notes"]:
            aside.show(Note(text))
    if json:
        stdout.print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    else:
        # The short name means the packed model too, unless there may be another one of it.
        is_default = output is None and wanted.quant == DEFAULT_QUANT
        stdout.write_text(_text(values, wanted.name if is_default else values["name"]))


class _Pull:
    """One call of the command."""

    def __init__(
        self, wanted: "Wanted", target: Path, folders: "Folders", access: "Access", aside: "Aside"
    ) -> None:
        self.wanted, self.target, self.folders = wanted, target, folders
        self.access, self.aside = access, aside
        self._told_at = 0.0
        self._lock = threading.Lock()
        self._received = self._total = 0  # bytes of the weights, as the connections have them

    def run(self, revision: str | None, limit_rate: int | None, restart: bool) -> dict[str, Any]:
        """Everything that `--json` prints but for version and error."""
        from qwen35.errors import NetworkError
        from qwen35.weights.pull_journal import pinned_commit
        from qwen35.weights.remote import Hub, Rate
        from qwen35.weights.work_folder import WorkFolder

        if self.access.is_offline:
            return self._without_network(self.access.offline_error(self.wanted.name))
        pinned = None if restart else pinned_commit(WorkFolder.beside(self.target).journal)
        hub = Hub(
            self.access.endpoint,
            self.access.token,
            rate=Rate(limit_rate),
            on_trouble=self._trouble,
            on_bytes=self._receive,
        )
        try:
            try:
                repo = hub.repo(self.wanted.repo, revision or pinned or "main")
            except NetworkError as error:
                if pinned and not revision and "no revision" in str(error):
                    raise NetworkError(
                        f"{error} The unfinished pull is of it: begin anew with --restart."
                    ) from None
                return self._without_network(error)
            return self._fetch(hub, repo, restart)
        finally:
            hub.close()

    def _fetch(self, hub: Any, repo: "Repo", restart: bool) -> dict[str, Any]:
        from qwen35.backends.native.quantiser import best_quantiser
        from qwen35.memory import keep_memory
        from qwen35.weights.manifest import is_packed
        from qwen35.weights.pull import pull
        from qwencli.hub import cached_snapshot
        from qwencli.known_models import hub_cache

        if (snapshot := cached_snapshot(hub_cache(), repo.name, repo.commit)) and _is_whole(snapshot):
            return self._pack(snapshot, repo)
        quantiser, reason = best_quantiser(self.folders.cache)
        keep_memory()
        if reason and not is_packed(self.target):
            self.aside.show(_note(f"no native kernels ({reason}): packing takes several times as long"))
        pulled = pull(
            hub,
            repo,
            self.target,
            self.wanted.quant,
            restart=restart,
            quantiser=quantiser,
            on_progress=self._show,
        )
        notes = list(pulled.notes)
        if pulled.bytes_resumed:
            notes.append(f"went on from an earlier run: {_size(pulled.bytes_resumed)} were there")
        if pulled.unchecked:
            notes.append(
                f"{', '.join(pulled.unchecked)}: could not be compared with the hub's SHA-256 (fetched in "
                "two runs, or the hub tells none); sizes and connection were checked"
            )
        return self._values(pulled.manifest, pulled.folder, pulled.was_there, notes) | {
            "commit": repo.commit,
            "license": repo.license,
            "fetched_bytes": pulled.bytes_fetched,
            "resumed_bytes": pulled.bytes_resumed,
            "unchecked": list(pulled.unchecked),
        }

    def _without_network(self, error: Exception) -> dict[str, Any]:
        """What is here already, packed or in the Hugging Face cache; else the error is raised."""
        from qwen35.weights.manifest import is_packed
        from qwen35.weights.packed import open_manifest
        from qwencli.hub import cached_snapshot
        from qwencli.known_models import hub_cache

        if is_packed(self.target):
            manifest = open_manifest(self.target)
            if manifest.source.name.partition("@")[0] == self.wanted.repo:
                notes = [f"whether it is the newest was not asked: {error}"]
                return self._values(manifest, self.target, True, notes) | _NOTHING_FETCHED
        snapshot = cached_snapshot(hub_cache(), self.wanted.repo, None)
        if self.access.is_offline and snapshot and _is_whole(snapshot):
            return self._pack(snapshot, None)
        raise error

    def _pack(self, snapshot: Path, repo: "Repo | None") -> dict[str, Any]:
        """From the Hugging Face cache, in which the files are whole."""
        from qwen35.backends.native.quantiser import best_quantiser
        from qwen35.weights.pack import pack

        quantiser, _ = best_quantiser(self.folders.cache)
        packed = pack(snapshot, self.target, self.wanted.quant, quantiser=quantiser, on_progress=self._show)
        notes = [f"nothing was fetched: the files lie in the Hugging Face cache ({snapshot})"]
        return (
            self._values(packed.manifest, packed.folder, packed.was_there, notes)
            | _NOTHING_FETCHED
            | {"commit": snapshot.name, "license": repo.license if repo else None}
        )

    def _values(
        self, manifest: "Manifest", folder: Path, was_there: bool, notes: list[str]
    ) -> dict[str, Any]:
        listed = self.folders.models.resolve()
        is_listed = folder.resolve().is_relative_to(listed)
        return {
            "name": folder.resolve().relative_to(listed).as_posix() if is_listed else str(folder),
            "folder": str(folder),
            "repo": self.wanted.repo,
            "quant": manifest.quant,
            "parameters": manifest.num_parameters,
            "bits_per_weight": round(manifest.bits_per_weight, 3),
            "size_bytes": manifest.data_bytes,
            "was_there": was_there,
            "notes": notes,
        }

    def _receive(self, num_bytes: int) -> None:
        """From any of the threads: a person sees bytes come before a piece of them is whole."""
        with self._lock:
            if self._total:
                self._received += num_bytes
                self.aside.progress.update(_LABELS["fetching"], self._received, self._total, "bytes")

    def _show(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if stage == "fetching" and self._total:
                return  # `_receive` tells more
            self._total = total if stage == "fetching" else 0
        self.aside.progress.update(_LABELS[stage], done, total, "items" if stage == "waiting" else "bytes")

    def _trouble(self, text: str) -> None:
        """From any of the threads: one of them speaks for all."""
        now = time.monotonic()
        if now - self._told_at > _QUIET_S:
            self._told_at = now
            self.aside.show(_note(text))


_NOTHING_FETCHED: dict[str, Any] = {
    "commit": None,
    "license": None,
    "fetched_bytes": 0,
    "resumed_bytes": 0,
    "unchecked": [],
}


def _note(text: str) -> "Note":
    from qwen35.events import Note

    return Note(text)


def _is_whole(folder: Path) -> bool:
    from qwen35.errors import CheckpointError
    from qwen35.weights.checkpoint import read_tensors

    try:
        read_tensors(folder)
    except CheckpointError:
        return False
    return True


def _size(num_bytes: int) -> str:
    from qwencli.render.columns import size

    return size(num_bytes)


def _text(values: dict[str, Any], called: str) -> str:
    import shlex

    from qwencli.render.columns import count, size

    verb = "Was there already" if values["was_there"] else "Pulled"
    fetched = f" ({size(values['fetched_bytes'])} fetched)" if values["fetched_bytes"] else ""
    licence = f", licence {values['license']}" if values["license"] else ""
    return (
        f"{verb}: {values['repo']} as {values['quant']}, {count(values['parameters'])} parameters of "
        f"{values['bits_per_weight']:.2f} bits, {size(values['size_bytes'])}{fetched}{licence}\n"
        f"{values['folder']}\n"
        f'Ask it: qwen ask -m {shlex.quote(called)} "Your question"\n'
    )
