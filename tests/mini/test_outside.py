import random
from collections import Counter

import numpy as np
import pytest

from mini.outside_questions import OUTSIDE, TOPICS, decline_print
from mini.sample import make_sample
from mini.scene_questions import KINDS
from mini.talk import NO_PICTURE, TALK
from mini.words import read_list


def test_every_question_about_an_outside_picture_is_declined():
    for seed in range(50):
        assert {q.answer for q in make_sample("outside", seed, "train", (96, 96)).questions} == {OUTSIDE}


def test_outside_pictures_differ():
    means = [make_sample("outside", seed, "train", (96, 96)).pixels.mean() for seed in range(50)]
    assert len({round(mean, 3) for mean in means}) == 50
    assert np.std(means) > 20


def test_topics_of_outside_questions_are_not_mini_s_own():
    assert TOPICS
    assert not set(TOPICS) & {*KINDS, "shape", "text", "total", "receipt"}


def test_talk_has_no_picture_and_fixed_answers():
    known = {*TALK, NO_PICTURE, OUTSIDE}
    for seed in range(100):
        sample = make_sample("talk", seed, "train", num_questions=12)
        assert sample.pixels is None
        assert len(sample.questions) == 12
        assert {question.answer for question in sample.questions} <= known


def test_lists_hold_each_entry_once():
    for name in ("words", "goods", "outside_questions", "outside_picture_questions", "names"):
        entries = read_list(name)
        assert len(set(entries)) == len(entries)
        assert all(entry.isascii() and entry.strip() == entry != "" for entry in entries)


@pytest.mark.parametrize("world", ["text", "receipt", "scene"])
def test_what_print_says_is_declined_where_reading_is_not_learnt(world: str) -> None:
    kept: Counter[str] = Counter()
    for seed in range(40):
        sample = make_sample(world, seed, "train", (120, 140), 6, 0.8)
        before = list(sample.questions)
        decline_print(sample, random.Random(seed))
        for was, now in zip(before, sample.questions, strict=True):
            if now is was:
                kept[now.task] += 1
            else:
                assert (now.task, now.answer) == ("outside", OUTSIDE)
                assert now.question.lower().rstrip("?.") == was.question.lower().rstrip("?.")
    if world == "scene":
        assert kept["describe"] > 20
    else:
        assert {*kept} <= {
            "absent",
            "talk",
            "outside",
            *(("describe", "count_lines") if world == "text" else ()),
        }
