"""A model in Hugging Face layout: which of the quantised formats it is in, and its tensors.

config.json tells the format, the tensors' names confirm it. What the format does not cover is 16 or 32 bits.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.formats import refuse_unknown_types
from qwen35.weights.header import parse_json
from qwen35.weights.names import place_of
from qwen35.weights.source import Files, PlainTensor, Source, SourceTensor
from qwen35.weights.sources import awq, compressed_tensors, fp8, gptq, mlx

# What the program reads beside the weights, and the terms that the weights come under.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
)

# A reader of a format: the tensors that are in it, by their names in the files without the format's endings,
# and the names of all raw tensors that these take up.
Importer = Callable[[Files, Mapping[str, Any]], tuple[dict[str, SourceTensor], set[str]]]

IMPORTERS: dict[str, tuple[str, Importer]] = {
    "fp8": ("FP8", fp8.tensors_of),
    "gptq": ("GPTQ", gptq.tensors_of),
    "awq": ("AWQ", awq.tensors_of),
    "compressed-tensors": ("compressed-tensors", compressed_tensors.tensors_of),
}


def source_of(files: Files) -> Source:
    """Make sense of `files`. Raises CheckpointError for a format that cannot be read, with what to do."""
    where = str(files.path / "config.json")
    values = _config(files, where)
    kind, tensors = _tensors(files, values)
    config = ModelConfig.from_dict(values, where)
    notes: tuple[str, ...] = ()
    if config.vision and not any(place_of(name).parameter.startswith("visual.") for name in tensors):
        notes = (f"{files.path.name}: no weights that see pictures; packed for text alone",)
        values = _text_alone(values)
        config = ModelConfig.from_dict(values, where)
        small_files = _small_files(files) | {"config.json": json.dumps(values, indent=2).encode()}
        return Source(
            files.path, kind, config, tensors, lambda: small_files, files.version, files.read_into, notes
        )
    return Source(
        files.path, kind, config, tensors, lambda: _small_files(files), files.version, files.read_into
    )


def _tensors(files: Files, values: Mapping[str, Any]) -> tuple[str, dict[str, SourceTensor]]:
    if mlx.is_converted(files):
        return "MLX", mlx.tensors_of(files, values)
    settings = _quantisation(files, values)
    kind, found, taken = "", dict[str, SourceTensor](), set[str]()
    if settings is not None:
        kind, importer = _importer(files, settings)
        found, taken = importer(files, settings)
    rest = {name: info for name, info in files.tensors.items() if name not in taken}
    refuse_unknown_types(rest)
    return kind, found | {name: PlainTensor(info) for name, info in rest.items()}


def _quantisation(files: Files, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json, or the file that older tools wrote beside it, says of the format."""
    text = values.get("text_config") or {}
    settings = values.get("quantization_config") or text.get("quantization_config")
    if settings is None and any(name.endswith(".qweight") for name in files.tensors):
        for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
            if beside := files.small(name):
                return {"quant_method": method} | parse_json(files.path / name, beside)
    return settings


def _importer(files: Files, settings: Mapping[str, Any]) -> tuple[str, Importer]:
    method = str(settings.get("quant_method", "")).lower()
    if method in ("auto-round", "auto_round", "intel/auto-round"):  # packs as others do, and says how
        packing = str(settings.get("packing_format", "gptq"))
        method = "awq" if "awq" in packing else "gptq"
    if method in IMPORTERS:
        return IMPORTERS[method]
    known = ", ".join(kind for kind, _ in IMPORTERS.values())
    raise CheckpointError(
        f"{files.path}: quantised by {method or 'an unnamed method'!r}, which cannot be read (supported: "
        f"{known}, GGUF, MLX). Use the model's unquantised (bf16) files, or one of these.",
        path=str(files.path),
    )


def _config(files: Files, where: str) -> dict[str, Any]:
    data = files.small("config.json")
    if data is None:
        raise CheckpointError(f"{where}: no such file. Is this a model folder?", path=where)
    return parse_json(files.path / "config.json", data)


def _small_files(files: Files) -> dict[str, bytes]:
    return {name: data for name in SMALL_FILES if (data := files.small(name)) is not None}


def _text_alone(values: dict[str, Any]) -> dict[str, Any]:
    """The same model in the layout of text-only re-saves."""
    text = dict(values["text_config"])
    for key in ("dtype", "torch_dtype", "tie_word_embeddings", "quantization_config"):
        if values.get(key) is not None:
            text.setdefault(key, values[key])
    text["architectures"] = [values["architectures"][0].replace("ForConditionalGeneration", "ForCausalLM")]
    return text
