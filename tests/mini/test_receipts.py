import random
import re

from mini.fonts import load_face
from mini.receipts import draw_receipt, lay_out
from mini.sample import make_sample


def cents(price):
    return round(100 * float(price.lstrip("$")))


def test_the_total_is_the_sum():
    for seed in range(100):
        receipt = draw_receipt(load_face(None, 14), 200, 2 + seed % 4, random.Random(seed))
        assert cents(receipt.total) == sum(cents(price) for _, price in receipt.items)
        assert len({name.lower() for name, _ in receipt.items}) == 2 + seed % 4


def test_everything_asked_about_is_printed():
    face = load_face(None, 14)
    for seed in range(100):
        rng = random.Random(seed)
        receipt = draw_receipt(face, 200, 3, rng)
        rows = lay_out(receipt, face, 200, 3, rng)
        assert len(rows) <= 3 + 3 + 3
        texts = [row.text for row in rows]
        assert receipt.merchant in texts
        assert sum(receipt.date in text for text in texts) == 1
        printed = [(row.text, row.amount) for row in rows]
        assert all(item in printed for item in receipt.items)
        assert receipt.total in [row.amount for row in rows]


def test_answers_are_among_the_glyphs():
    for seed in range(100):
        sample = make_sample("receipt", seed, "val", num_questions=6)
        text = "".join(glyph.char for glyph in sample.glyphs)
        for question in sample.questions:
            if question.task in ("total", "date", "merchant"):
                assert question.answer.replace(" ", "") in text
            if question.task == "price" and question.answer != "It is not on the receipt.":
                assert re.fullmatch(r"\$?\d+\.\d\d", question.answer)
                assert question.answer in text


def test_glyphs_lie_within_the_picture():
    for seed in range(100):
        sample = make_sample("receipt", seed, "train", (96, 96 + seed))
        assert all(0 < glyph.x < 96 + seed for glyph in sample.glyphs)
        assert all(0 < glyph.y < 96 for glyph in sample.glyphs)
