"""What a pack will write, decided before a weight is read; and the manifest that says so afterwards."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from qwen35.config import ModelConfig
from qwen35.weights.assign import assign, config_for
from qwen35.weights.layout import Item, file_sizes, lay_out
from qwen35.weights.loss import NO_LOSS, Loss
from qwen35.weights.manifest import (
    VERSION,
    ExpertsEntry,
    FileEntry,
    ImportEntry,
    Manifest,
    PartEntry,
    SourceEntry,
    TensorEntry,
)
from qwen35.weights.names import Place
from qwen35.weights.recipe import QUANTS, Quant, Recipe
from qwen35.weights.rows import RowReader
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.source import Source, SourceTensor, is_plain, size_bytes
from qwen35.weights.tiles import F32

FEW_BITS = 5.0  # of a weight, scales included: up to here a format counts as 4-bit

_EXPERTS, _GATE_UP, _DOWN = ".mlp.experts", ".gate_up_proj", ".down_proj"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before a weight is read."""

    source: SourceEntry
    recipe: Recipe
    items: tuple[Item, ...]
    reader: RowReader
    version: object  # the source's, when the plan was made

    @property
    def size_bytes(self) -> int:
        return sum(file_sizes(self.items).values())


def default_quant(source: Source) -> Quant:
    """q4, but q8 for quantised GGUF files whose bulk has more than five bits: nobody asked to halve them.

    FP8 checkpoints count as unquantised ones: they are what the model's makers publish in place of 16 bits.
    """
    return "q8" if source.kind == "GGUF" and FEW_BITS < _bits_of_bulk(source) < 16 else "q4"


def plan_pack(source: Source, quant: Quant) -> Plan:
    """Decide from headers, config, sizes. Raises CheckpointError for a source that does not fit together."""
    assert quant in QUANTS
    config = config_for(source, source.config)
    shapes = parameter_shapes(config)
    places = assign(source, shapes, is_tied=config.tie_word_embeddings)
    recipe = Recipe(quant, _kept_formats(source, places, Recipe(quant)))
    items = lay_out(shapes, recipe)
    version = source.version()
    entry = SourceEntry(
        name=source.path.resolve().name,
        dtype=_dtype(source, config),
        size_bytes=sum(size_bytes(source.tensors[name]) for name in places),
        identity=_identity(source, version, items),
    )
    return Plan(entry, recipe, items, RowReader(source, places), version)


def _kept_formats(source: Source, places: Mapping[str, Place], recipe: Recipe) -> dict[str, str]:
    """Formats of matrices that the source holds in few bits, by parameter: where the rules would waste some.

    What q4 holds exactly is never written in 8 bits. And where a 4-bit file has some tensors in more bits
    than the bulk, its makers found those sensitive: they are not cut to 4. A layer's experts have one format.
    """
    tensors: dict[str, list[SourceTensor]] = {}
    for name, place in places.items():
        tensors.setdefault(_group_of(place.parameter), []).append(source.tensors[name])
    has_few_bits = source.kind == "GGUF" and _bits_of_bulk(source) <= FEW_BITS
    kept: dict[str, str] = {}
    for group, members in tensors.items():
        parameters = [group + _GATE_UP, group + _DOWN] if group.endswith(_EXPERTS) else [group]
        if any(is_plain(tensor) for tensor in members) or recipe.format_of(parameters[0], (1, 1)) == F32:
            continue
        if all(tensor.exact_in == "q4" for tensor in members):
            kept |= dict.fromkeys(parameters, "q4")
        elif has_few_bits and all(_bits(tensor) > FEW_BITS for tensor in members):
            kept |= dict.fromkeys(parameters, "q8")
    return kept


def _group_of(parameter: str) -> str:
    """What has one format: a parameter, or all experts of a layer."""
    head, experts, _ = parameter.partition(_EXPERTS + ".")
    return head + _EXPERTS if experts else parameter


def _bits_of_bulk(source: Source) -> float:
    """Per weight, the median: of the type that the middle one of all weights is in."""
    sizes = sorted((_bits(tensor), prod(tensor.shape)) for tensor in source.tensors.values())
    half, seen = sum(num for _, num in sizes) / 2, 0
    for bits, num in sizes:
        seen += num
        if seen >= half:
            return bits
    return 16.0


def _bits(tensor: SourceTensor) -> float:
    return 8 * size_bytes(tensor) / prod(tensor.shape)


def _dtype(source: Source, config: ModelConfig) -> str:
    """The type of unquantised weights as config.json says it, else the kind and what most weights are in."""
    if not source.kind:
        return config.dtype
    weights: dict[str, int] = {}
    for tensor in source.tensors.values():
        weights[tensor.encoding] = weights.get(tensor.encoding, 0) + prod(tensor.shape)
    most = max(weights, key=weights.__getitem__)
    return source.kind if most.startswith(source.kind) else f"{source.kind} {most}"


def _identity(source: Source, version: object, items: tuple[Item, ...]) -> str:
    """Two packs with the same one write the same bytes: the same weight files, laid out alike."""
    tensors = sorted(
        (name, tensor.encoding, tensor.shape, tensor.path.name, tensor.begin)
        for name, tensor in source.tensors.items()
    )
    places = [
        (item.file, item.offset, [(str(part.place), part.format) for part in item.parts]) for item in items
    ]
    return hashlib.sha256(json.dumps([VERSION, version, tensors, places]).encode()).hexdigest()


def manifest_of(
    plan: Plan, checksums: Sequence[str], losses: Sequence[Loss], files: dict[str, FileEntry]
) -> Manifest:
    """What was written: `checksums` and `losses` of the items in their order, `files` of the folder."""
    tensors, experts = entries_of(plan.items, checksums)
    return Manifest(plan.source, plan.recipe.quant, tensors, experts, files, _imports(plan, losses))


def entries_of(
    items: Sequence[Item], checksums: Sequence[str]
) -> tuple[dict[str, TensorEntry], dict[str, ExpertsEntry]]:
    """Tensors by name, experts by layer."""
    tensors: dict[str, TensorEntry] = {}
    layers: dict[str, list[tuple[Item, str]]] = {}
    for item, checksum in zip(items, checksums, strict=True):
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
    return tensors, experts


def _imports(plan: Plan, losses: Sequence[Loss]) -> dict[str, ImportEntry]:
    encodings: dict[str, set[str]] = {}
    total: dict[str, Loss] = {}
    for item, loss in zip(plan.items, losses, strict=True):
        tensors = [plan.reader.tensor(part.place) for part in item.parts]
        quantised = {tensor.encoding for tensor in tensors if not is_plain(tensor)}
        if quantised:
            encodings.setdefault(item.name, set()).update(quantised)
            total[item.name] = total.get(item.name, NO_LOSS) + loss
    return {
        name: ImportEntry(", ".join(sorted(encodings[name])), float(f"{loss.relative:.4g}"))
        for name, loss in total.items()
    }
