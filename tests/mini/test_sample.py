import numpy as np
import pytest

from mini.sample import SPLITS, WORLDS, make_sample


@pytest.mark.parametrize("world", WORLDS)
def test_a_sample_follows_from_its_name(world):
    first, second = (make_sample(world, 7, "train", (120, 150)) for _ in range(2))
    assert first.questions == second.questions
    assert first.glyphs == second.glyphs
    assert first.shapes == second.shapes
    assert np.array_equal(first.pixels, second.pixels)
    if world == "clip":
        assert first.clip.pairs == second.clip.pairs
        for mine, other in zip(first.clip.clip.pictures(), second.clip.clip.pictures(), strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.parametrize("world", WORLDS)
def test_splits_and_seeds_have_nothing_in_common(world):
    samples = [make_sample(world, seed, split) for split in SPLITS for seed in range(20)]
    contents = {(str(s.questions), s.pixels.tobytes() if s.pixels is not None else b"") for s in samples}
    assert len(contents) == len(samples)


@pytest.mark.parametrize("world", ["scene", "text", "receipt", "outside"])
@pytest.mark.parametrize("size", [(96, 96), (97, 320), (320, 101)])
def test_the_size_is_as_asked(world, size):
    pixels = make_sample(world, 1, "train", size).pixels
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8


def test_a_size_is_drawn_between_96_and_320():
    sizes = [make_sample("scene", seed, "train").pixels.shape for seed in range(50)]
    assert all(96 <= side <= 320 for size in sizes for side in size[:2])


@pytest.mark.parametrize("world", WORLDS)
def test_each_sample_has_six_different_ascii_questions(world):
    for seed in range(200):
        questions = make_sample(world, seed, "train", (100, 130)).questions
        assert len({question.question for question in questions}) == 6
        for question in questions:
            assert question.question.isascii()
            assert question.answer.isascii()
            assert question.question == question.question.strip() != ""
            assert question.answer == question.answer.strip() != ""


def test_a_fifth_has_a_system_message_and_few_are_in_thinking_mode():
    questions = [q for seed in range(300) for q in make_sample("scene", seed, "train", (96, 96)).questions]
    assert 0.15 < np.mean([question.system is not None for question in questions]) < 0.25
    assert 0.05 < np.mean([question.reasoning is not None for question in questions]) < 0.11
