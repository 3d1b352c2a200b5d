"""What a pack will write, decided before a weight is read; and the manifest that says so afterwards."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.assign import assign, config_for
from qwen35.weights.checkpoint import Checkpoint
from qwen35.weights.layout import Item, file_sizes, lay_out
from qwen35.weights.manifest import (
    VERSION,
    ExpertsEntry,
    FileEntry,
    Manifest,
    PartEntry,
    SourceEntry,
    TensorEntry,
    is_packed,
)
from qwen35.weights.recipe import QUANTS, Quant, Recipe
from qwen35.weights.rows import RowReader
from qwen35.weights.shapes import parameter_shapes

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


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before a weight is read."""

    source: SourceEntry
    recipe: Recipe
    items: tuple[Item, ...]
    reader: RowReader
    small_files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file_sizes(self.items).values())


def plan_pack(source: Path, quant: Quant) -> Plan:
    """Read headers, config and sizes. Raises CheckpointError for a source that does not fit together."""
    assert quant in QUANTS
    if is_packed(source):
        raise CheckpointError(
            f"{source}: is packed already. Give the folder that it was packed from.", path=str(source)
        )
    config = ModelConfig.from_folder(source)
    checkpoint = Checkpoint.open(source)
    config = config_for(checkpoint, config)
    shapes = parameter_shapes(config)
    places = assign(checkpoint, shapes, is_tied=config.tie_word_embeddings)
    recipe = Recipe(quant)
    items = lay_out(shapes, recipe)
    infos = [checkpoint.tensors[name] for name in places]
    entry = SourceEntry(
        name=source.resolve().name,
        dtype=config.dtype,
        size_bytes=sum(info.size_bytes for info in infos),
        identity=_identity(checkpoint, items),
    )
    small_files = tuple(path for name in SMALL_FILES if (path := source / name).is_file())
    return Plan(entry, recipe, items, RowReader(checkpoint, places), small_files)


def _identity(checkpoint: Checkpoint, items: tuple[Item, ...]) -> str:
    """Two packs with the same one write the same bytes: the same weight files, laid out alike."""
    seen = {info.path for info in checkpoint.tensors.values()}
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in seen)
    tensors = sorted(
        (name, info.dtype, info.shape, info.path.name, info.begin)
        for name, info in checkpoint.tensors.items()
    )
    places = [
        (item.file, item.offset, [(str(part.place), part.format) for part in item.parts]) for item in items
    ]
    return hashlib.sha256(json.dumps([VERSION, files, tensors, places]).encode()).hexdigest()


def manifest_of(plan: Plan, checksums: Sequence[str], files: dict[str, FileEntry]) -> Manifest:
    """What was written: `checksums` of the items in their order, `files` of the folder."""
    tensors: dict[str, TensorEntry] = {}
    layers: dict[str, list[tuple[Item, str]]] = {}
    for item, checksum in zip(plan.items, checksums, strict=True):
        if item.expert is None:
            format_name = item.parts[0].format
            tensors[item.name] = TensorEntry(
                format_name, item.shape, item.file, item.offset, item.size_bytes, checksum
            )
        else:
            layers.setdefault(item.name, []).append((item, checksum))
    experts = {}
    for layer, records in layers.items():
        first = records[0][0]
        parts = {str(part.place.projection): PartEntry((part.n, part.k), part.offset) for part in first.parts}
        experts[layer] = ExpertsEntry(
            format=first.parts[0].format,
            file=first.file,
            offset=first.offset,
            stride=first.size_bytes,
            count=len(records),
            parts=parts,
            checksums=tuple(checksum for _, checksum in records),
        )
    return Manifest(plan.source, plan.recipe.quant, tensors, experts, files)
