"""What mini is measured by: held-out pictures and questions by task, and when an answer is right.

Pictures and clips come from the split `test`, a part of the printed ones in a family of typefaces kept out
of training. The photographs, the questions from outside and the small talk are worded or taken
nowhere else.
"""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from mini.labels import Question, Sample
from mini.outside import draw_outside
from mini.outside_questions import OUTSIDE
from mini.photographs import cut_photograph, find_photographs
from mini.phrasing import vary
from mini.sample import make_sample
from mini.talk import ABOUT_A_PICTURE, NO_PICTURE, TALK
from mini.words import read_list

# The world of a task, and the kinds of question that belong to it.
INSIDE_TASKS = {
    "scenes": ("scene", ("describe", "count", "colour", "colours", "shape", "thing", "where", "present")),
    "text": ("text", ("read",)),
    "lines": ("text", ("line",)),
    "receipts_total": ("receipt", ("total",)),
    "receipts_other": ("receipt", ("date", "merchant", "price", "items", "describe")),
}
STILL_TASKS = (*INSIDE_TASKS, "outside", "talk")
DOCUMENT_TASKS = {
    "tables": ("document", ("table_json", "table_csv")),
    "receipts": ("document", ("receipt_json",)),
    "invoices": ("document", ("invoice_json",)),
    "charts": ("document", ("chart_json",)),
    "document_fields": ("document", ("document_field",)),
    "document_cells": ("document", ("cell", "chart_value")),
    "document_text": ("document", ("document_text",)),
    "document_templates": (
        "document",
        ("receipt_template", "invoice_template", "table_template", "chart_template"),
    ),
    "scenes_json": ("scene", ("scene_json",)),
}
CLIP_TASKS = {
    "clips_happens": ("clip", ("happens",)),
    "clips_direction": ("clip", ("direction",)),
    "clips_colour": ("clip", ("colour",)),
    "clips_presence": ("clip", ("presence",)),
    "clips_count": ("clip", ("count",)),
    "clips_when": ("clip", ("when",)),
    "clips_outside": ("clip", ("outside",)),
}
TASKS = (*STILL_TASKS, *DOCUMENT_TASKS, *CLIP_TASKS)

# In the order of the answers in `TALK`.
HELD_OUT_TALK = (
    ("Hi mini!", "Good day", "Hello, are you there?"),
    ("Please tell me your name.", "Which model am I using?", "What kind of model are you?"),
    ("What can I do with you?", "What are you able to do?", "Which things can you do?"),
    ("How do you answer questions?", "How have you been trained?", "Tell me how you work."),
    ("Thanks so much!", "Thank you, that helps.", "OK, thank you."),
    ("Bye bye", "Goodbye for now.", "See you soon."),
)
HELD_OUT_NO_PICTURE = (
    "What do you see in this picture?",
    "How many shapes can you see?",
    "Please read the text.",
    "What is the total on this receipt?",
    "Where is the blue star?",
    "What colour is the hexagon?",
    "Is there a black square?",
    "Read the second line.",
)


def held_out(task: str, num_samples: int) -> list[Sample]:
    """The first samples of the task, always the same ones, each with one question in plain mode.

    Of talk there are only as many as there are phrasings.
    """
    if task == "outside":
        return [outside_sample(index) for index in range(num_samples)]
    if task == "talk":
        return talk_samples()[:num_samples]
    world, kinds = (INSIDE_TASKS | DOCUMENT_TASKS | CLIP_TASKS)[task]
    samples: list[Sample] = []
    for seed in count():
        if len(samples) == num_samples:
            break
        sample = make_sample(world, seed, "test")
        fitting = [question for question in sample.questions if question.task in kinds]
        if fitting:
            fitting[0].reasoning = None
            sample.questions = fitting[:1]
            samples.append(sample)
    return samples


def outside_sample(index: int) -> Sample:
    """Of ten, four are photographs, two textures; two ask other things of a known picture, two of none.

    Where no package with photographs is installed, textures stand in; each question's `task` says
    which it is.
    """
    rng = random.Random(f"outside/{index}")
    turn, kind = divmod(index, 10)
    photographs = find_photographs()
    about_pictures = ABOUT_A_PICTURE if rng.random() < 0.7 else read_list("held_out_picture_questions")
    if kind < 4 and photographs:
        pixels = cut_photograph(photographs[(4 * turn + kind) % len(photographs)], rng)
        return declined_sample("outside_photograph", pixels, about_pictures, rng)
    if kind < 6:
        size = rng.randint(96, 320), rng.randint(96, 320)
        return declined_sample("outside_texture", draw_outside(size, rng), about_pictures, rng)
    if kind < 8:
        known = make_sample(rng.choice(["scene", "text", "receipt"]), index, "test", num_questions=1)
        asked = read_list("held_out_questions") + read_list("held_out_picture_questions")
        return declined_sample("outside_question", known.pixels, asked, rng)
    return declined_sample("outside_talk", None, read_list("held_out_questions"), rng)


def declined_sample(
    task: str, pixels: np.ndarray | None, phrasings: Sequence[str], rng: random.Random
) -> Sample:
    question = Question(vary(rng.choice(phrasings), rng), OUTSIDE, task)
    return Sample(world="outside", pixels=pixels, questions=[question])


def talk_samples() -> list[Sample]:
    questions = [
        Question(phrasing, answer, "talk")
        for answer, phrasings in zip(TALK, HELD_OUT_TALK, strict=True)
        for phrasing in phrasings
    ]
    questions += [Question(phrasing, NO_PICTURE, "no_picture") for phrasing in HELD_OUT_NO_PICTURE]
    return [Sample(world="talk", pixels=None, questions=[question]) for question in questions]


def is_right(question: Question, answer: str) -> bool:
    """Exactly the expected answer, but for space around it."""
    return answer.strip() == question.answer


def fields_right(question: Question, answer: str) -> float:
    """The share of the fields that are exactly as expected, of those expected or said, if these are more."""
    expected, said = fields(question.answer), fields(answer)
    right = sum(said.get(place) == value for place, value in expected.items())
    return right / max(len(expected), len(said))


def fields(answer: str) -> dict[str, str]:
    """The values of an answer by their place: in JSON by the way to them, else by line and comma."""
    try:
        return dict(_leaves(json.loads(answer), "$"))
    except ValueError:
        lines = answer.strip().splitlines() or [""]
        return {
            f"{row},{column}": value
            for row, line in enumerate(lines)
            for column, value in enumerate(line.split(","))
        }


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{index}]")
    else:
        yield place, repr(value)


def is_declined(answer: str) -> bool:
    return answer.strip() == OUTSIDE
