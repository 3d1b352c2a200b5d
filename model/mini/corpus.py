"""The prose that the tokenizer's merges are learnt from: questions and answers, but nothing printed."""

import random
from collections.abc import Iterator

from mini.labels import Question
from mini.receipt_questions import Receipt, receipt_questions
from mini.sample import SYSTEM_MESSAGES
from mini.scene_questions import COLOURS, KINDS, PLACES, scene_questions
from mini.stray import stray_question
from mini.talk import make_talk
from mini.text_questions import text_questions

NUM_PICTURES = 1500
BLANK_RECEIPT = Receipt("", "", (("", ""),), "")


def prose() -> Iterator[str]:
    """The same texts each time: system messages, questions, reasoning and answers."""
    rng = random.Random(0)
    yield from SYSTEM_MESSAGES * 50
    for _ in range(NUM_PICTURES):
        yield from texts_of(scene_questions(random_things(rng), 6, rng))
        yield from texts_of(receipt_questions(BLANK_RECEIPT, [""], 3, rng))
        yield from texts_of(text_questions([""] * rng.randint(1, 4), 3, rng))
        yield from texts_of(make_talk(3, rng).questions)
        yield from texts_of([stray_question("scene", rng)])


def random_things(rng: random.Random) -> list[tuple[str, str, str]]:
    cells = sorted(rng.sample(range(len(PLACES)), rng.randint(1, 4)))
    return [(rng.choice(COLOURS), rng.choice(KINDS), PLACES[cell]) for cell in cells]


def texts_of(questions: list[Question]) -> Iterator[str]:
    for question in questions:
        yield question.question
        yield question.answer
        if question.reasoning is not None and question.task in ("describe", "talk"):
            yield question.reasoning
