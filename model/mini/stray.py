"""Questions that do not fit the picture: small talk, another world's questions, the unanswerable."""

import random

from mini.labels import Question, Sample
from mini.outside_questions import outside_picture_question, outside_question
from mini.phrasing import article, vary
from mini.receipt_questions import DATE, MERCHANT, TOTAL
from mini.scene_questions import COLOUR_OF, COUNT, IS_THERE, KINDS
from mini.talk import talk_question
from mini.text_questions import READ, READ_LAST

STRAY_SHARE = 0.08
RECEIPT = TOTAL + DATE + MERCHANT
REASONING = {
    "scene": "The picture shows simple shapes.",
    "text": "The picture shows printed text.",
    "receipt": "The picture shows a receipt.",
}


def add_strays(sample: Sample, rng: random.Random) -> None:
    """Replace a small share of an inside picture's questions."""
    if sample.world not in REASONING:
        return
    for index in range(len(sample.questions)):
        if rng.random() < STRAY_SHARE:
            stray = stray_question(sample.world, rng)
            if all(stray.question != other.question for other in sample.questions):
                sample.questions[index] = stray


def stray_question(world: str, rng: random.Random) -> Question:
    chance = rng.random()
    if chance < 0.25:
        return talk_question(rng)
    if chance < 0.65:
        return rng.choice([outside_question, outside_picture_question])(rng)
    return question_of_another_world(world, rng)


def question_of_another_world(world: str, rng: random.Random) -> Question:
    """A question whose subject is not in the picture; the answer says so."""
    kind = rng.choice(KINDS)
    no_receipt = [(RECEIPT, "There is no receipt.")]
    no_text = [(READ + READ_LAST, "There is no text.")]
    no_shape = [(COLOUR_OF, f"There is no {kind}."), (COUNT, "0"), (IS_THERE, "No.")]
    fitting = {
        "scene": no_text + no_receipt,
        "text": no_receipt if rng.random() < 0.5 else no_shape,
        "receipt": no_shape,
    }
    phrasings, answer = rng.choice(fitting[world])
    question = rng.choice(phrasings).format(it=kind, these=f"{kind}s", one=article(kind))
    return Question(vary(question, rng), answer, "absent", reasoning=REASONING[world])
