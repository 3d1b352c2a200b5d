"""Questions from outside of mini's world, and the one sentence that declines them all."""

import random

from mini.labels import Question, Sample
from mini.phrasing import vary
from mini.words import WORDS, read_list

OUTSIDE = (
    "I am a small built-in model: I only know simple shapes, short clips of them, and pages in block letters."
)
UNDERSTOOD = ("absent", "talk", "outside")  # tasks whose answers are the same where print is not read

# Of no picture, or of any picture.
OUTSIDE_QUESTIONS = read_list("outside_questions")

# Of a picture, but of things that mini does not know in any picture.
OUTSIDE_PICTURE_QUESTIONS = read_list("outside_picture_questions")

# Words that a question from inside may be about.
INSIDE_WORDS = frozenset(read_list("inside_words"))
NAMES = read_list("names")
TOPICS = [word for word in WORDS if word not in INSIDE_WORDS]


def outside_question(rng: random.Random) -> Question:
    """A question that no picture of mini's world answers, and that needs none; now and then mere words."""
    if rng.random() < 0.1:
        question = " ".join(rng.choice(TOPICS) for _ in range(rng.randint(1, 6)))
    else:
        question = rng.choice(OUTSIDE_QUESTIONS)
    return decline(fill(question, rng), rng)


def outside_picture_question(rng: random.Random) -> Question:
    """A question about a picture that mini cannot answer of any."""
    return decline(fill(rng.choice(OUTSIDE_PICTURE_QUESTIONS), rng), rng)


def fill(template: str, rng: random.Random) -> str:
    words = {"topic": rng.choice(TOPICS), "other": rng.choice(TOPICS), "number": str(rng.randint(2, 99))}
    return template.format(**words, name=rng.choice(NAMES))


def decline(question: str, rng: random.Random) -> Question:
    return Question(vary(question, rng), OUTSIDE, "outside", reasoning="This is outside of what I know.")


def decline_print(sample: Sample, rng: random.Random) -> None:
    """What asks for printed words and numbers is declined, of a model that does not learn to read them."""
    if sample.world not in ("text", "receipt"):
        return
    for index, question in enumerate(sample.questions):
        counts_lines = sample.world == "text" and question.task in ("describe", "count_lines")
        if question.task not in UNDERSTOOD and not counts_lines:
            sample.questions[index] = decline(question.question, rng)
