"""Which bytes of a packed model come into memory together: a layer's, or what every token needs."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from qwen35.config import ModelConfig
from qwen35.weights.layout import PAGE
from qwen35.weights.manifest import Manifest
from qwen35.weights.tiles import round_up

EMBEDDING = "language_model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Whole pages [begin, end) of a data file, and the tensors in them that are meant.

    Others may begin in its last page, or end in its first.
    """

    file: str
    begin: int
    end: int
    names: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def layer_stretches(manifest: Manifest, num_layers: int) -> list[Stretch]:
    """Of each decoder layer all tensors, which lie side by side; its experts are elsewhere."""
    names: list[list[str]] = [[] for _ in range(num_layers)]
    for name in manifest.tensors:
        if (index := _layer_of(name)) is not None:
            names[index].append(name)
    return [_stretch(manifest, own) for own in names]


def resident_stretches(manifest: Manifest, config: ModelConfig, streamed: Collection[int]) -> list[Stretch]:
    """What stays in memory where it is short: the head, and all layers but the `streamed` ones.

    Not the vision encoder, nor an embedding that is no head: a few rows of it are needed at a time. Not the
    draft layer, which no step uses.
    """
    wanted = []
    for name in manifest.tensors:
        is_rare = name == EMBEDDING and not config.tie_word_embeddings
        if not name.startswith(("visual.", "mtp.")) and not is_rare and _layer_of(name) not in streamed:
            wanted.append(name)
    wanted.sort(key=lambda name: (manifest.tensors[name].file, manifest.tensors[name].offset))
    groups: list[list[str]] = []
    for name in wanted:
        if groups and _follows(manifest, groups[-1][-1], name):
            groups[-1].append(name)
        else:
            groups.append([name])
    return [_stretch(manifest, group) for group in groups]


def _layer_of(name: str) -> int | None:
    """The index of the decoder layer that a tensor belongs to."""
    prefix = "language_model.layers."
    return int(name.removeprefix(prefix).partition(".")[0]) if name.startswith(prefix) else None


def _follows(manifest: Manifest, before: str, name: str) -> bool:
    """In the same file, with no more than alignment between."""
    one, other = manifest.tensors[before], manifest.tensors[name]
    return one.file == other.file and other.offset <= round_up(one.offset + one.size_bytes, PAGE)


def _stretch(manifest: Manifest, names: Iterable[str]) -> Stretch:
    names = tuple(names)
    entries = [manifest.tensors[name] for name in names]
    (file,) = {entry.file for entry in entries}
    begin = min(entry.offset for entry in entries)
    end = max(entry.offset + entry.size_bytes for entry in entries)
    return Stretch(file, begin // PAGE * PAGE, round_up(end, PAGE), names)
