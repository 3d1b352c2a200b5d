import colorsys
import random
from collections import defaultdict

import pytest

from mini.sample import make_sample
from mini.scene_questions import COLOURS, KINDS, PLACES, describe, scene_questions
from mini.scenes import HSV_RANGES, draw_scene

THINGS = [("red", "circle", "top left"), ("blue", "square", "centre"), ("blue", "star", "bottom right")]


def plain(question):
    return question.lower().rstrip("?.")


@pytest.fixture(scope="module")
def answers():
    """All answers that many draws give, by question."""
    found = defaultdict(set)
    for seed in range(4000):
        for question in scene_questions(THINGS, 10, random.Random(seed)):
            found[plain(question.question)].add(question.answer)
    return found


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many shapes are there?", "3"),
        ("How many blue shapes are there?", "2"),
        ("How many circles are there?", "1"),
        ("What colour is the star?", "Blue."),
        ("What colour is the hexagon?", "There is no hexagon."),
        ("Which colours are in the picture?", "Red and blue."),
        ("What shape is red?", "A circle."),
        ("What shape is green?", "There is nothing green."),
        ("What is in the centre?", "A blue square."),
        ("What is at the top right?", "There is nothing there."),
        ("Where is the blue square?", "In the centre."),
        ("Where is the red circle?", "At the top left."),
        ("Is there a circle?", "Yes."),
        ("Is there a hexagon?", "No."),
        ("Is the circle red?", "Yes."),
        ("Is the circle green?", "No."),
    ],
)
def test_a_question_has_its_answer(question, answer, answers):
    assert answers[plain(question)] == {answer}


def test_no_question_has_two_answers(answers):
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}


@pytest.mark.parametrize("question", ["What shape is blue?", "Where is the blue one?"])
def test_nothing_ambiguous_is_asked(question, answers):
    assert plain(question) not in answers


def test_the_description_goes_in_reading_order():
    assert describe(THINGS) == (
        "A red circle at the top left, a blue square in the centre and a blue star at the bottom right."
    )
    assert describe([("orange", "star", "middle left")]) == "An orange star at the middle left."


def test_each_shape_lies_in_its_place_and_has_its_colour():
    for seed in range(150):
        rng = random.Random(seed)
        height, width = rng.randint(96, 320), rng.randint(96, 320)
        image, placed = draw_scene((height, width), rng)
        assert 1 <= len(placed) <= 4
        assert [PLACES.index(place) for _, place in placed] == sorted({PLACES.index(p) for _, p in placed})
        for shape, place in placed:
            row, column = divmod(PLACES.index(place), 3)
            assert row * height / 3 <= shape.y - shape.radius
            assert shape.y + shape.radius <= (row + 1) * height / 3
            assert column * width / 3 <= shape.x - shape.radius
            assert shape.x + shape.radius <= (column + 1) * width / 3
            assert shape.kind in KINDS
            assert has_colour(image.getpixel((round(shape.x), round(shape.y))), shape.colour)


def has_colour(pixel, name):
    hue, *others = colorsys.rgb_to_hsv(*(level / 255 for level in pixel))
    (low, high), *ranges = HSV_RANGES[name]
    is_hue_right = low - 2 <= hue * 360 <= high + 2 or low - 2 <= hue * 360 + 360 <= high + 2
    is_colourless = name in ("black", "grey")
    fits = all(low - 0.02 <= value <= high + 0.02 for (low, high), value in zip(ranges, others, strict=True))
    # Saturation of a near-black pixel is all rounding.
    return (is_hue_right and fits) or (
        is_colourless and ranges[1][0] - 0.02 <= others[1] <= ranges[1][1] + 0.02
    )


def test_labels_agree_with_the_description():
    for seed in range(100):
        sample = make_sample("scene", seed, "val", num_questions=10)
        for question in sample.questions:
            if question.task == "describe":
                named = [f"{shape.colour} {shape.kind}" for shape in sample.shapes]
                found = [question.answer.index(name) for name in dict.fromkeys(named)]
                assert found == sorted(found)


def test_all_shapes_and_colours_occur():
    shapes = [shape for seed in range(100) for shape in make_sample("scene", seed, "train", (96, 96)).shapes]
    assert {shape.kind for shape in shapes} == set(KINDS)
    assert {shape.colour for shape in shapes} == set(COLOURS)
