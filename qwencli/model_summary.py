"""What a model folder holds, read from its small files and the headers of its weights."""

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, Qwen35Error
from qwen35.weights.arena import OnProgress
from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.manifest import Manifest, is_packed
from qwen35.weights.packed import open_manifest
from qwen35.weights.sources.gguf_file import split_files
from qwencli.known_models import KnownModel, architecture_of


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of `models ls`. `error` says why the model cannot be used; then the counts may be None.

    `dtype` of a packed model is what most of its weights are in.
    """

    name: str
    folder: str
    origin: str
    architecture: str | None
    dtype: str | None
    parameters: int | None
    size_bytes: int
    error: str | None

    @classmethod
    def read(cls, model: KnownModel) -> "ModelSummary":
        dtype = parameters = error = None
        if model.folder.is_file():
            dtype, size_bytes = "GGUF", sum(path.stat().st_size for path in split_files(model.folder))
            architecture = architecture_of(model.folder)
            return cls(
                model.name, str(model.folder), model.origin, architecture, dtype, None, size_bytes, None
            )
        try:
            config = ModelConfig.from_folder(model.folder)
            if is_packed(model.folder):
                manifest = open_manifest(model.folder)
                dtype, parameters = manifest.quant, manifest.num_parameters
            else:
                dtype, parameters = config.dtype, count_parameters(Checkpoint.open(model.folder))
        except Qwen35Error as problem:
            error = str(problem)
        size_bytes = sum(path.stat().st_size for path in files_of(model.folder))
        architecture = architecture_of(model.folder)
        return cls(
            model.name, str(model.folder), model.origin, architecture, dtype, parameters, size_bytes, error
        )


def count_parameters(checkpoint: Checkpoint) -> int:
    return sum(prod(info.shape) for info in checkpoint.tensors.values())


def files_of(folder: Path) -> list[Path]:
    """Regular files, also behind the links of the Hugging Face cache; broken links are left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def details(model: KnownModel) -> dict[str, Any]:
    """All of `models show`. Raises CheckpointError for a model that cannot be used."""
    if model.folder.is_file():
        raise CheckpointError(
            f"{model.name}: is a GGUF file ({model.folder}), which has to be packed first: qwen models pack "
            f"{model.name}",
            path=str(model.folder),
        )
    config = ModelConfig.from_folder(model.folder)
    summary = asdict(ModelSummary.read(model))
    text, vision, moe = config.text, config.vision, config.text.moe
    return summary | {
        "layers": {
            "linear_attention": text.layer_types.count("linear_attention"),
            "full_attention": text.layer_types.count("full_attention"),
            "mtp": text.num_mtp_layers,
        },
        "hidden_size": text.hidden_size,
        "vocab_size": text.vocab_size,
        "experts": asdict(moe) if moe else None,
        "context": text.max_position_embeddings,
        "vision": {"layers": vision.depth, "hidden_size": vision.hidden_size, "patch_size": vision.patch_size}
        if vision
        else None,
        "packed": _packing(open_manifest(model.folder)) if is_packed(model.folder) else None,
        "thinks_by_default": _thinks_by_default(model.folder),
        "generation": _generation_defaults(model.folder),
        "files": {
            path.relative_to(model.folder).as_posix(): path.stat().st_size for path in files_of(model.folder)
        },
    }


def verification(model: KnownModel, on_progress: OnProgress) -> dict[str, Any]:
    """All of `models verify`. Raises CheckpointError that names what is bad."""
    from qwen35.weights.assign import assign, config_for
    from qwen35.weights.shapes import parameter_shapes
    from qwen35.weights.verify import verify

    values: dict[str, Any] = {"name": model.name, "folder": str(model.folder)}
    if is_packed(model.folder):
        found = verify(model.folder, on_progress)
        return values | {
            "packed": True,
            "tensors": found.num_tensors,
            "experts": found.num_records,
            "size_bytes": found.size_bytes,
        }
    checkpoint = Checkpoint.open(model.folder)
    config = config_for(checkpoint, ModelConfig.from_folder(model.folder))
    places = assign(checkpoint, parameter_shapes(config), is_tied=config.tie_word_embeddings)
    size_bytes = sum(checkpoint.tensors[name].size_bytes for name in places)
    return values | {"packed": False, "tensors": len(places), "experts": None, "size_bytes": size_bytes}


def _packing(manifest: Manifest) -> dict[str, Any]:
    return {
        "quant": manifest.quant,
        "bits_per_weight": round(manifest.bits_per_weight, 3),
        "source": manifest.source.name,
    }


def _thinks_by_default(folder: Path) -> bool | None:
    """Whether the chat template opens a thinking block when it is not told; None without a template."""
    from qwen35.messages import Message
    from qwen35.processing.processor import Processor

    processor = Processor.from_folder(folder)
    if processor.template is None:
        return None
    return processor.prepare([Message.of_text("user", "Hello")]).starts_in_reasoning


def _generation_defaults(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    names = ("do_sample", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty")
    return {name: values[name] for name in names if name in values}
