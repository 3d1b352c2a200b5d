"""Where in the prompt of a clip lies what a question is about, and what there is to notice on the way.

Told to the training alone: answers would take far longer to say where to look, and that time matters.
"""

from collections.abc import Sequence

import numpy as np

from mini.cells import Cells, inside_of, label_cells
from mini.labels import PairLabels, Question, Sample, Shape, ShownClip
from mini.scene_questions import COLOURS

# What the tokens of a clip may be asked for, and how many different values there are.
NOTICED = {"pair": 6, "second": 20, "count": 5, "new": 4}
SHOWN = tuple(f"{when} {colour}" for when in ("has", "had") for colour in COLOURS)
NOTICED |= dict.fromkeys(SHOWN, 2)  # whether a pair shows that colour, and whether the one before did
# What is new since the pair before; 0 is nothing, and so is what moves.
COMES, TURNS, GOES = 1, 2, 3
UNKNOWN = -100  # as `IGNORE` of `batches.py`


class ClipLabels:
    """Of one clip, whose pairs' placeholders are at `places` (pairs, M) of a prompt of `length` tokens."""

    def __init__(self, clip: ShownClip, grid: tuple[int, int], places: np.ndarray, length: int) -> None:
        """`grid` (height, width) in tokens."""
        self.clip, self.grid, self.places, self.length = clip, grid, places, length
        self.ends = places[:, -1] + 1  # what closes a pair: there all of it is known

    def cells(self) -> Cells:
        """The labels of all pairs' tokens, one after another."""
        empty: Sequence[PairLabels | None] = [None] * self.clip.plan.num_pairs
        cells = []
        for pair in self.clip.pairs or empty:
            shapes = [shape for shape in pair.shapes if shape is not None] if pair else []
            pixels = np.broadcast_to(np.uint8(0), (*self.clip.plan.original_size, 3))
            world = "scene" if pair else "outside"
            cells.append(
                label_cells(Sample(world=world, pixels=pixels, questions=[], shapes=shapes), self.grid)
            )
        return Cells(np.concatenate([c.values for c in cells]), np.concatenate([c.is_sure for c in cells]))

    def noticed(self) -> np.ndarray:
        """Labels (length, NOTICED): of a shape its pair and second, and what is new; where a pair ends its
        count as well, and the colours that it and the one before show."""
        labels = np.full((self.length, len(NOTICED)), UNKNOWN)
        for number, pair in enumerate(self.clip.pairs):
            count = sum(shape is not None for shape in pair.shapes)
            second = pair.second if pair.second < NOTICED["second"] else UNKNOWN
            before = self.clip.pairs[max(number - 1, 0)]
            new = [what_is_new(*shapes) for shapes in zip(before.shapes, pair.shapes, strict=True)]
            for shape in range(len(pair.shapes)):
                labels[self._shape(number, shape), :4] = number, second, UNKNOWN, new[shape]
            shown = [*colours_of(pair), *(colours_of(before) if number else [0] * len(COLOURS))]
            labels[self.ends[number]] = number, second, count, max(new), *shown
        return labels

    def looks(self, question: Question) -> np.ndarray:
        """Which tokens (2, length) tell the answer, its first part and its second."""
        looks = np.zeros((2, self.length), bool)
        for part, pair in enumerate(question.pairs):
            numbers = question.looks_at or range(len(self.clip.pairs[pair].shapes))
            for number in numbers:
                looks[part, self._shape(pair, number)] = True
            if question.looks_at_end or not looks[part].any():
                looks[part, self.ends[pair]] = True
        return looks

    def _shape(self, pair: int, number: int) -> np.ndarray:
        """The places in the prompt of a shape's tokens in a pair; none where it is not there."""
        shape = self.clip.pairs[pair].shapes[number]
        if shape is None:
            return self.places[pair, :0]
        return self.places[pair, inside_of(shape, self.clip.plan.original_size, self.grid).flatten()]


def colours_of(pair: PairLabels) -> list[int]:
    """By colour, whether the pair shows it."""
    shown = {shape.colour for shape in pair.shapes if shape is not None}
    return [int(colour in shown) for colour in COLOURS]


def what_is_new(before: Shape | None, now: Shape | None) -> int:
    if (before is None) != (now is None):
        return GOES if now is None else COMES
    return TURNS if before and now and before.colour != now.colour else 0
