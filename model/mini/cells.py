"""What lies in each picture token, as numbers: the labels that the vision encoder learns from.

A column is one thing that a token may hold, `NUM_VALUES` how many different ones: 0 says that there
is none, i + 1 that there is the i-th. Where the label of a token is a matter of opinion, as at the
edge of a shape, it is not `sure`, and no one is asked for it.
"""

from dataclasses import dataclass

import numpy as np

from mini.labels import Sample, Shape
from mini.scene_questions import COLOURS, KINDS, PLACES

WORLDS = ("scene", "text", "receipt", "outside")  # what kind of picture a token belongs to
OTHER_WORLDS = {"document": "receipt"}
MAX_LINES = 12  # printed ones; those further down count as the last
SLOTS = 4  # characters that one token may be asked for
NUM_CHARS = 95  # ASCII 32..126
NUM_VALUES = {
    "world": len(WORLDS),
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "place": len(PLACES),
    "centre": 1,  # here a shape has its centre, so that shapes can be counted
    "line": MAX_LINES,
    **{f"char{slot}": NUM_CHARS for slot in range(SLOTS)},
}
COLUMNS = tuple(NUM_VALUES)
INSIDE = 0.5  # of the radius: what lies nearer is the shape's beyond doubt
NAMES = {"kind": KINDS, "colour": COLOURS, "place": PLACES}


@dataclass(frozen=True, slots=True)
class Cells:
    """Labels of M tokens in raster order: `values` (M, columns) int64, `is_sure` (M, columns) bool."""

    values: np.ndarray
    is_sure: np.ndarray


def number_of(column: str, name: str) -> int:
    """The label of a kind, colour or place; 0 for no name."""
    return NAMES[column].index(name) + 1 if name else 0


def label_cells(sample: Sample, grid: tuple[int, int], *, has_places: bool = True) -> Cells:
    """The labels of a picture shown as a grid (height, width) of tokens.

    `has_places`: whether the picture is a whole one, whose shapes lie at nine places.
    """
    assert sample.pixels is not None
    values = np.zeros((*grid, len(COLUMNS)), np.int64)
    is_sure = np.ones((*grid, len(COLUMNS)), bool)
    values[..., COLUMNS.index("world")] = 1 + WORLDS.index(OTHER_WORLDS.get(sample.world, sample.world))
    _label_shapes(sample, values, is_sure, has_places)
    _label_text(sample, values)
    return Cells(values.reshape(-1, len(COLUMNS)), is_sure.reshape(-1, len(COLUMNS)))


def distances(shape: Shape, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """How far the middles of the tokens (rows, columns) are from the shape's, in its radius.

    `size` (height, width) is the picture's in pixels.
    """
    y = ((np.arange(grid[0]) + 0.5) / grid[0] * size[0])[:, None]
    x = (np.arange(grid[1]) + 0.5) / grid[1] * size[1]
    return np.hypot(y - shape.y, x - shape.x) / shape.radius


def centre_of(shape: Shape, size: tuple[int, ...], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the token that holds the shape's centre; `size` (height, width) in pixels."""
    return int(shape.y / size[0] * grid[0]), int(shape.x / size[1] * grid[1])


def inside_of(shape: Shape, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Which tokens (rows, columns) are surely the shape's, its centre's always."""
    inside = distances(shape, size, grid) < INSIDE
    inside[centre_of(shape, size, grid)] = True
    return inside


def _label_shapes(sample: Sample, values: np.ndarray, is_sure: np.ndarray, has_places: bool) -> None:
    """A token is a shape's where its middle lies well inside, and where the shape has its centre."""
    assert sample.pixels is not None
    height, width = sample.pixels.shape[:2]
    rows, columns = values.shape[:2]
    for shape in sample.shapes:
        distance = distances(shape, (height, width), (rows, columns))
        centre = centre_of(shape, (height, width), (rows, columns))
        inside, near = distance < INSIDE, distance < 1.15
        inside[centre] = near[centre] = True
        labels = {"kind": KINDS.index(shape.kind), "colour": COLOURS.index(shape.colour)}
        if has_places:
            labels["place"] = int(shape.y / height * 3) * 3 + int(shape.x / width * 3)
        for name in ("kind", "colour", "place"):
            column = COLUMNS.index(name)
            is_sure[..., column] &= ~near
            if name in labels:
                values[near, column] = 1 + labels[name]
                is_sure[inside, column] = True
        values[(*centre, COLUMNS.index("centre"))] = 1


def _label_text(sample: Sample, values: np.ndarray) -> None:
    """A character belongs to the token that holds the middle of its line at its own middle.

    So the tokens in raster order spell the text. More than SLOTS in one token are left out.
    """
    assert sample.pixels is not None
    height, width = sample.pixels.shape[:2]
    rows, columns = values.shape[:2]
    lines = {y: index for index, y in enumerate(sorted({glyph.y for glyph in sample.glyphs}))}
    first_slot = COLUMNS.index("char0")
    used = np.zeros((rows, columns), np.int64)
    for glyph in sorted(sample.glyphs, key=lambda g: g.x):
        row, column = int(glyph.y / height * rows), int(glyph.x / width * columns)
        if 0 <= row < rows and 0 <= column < columns and used[row, column] < SLOTS:
            values[row, column, first_slot + used[row, column]] = ord(glyph.char) - 31
            values[row, column, COLUMNS.index("line")] = 1 + min(lines[glyph.y], MAX_LINES - 1)
            used[row, column] += 1
