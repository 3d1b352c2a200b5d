"""What `qwen plan` plans: a model on this machine, on a hub, or of the catalogue, known by headers alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, NetworkError
from qwen35.weights.catalogue import SIZES, Release, find_release
from qwen35.weights.manifest import Manifest, is_packed
from qwen35.weights.pack_plan import default_quant, plan_pack
from qwen35.weights.packed import open_manifest, packed_config
from qwen35.weights.plan import forecast, forecast_of
from qwen35.weights.recipe import QUANTS, Quant
from qwen35.weights.remote_errors import KEPT
from qwen35.weights.source import Source
from qwen35.weights.sources.open import open_source
from qwen35.weights.sources.safetensors import source_of
from qwencli.errors import UsageError
from qwencli.folders import Folders
from qwencli.hub import Access, Wanted, parse_name
from qwencli.known_models import KnownModel, find_model
from qwencli.settings import own_models


@dataclass(frozen=True, slots=True)
class Subject:
    """`origin` says how this is known; `fetch_bytes` None: nothing has to be fetched; `disk_bytes`: to be
    written."""

    name: str
    manifest: Manifest
    config: ModelConfig
    origin: str
    fetch_bytes: int | None = None
    disk_bytes: int = 0
    license: str | None = None
    notes: tuple[str, ...] = ()


def find_subject(name: str, folders: Folders, on_fetch: Callable[[], None]) -> Subject:
    """A folder, a model on this machine, or one to be fetched; `on_fetch` is called before the network is.

    Raises CheckpointError, NetworkError, UsageError.
    """
    text, _, ending = name.rpartition(":")
    quant = _quant(ending) if text else None
    try:
        here = _of_known(name, find_model(text if quant else name, folders), quant)
        if quant in (None, here.manifest.quant):
            return here
    except CheckpointError:
        if Path(name).expanduser().exists():
            raise
    wanted = _wanted(name, folders)
    try:
        return _of_hub(wanted.repo, wanted.quant, on_fetch)
    except NetworkError as error:
        release = find_release(wanted.repo)
        if release is None or release.form != "bf16":
            raise
        if Access.locate().is_offline:
            note = "the hub was not asked, as HF_HUB_OFFLINE is set: these are the sizes of the catalogue"
        else:
            note = f"the hub did not answer ({str(error).removesuffix(KEPT)}): sizes are the catalogue's"
        return _of_release(release, wanted.quant, note)


def _wanted(name: str, folders: Folders) -> Wanted:
    """Raises what says most: that there is no such model here, where it is no name of a repository either."""
    try:
        return parse_name(name, own_models(folders.config_file))
    except UsageError:
        if ":" not in name:
            find_model(name, folders)
        raise


def of_size(size: str, quant: Quant = "q4") -> tuple[Manifest, ModelConfig]:
    """One of the catalogue's shapes, packed."""
    config = SIZES[size].config
    return forecast(config, quant), config


def _of_known(name: str, model: KnownModel, quant: Quant | None) -> Subject:
    if is_packed(model.folder):
        manifest = open_manifest(model.folder)
        return Subject(name, manifest, packed_config(model.folder, manifest), "its manifest")
    source = open_source(model.folder, model.mmproj)
    return _of_source(name, source, quant or default_quant(source), "the headers of its files")


def _quant(text: str) -> Quant | None:
    return next((quant for quant in QUANTS if quant == text), None)


def _of_source(name: str, source: Source, quant: Quant, origin: str) -> Subject:
    plan = plan_pack(source, quant)
    return Subject(
        name,
        forecast_of(plan.items, quant),
        source.config,
        origin,
        disk_bytes=plan.size_bytes,
        notes=source.notes,
    )


def _of_hub(repo_name: str, quant: Quant, on_fetch: Callable[[], None]) -> Subject:
    from dataclasses import replace

    from qwen35.weights.remote import Hub
    from qwen35.weights.remote_folder import open_remote

    access = Access.locate()
    if access.is_offline:
        raise access.offline_error(repo_name)
    on_fetch()
    hub = Hub(access.endpoint, access.token)
    try:
        repo = hub.repo(repo_name)
        remote = open_remote(hub, repo)
    finally:
        hub.close()
    subject = _of_source(repo.name, source_of(remote.files), quant, "the headers of its files on the hub")
    return replace(subject, fetch_bytes=sum(file.size_bytes for file in remote.weights), license=repo.license)


def _of_release(release: Release, quant: Quant, note: str) -> Subject:
    config = SIZES[release.size].config
    manifest = forecast(config, quant)
    return Subject(
        release.repo,
        manifest,
        config,
        "the catalogue",
        fetch_bytes=release.download_bytes,
        disk_bytes=manifest.data_bytes,
        license=release.license,
        notes=(note,),
    )
