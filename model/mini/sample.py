"""One training sample from its name: world, seed and split. Everything random in it follows from these."""

import hashlib
import random

from mini.clips import Shot, make_clip
from mini.documents import make_document
from mini.labels import Glyph, Question, Sample, Shape
from mini.outside import make_outside
from mini.receipts import make_receipt
from mini.scenes import make_scene
from mini.stray import add_strays
from mini.talk import make_talk
from mini.text_pictures import make_text

__all__ = ["SPLITS", "SYSTEM_MESSAGES", "WORLDS", "Glyph", "Question", "Sample", "Shape", "make_sample"]

WORLDS = ("scene", "text", "receipt", "document", "outside", "clip", "talk")
SPLITS = ("train", "val", "test")
SIDES = (96, 320)
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a helpful vision assistant.",
    "You are an assistant that answers questions about pictures.",
    "Answer briefly.",
    "Be brief.",
    "Answer truthfully.",
    "Answer the question about the picture.",
    "Be precise.",
    "Look closely at the picture.",
    "Give short answers.",
)


def make_sample(
    world: str,
    seed: int,
    split: str,
    size: tuple[int, int] | None = None,
    num_questions: int = 6,
    difficulty: float = 1.0,
    shot: Shot | None = None,
) -> Sample:
    """The sample of this name; equal arguments and equal fonts give equal samples, on any machine.

    `size` is (height, width) in pixels, else each side is drawn from `SIDES`. `difficulty` (0..1)
    grows printed text from a few clean characters to full lines, and scenes from one shape to four;
    the other worlds take no notice. Documents have the whole tokens nearest to `size` that they have room
    on. `shot` is a clip's size and length; its `size` is not looked at.
    """
    assert world in WORLDS, world
    assert split in SPLITS, split
    digest = hashlib.sha256(f"{split}/{world}/{seed}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    size = size or (rng.randint(*SIDES), rng.randint(*SIDES))
    if world == "scene":
        sample = make_scene(size, num_questions, rng, difficulty)
    elif world == "text":
        sample = make_text(size, num_questions, rng, split, difficulty)
    elif world == "receipt":
        sample = make_receipt(size, num_questions, rng, split)
    elif world == "document":
        sample = make_document(size, num_questions, rng, split)
    elif world == "outside":
        sample = make_outside(size, num_questions, rng)
    elif world == "clip":
        sample = make_clip(num_questions, rng, shot)
    else:
        sample = make_talk(num_questions, rng)
    add_strays(sample, rng)
    for question in sample.questions:
        dress(question, rng)
    return sample


def dress(question: Question, rng: random.Random) -> None:
    """Give some questions a system message, and take most of the reasoning away."""
    if rng.random() < 0.2:
        question.system = rng.choice(SYSTEM_MESSAGES)
    if rng.random() >= 0.08:
        question.reasoning = None
