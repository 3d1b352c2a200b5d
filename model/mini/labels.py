"""What one picture or clip of the training data is made of: pixels, questions with answers, and labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mini.marks import Marks, Source
from qwen35.messages import Clip
from qwen35.processing.video_plan import VideoPlan

ASKED = ("kind", "colour", "place")  # what a question may name


@dataclass(slots=True)
class Question:
    """A first-turn question with its one right answer.

    A question with `reasoning` is asked in thinking mode: the target holds the reasoning, then the answer.
    `asked` are the kind, colour and place that it names, "" for those that it does not. Of a clip, the
    answer lies in the shapes of these numbers (`looks_at`; in none: in all that it shows) in one of its
    `pairs` of frames; with two, in the second from the character `second_part` of the answer on. With
    `looks_at_end` it also lies where that pair ends: what is gone is known there alone. Of a document,
    each character of the answer and its end have their `sources`.
    """

    question: str
    answer: str
    task: str
    system: str | None = None
    reasoning: str | None = None
    asked: tuple[str, str, str] = ("", "", "")
    pairs: Sequence[int] = ()
    looks_at: Sequence[int] = ()
    second_part: int = 0
    looks_at_end: bool = False
    sources: Sequence[Source] = ()


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


@dataclass(slots=True)
class PairLabels:
    """What one pair of a clip's frames shows: `shapes` by number, None where that one is not there now."""

    shapes: list[Shape | None]
    second: int  # whole seconds of the pair's time stamp


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip with what a model is shown of it."""

    clip: Clip
    plan: VideoPlan
    pairs: Sequence[PairLabels]  # empty of clips from outside


@dataclass(slots=True, kw_only=True)
class Sample:
    """One picture or clip (or none) and the independent questions asked about it."""

    world: str  # one of `WORLDS`
    pixels: np.ndarray | None  # (H, W, 3) uint8
    clip: ShownClip | None = None
    questions: list[Question]
    glyphs: list[Glyph] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    marks: Marks | None = None  # of a document
