"""GGUF files that LM Studio and Ollama have put on this machine: found where they lie, packed from there."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GGUF_ARCHITECTURES = ("qwen35", "qwen35moe")

_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_VISION = "application/vnd.ollama.image.projector"


def user_home() -> Path:
    return Path.home()


def lm_studio_files() -> Iterator[tuple[str, Path]]:
    """Names and paths: MODELS/OWNER/REPO/FILE.gguf, of split files the first."""
    for models in _lm_studio_folders():
        for path in sorted(models.glob("*/*/*.gguf")):
            is_later = "-of-" in path.stem and "-00001-of-" not in path.stem
            if not path.name.startswith("mmproj") and not is_later:
                yield f"lmstudio/{path.relative_to(models).with_suffix('').as_posix()}", path


def ollama_files() -> Iterator[tuple[str, Path, Path | None]]:
    """Names and paths, of the vision part too, where it is a file of its own: MODELS/manifests/HOST/OWNER/
    NAME/TAG says which of MODELS/blobs they are."""
    own = os.environ.get("OLLAMA_MODELS")
    folders = (
        [Path(own)] if own else [user_home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    )
    for models in folders:
        for manifest in sorted(models.glob("manifests/*/*/*/*")):
            if path := _blob(models, manifest, _OLLAMA_MODEL):
                owner, name, tag = manifest.parts[-3:]
                full_name = f"ollama/{'' if owner == 'library' else f'{owner}/'}{name}:{tag}"
                yield full_name, path, _blob(models, manifest, _OLLAMA_VISION)


def _lm_studio_folders() -> list[Path]:
    """Where LM Studio's pointer leads, else the places that its versions have had."""
    homes = [user_home() / ".lmstudio", user_home() / ".cache" / "lm-studio"]
    with suppress(OSError):
        homes.insert(0, Path((user_home() / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()))
    return list(dict.fromkeys(home / "models" for home in homes))


def _blob(models: Path, manifest: Path, media_type: str) -> Path | None:
    """The file of that type; None where the manifest names none that is there."""
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digest = next(str(layer["digest"]) for layer in layers if layer["mediaType"] == media_type)
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None
    path = models / "blobs" / digest.replace(":", "-")
    return path if path.is_file() and path.parent.name == "blobs" else None
