"""The models that lie on this machine, and which one a name means."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import qwen35.builtin
from qwen35.config import ARCHITECTURES
from qwen35.errors import CheckpointError
from qwen35.memory import usable_memory
from qwen35.weights.manifest import is_packed
from qwen35.weights.packed import open_manifest
from qwencli.folders import Folders
from qwencli.settings import own_models
from qwencli.suggest import did_you_mean

BUILT_IN = "mini"  # packed, to answer at once
BUILT_IN_UNPACKED = "mini-bf16"  # the same in the official layout

FITS = 0.8  # of the machine's memory, for the weights of a model that nobody named

Origin = Literal["built-in", "data folder", "Hugging Face cache", "LM Studio", "Ollama", "folder"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`folder` is a file where the model is one: GGUF, which has to be packed first.

    `mmproj` is the file with its vision part, where the store that it is in tells of one.
    """

    name: str
    folder: Path
    origin: Origin
    mmproj: Path | None = None


def built_in_folder(name: str = BUILT_IN) -> Path:
    return Path(qwen35.builtin.__path__[0]) / name


def hub_cache() -> Path:
    """Where huggingface_hub keeps its files, as HF_HOME and HF_HUB_CACHE say."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def known_models(folders: Folders) -> Iterator[KnownModel]:
    """Every model folder, of whatever architecture, in the places that are looked in; names come once.

    A place is looked into when the ones before it are used up.
    """
    seen = set()
    for model in chain(_built_in(), _in_data_folder(folders), _in_hub_cache(), _in_other_stores()):
        if model.name not in seen:
            seen.add(model.name)
            yield model


def find_or_choose_model(name: str | None, folders: Folders, ram: int | None = None) -> KnownModel:
    """`find_model`, and without a name the largest packed model of the user's that fits, else the built-in.

    A model that is broken, or that would not leave a fifth of the memory (of the `ram` bytes that it may
    have, where they are fewer), is never chosen.
    """
    if name is not None:
        return find_model(name, folders)
    sizes = [(_packed_bytes(model), model) for model in _in_data_folder(folders) if is_packed(model.folder)]
    usable = usable_memory()
    usable = min(usable, ram or usable)
    fitting = [(size, model) for size, model in sizes if size <= FITS * usable]
    # The largest first: manifests are long, and that of the model that answers is read alone.
    for _, model in sorted(fitting, key=lambda pair: -pair[0]):
        with suppress(CheckpointError):
            open_manifest(model.folder)
            return model
    return find_model(BUILT_IN, folders)


def find_model(name: str, folders: Folders) -> KnownModel:
    """The model called `name`, or the folder of that path.

    Raises CheckpointError that tells the places looked in.
    """
    for model in known_models(folders):
        if model.name == name:
            return model
    if packed := _of_release(name, folders):
        return packed
    try:
        path = Path(name).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError):  # an unknown ~user, a name too long
        is_folder = is_there = False
    if is_folder or (is_there and _is_gguf(path)):
        return KnownModel(name, path, "folder")
    if is_there:
        raise CheckpointError(
            f"{name}: is a file; a model is the folder that holds its config.json, or a GGUF file.", path=name
        )
    if name == BUILT_IN:
        raise CheckpointError(
            f"{built_in_folder()}: the built-in model is missing from this installation. "
            "Choose another: -m FOLDER.",
            path=str(built_in_folder()),
        )
    hint = did_you_mean(name, (model.name for model in known_models(folders)))
    raise CheckpointError(
        f"{name}: no such model. {hint}{hint and ' '}Looked for a folder of that path, in {folders.models}, "
        f"and in {hub_cache()}. See: qwen models ls{_how_to_fetch(name, folders)}",
        path=name,
    )


def _is_gguf(path: Path) -> bool:
    from qwen35.weights.sources.gguf_file import is_gguf

    return is_gguf(path)


def _how_to_fetch(name: str, folders: Folders) -> str:
    from qwencli.hub import repo_of

    repo = repo_of(name, own_models(folders.config_file))
    return f". To fetch it: qwen models pull {name}" if repo else ""


def _of_release(name: str, folders: Folders) -> KnownModel | None:
    """The model that a short name or a repository's means: packed by `pull`, or else in the hub's cache."""
    from qwencli.hub import repo_of

    repo = repo_of(name, own_models(folders.config_file))
    if repo is None:
        return None
    here = {model.name: model for model in known_models(folders)}
    return next((here[own] for own in (f"{repo}-q4", f"{repo}-q8", repo) if own in here), None)


def architecture_of(folder: Path) -> str | None:
    """As config.json says, or a GGUF file; None where it says nothing."""
    if folder.is_file():
        from qwen35.weights.sources.gguf_file import peek_architecture

        return peek_architecture(folder)
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_supported(model: KnownModel) -> bool:
    from qwencli.other_stores import GGUF_ARCHITECTURES

    return architecture_of(model.folder) in (*ARCHITECTURES, *GGUF_ARCHITECTURES)


def _packed_bytes(model: KnownModel) -> int:
    """Of the files that hold a packed model's weights; 0 where one cannot be looked at."""
    try:
        return sum(path.stat().st_size for path in model.folder.glob("*.bin"))
    except OSError:
        return 0


def _built_in() -> Iterator[KnownModel]:
    for name in (BUILT_IN, BUILT_IN_UNPACKED):
        if (built_in_folder(name) / "config.json").exists():
            yield KnownModel(name, built_in_folder(name), "built-in")


def _in_data_folder(folders: Folders) -> Iterator[KnownModel]:
    """models/NAME and models/OWNER/NAME."""
    for config in sorted([*folders.models.glob("*/config.json"), *folders.models.glob("*/*/config.json")]):
        name = config.parent.relative_to(folders.models).as_posix()
        yield KnownModel(name, config.parent, "data folder")


def _in_other_stores() -> Iterator[KnownModel]:
    from qwencli.other_stores import lm_studio_files, ollama_files

    for name, path in lm_studio_files():
        yield KnownModel(name, path, "LM Studio")
    for name, path, mmproj in ollama_files():
        yield KnownModel(name, path, "Ollama", mmproj)


def _in_hub_cache() -> Iterator[KnownModel]:
    """models--OWNER--NAME/snapshots/COMMIT, the commit that refs/main names or else the newest."""
    for repo in sorted(hub_cache().glob("models--*")):
        snapshots = {config.parent.name: config.parent for config in repo.glob("snapshots/*/config.json")}
        if not snapshots:
            continue
        try:
            folder = snapshots[(repo / "refs" / "main").read_text(encoding="utf-8").strip()]
        except (OSError, KeyError):
            folder = max(snapshots.values(), key=lambda path: path.stat().st_mtime)
        yield KnownModel(repo.name.removeprefix("models--").replace("--", "/"), folder, "Hugging Face cache")
