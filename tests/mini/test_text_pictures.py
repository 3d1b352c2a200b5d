import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mini.fonts import load_face
from mini.printing import print_line
from mini.sample import make_sample
from mini.text_pictures import print_page


def ink_columns(text):
    """How dark each column is where the text is printed."""
    image = Image.new("L", (400, 60), 255)
    print_line(ImageDraw.Draw(image), text, 10, 40, load_face(None, 24), 0)
    return 255.0 - np.asarray(image).min(axis=0)


def test_a_glyph_lies_where_its_ink_is():
    text = "Hamburg 12.50 To,ken"
    image = Image.new("L", (400, 60), 255)
    glyphs = print_line(ImageDraw.Draw(image), text, 10, 40, load_face(None, 24), 0)
    assert "".join(glyph.char for glyph in glyphs) == text.replace(" ", "")
    assert len({glyph.y for glyph in glyphs}) == 1
    ends = [index + 1 for index, char in enumerate(text) if char != " "]
    for end, glyph in zip(ends, glyphs, strict=True):
        added = np.flatnonzero(np.abs(ink_columns(text[:end]) - ink_columns(text[: end - 1])) > 60)
        assert added.mean() == pytest.approx(glyph.x, abs=4)


def test_printed_pages_have_ink_at_every_glyph():
    for seed in range(60):
        image, lines, glyphs = print_page((160, 240), random.Random(seed), "train", difficulty=1.0)
        pixels = np.asarray(image.convert("L")).astype(int)
        assert "".join(glyph.char for glyph in glyphs) == "".join(lines).replace(" ", "")
        for glyph in glyphs:
            assert 0 < glyph.x < 240
            assert 0 < glyph.y < 160
            rows, columns = slice(max(0, round(glyph.y) - 14), round(glyph.y) + 15), round(glyph.x)
            around = pixels[rows, max(0, columns - 4) : columns + 5]
            assert np.ptp(around) > 40, glyph


def test_lines_are_joined_and_numbered_in_the_answers():
    for seed in range(100):
        sample = make_sample("text", seed, "val", num_questions=6)
        by_task = {question.task: question for question in sample.questions}
        lines = by_task["read"].answer.split("\n") if "read" in by_task else None
        for question in sample.questions:
            words = question.question.lower()
            if lines and question.task == "line" and ("line 1" in words or "first" in words):
                assert question.answer == lines[0]
            if lines and question.task == "line" and ("last" in words or "bottom" in words):
                assert question.answer == lines[-1]
            if lines and question.task == "count_lines":
                assert question.answer == str(len(lines))


def test_the_easiest_pictures_hold_one_short_line():
    for seed in range(100):
        glyphs = make_sample("text", seed, "train", (64, 96), difficulty=0.0).glyphs
        assert 1 <= len(glyphs) <= 4
        assert len({glyph.y for glyph in glyphs}) == 1


def test_full_difficulty_reaches_four_long_lines():
    answers = [
        question.answer
        for seed in range(100)
        for question in make_sample("text", seed, "train", (320, 320)).questions
        if question.task == "read"
    ]
    assert max(answer.count("\n") for answer in answers) == 3
    assert max(len(answer) for answer in answers) > 100
