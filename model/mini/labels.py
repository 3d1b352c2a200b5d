"""What one picture of the training data is made of: pixels, questions with answers, and labels."""

from dataclasses import dataclass, field

import numpy as np

ASKED = ("kind", "colour", "place")  # what a question may name


@dataclass(slots=True)
class Question:
    """A first-turn question with its one right answer.

    A question with `reasoning` is asked in thinking mode: the target holds the reasoning, then the answer.
    `asked` are the kind, colour and place that it names, "" for those that it does not.
    """

    question: str
    answer: str
    task: str
    system: str | None = None
    reasoning: str | None = None
    asked: tuple[str, str, str] = ("", "", "")


@dataclass(slots=True)
class Glyph:
    """One drawn character, no space: `x` is its horizontal centre in pixels.

    `y` is the middle of the line's x-height, so all glyphs of a line share it.
    """

    char: str
    x: float
    y: float


@dataclass(slots=True)
class Shape:
    """One plain shape: its centre and the radius it was drawn with, in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(slots=True, kw_only=True)
class Sample:
    """One picture (or none) and the independent questions asked about it."""

    world: str  # "scene", "text", "receipt", "outside" or "talk"
    pixels: np.ndarray | None  # (H, W, 3) uint8
    questions: list[Question]
    glyphs: list[Glyph] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
