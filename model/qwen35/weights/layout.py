"""Where each tensor and each expert of a packed model lies: decided from shapes and recipe alone.

Three data files in the order of use, so that a reader can follow behind a loader: `text.bin`,
`experts.bin` and `vision.bin`. What is a page or more begins at a page, smaller things at 64 bytes. An
expert is one record of gate (I, D), up (I, D) and down (D, I); all records of a layer have one stride.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from qwen35.weights.names import Place, Projection
from qwen35.weights.recipe import Recipe
from qwen35.weights.shapes import Shapes
from qwen35.weights.tiles import F32, LINE, matrix_bytes, round_up

PAGE = 4096
TEXT, EXPERTS, VISION = "text.bin", "experts.bin", "vision.bin"
DATA_FILES = (TEXT, EXPERTS, VISION)

_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix (n, k) or vector (1, k) of an item. `place` says where its numbers come from."""

    place: Place
    format: str
    n: int
    k: int
    offset: int  # within the item

    @property
    def size_bytes(self) -> int:
        return matrix_bytes(self.format, self.n, self.k)


@dataclass(frozen=True, slots=True)
class Item:
    """What is written, checked and resumed as one: a tensor, or an expert's record."""

    name: str  # the parameter, or the layer of the expert
    expert: int | None
    shape: tuple[int, ...]  # of a tensor, as the checkpoint has it; () for a record
    parts: tuple[Part, ...]
    file: str
    offset: int
    size_bytes: int  # of a record: the stride

    def __str__(self) -> str:
        return self.name if self.expert is None else f"{self.name}, expert {self.expert}"


def lay_out(shapes: Shapes, recipe: Recipe) -> tuple[Item, ...]:
    """All items, file by file, each file's in the order of their offsets."""
    ends = dict.fromkeys(DATA_FILES, 0)
    items: list[Item] = []

    def place(item: Item) -> None:
        alignment = PAGE if item.size_bytes >= PAGE else LINE
        offset = round_up(ends[item.file], alignment)
        ends[item.file] = offset + item.size_bytes
        items.append(replace(item, offset=offset))

    for name, shape in shapes.items():
        if name.endswith(_GATE_UP):
            for record in _records(name.removesuffix(_GATE_UP), shapes, recipe):
                place(record)
        elif not name.endswith(_DOWN):
            place(_tensor(name, shape, recipe))
    return tuple(sorted(items, key=lambda item: DATA_FILES.index(item.file)))  # stable: offsets stay in order


def file_sizes(items: tuple[Item, ...]) -> dict[str, int]:
    """Bytes of each data file: whole pages, so that they can be read past the system's cache."""
    ends = {item.file: item.offset + item.size_bytes for item in items}  # the last of a file counts
    return {file: round_up(end, PAGE) for file, end in ends.items()}


def _tensor(name: str, shape: tuple[int, ...], recipe: Recipe) -> Item:
    format_name = recipe.format_of(name, shape)
    n, k = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
    part = Part(Place(name), format_name, n, k, 0)
    file = VISION if name.startswith("visual.") else TEXT
    return Item(name, None, shape, (part,), file, 0, part.size_bytes)


def _records(layer: str, shapes: Shapes, recipe: Recipe) -> Iterator[Item]:
    num_experts, D, size = shapes[layer + _DOWN]
    sources: tuple[tuple[Projection, str, int, int], ...] = (
        ("gate", layer + _GATE_UP, size, D),
        ("up", layer + _GATE_UP, size, D),
        ("down", layer + _DOWN, D, size),
    )
    for expert in range(num_experts):
        parts: list[Part] = []
        end = 0
        for projection, parameter, n, k in sources:
            format_name = recipe.format_of(parameter, (n, k))
            assert format_name != F32, "experts are products: kernels read tiles"
            parts.append(Part(Place(parameter, expert, projection), format_name, n, k, end))
            end = round_up(end + parts[-1].size_bytes, LINE)
        yield Item(layer, expert, (), tuple(parts), EXPERTS, 0, round_up(end, PAGE))
