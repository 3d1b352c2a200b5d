import pytest

from mini.evaluate_tasks import TASKS, fields_right, held_out, is_declined, is_right, talk_samples
from mini.labels import Question
from mini.outside_questions import OUTSIDE
from mini.sample import make_sample
from mini.talk import ABOUT_A_PICTURE, TALK
from mini.words import read_list


@pytest.mark.parametrize("task", TASKS)
def test_held_out_samples_are_always_the_same(task):
    first, second = held_out(task, 12), held_out(task, 12)
    assert len(first) == 12
    assert [sample.questions for sample in first] == [sample.questions for sample in second]
    assert all(len(sample.questions) == 1 for sample in first)
    assert all(sample.questions[0].reasoning is None for sample in first)


def test_outside_has_pictures_and_questions_of_each_sort():
    samples = held_out("outside", 40)
    assert {sample.questions[0].answer for sample in samples} == {OUTSIDE}
    sorts = [sample.questions[0].task for sample in samples]
    assert sorts.count("outside_photograph") in (0, 16)
    assert sorts.count("outside_photograph") + sorts.count("outside_texture") == 24
    assert sorts.count("outside_question") == sorts.count("outside_talk") == 8
    assert sum(sample.pixels is None for sample in samples) == 8


def test_held_out_questions_are_not_in_training():
    trained = {*read_list("outside_questions"), *read_list("outside_picture_questions"), *ABOUT_A_PICTURE}
    trained |= {phrasing for phrasings in TALK.values() for phrasing in phrasings}
    held = {*read_list("held_out_questions"), *read_list("held_out_picture_questions")}
    held |= {sample.questions[0].question for sample in talk_samples()}
    assert not {text.lower().rstrip("?.!") for text in trained} & {
        text.lower().rstrip("?.!") for text in held
    }


def test_an_answer_is_right_when_it_is_exact():
    question = make_sample("scene", 0, "test").questions[0]
    assert is_right(question, f" {question.answer}\n")
    assert not is_right(question, question.answer + " And more.")
    assert is_declined(OUTSIDE + "\n")
    assert not is_declined("A red circle.")


@pytest.mark.parametrize(
    ("expected", "said", "share"),
    [
        ('{"a": "x", "b": [{"c": 1}, {"c": 2}]}', '{"a": "x", "b": [{"c": 1}, {"c": 2}]}', 1.0),
        ('{"a": "x", "b": [{"c": 1}, {"c": 2}]}', '{"a": "x", "b": [{"c": 3}]}', 1 / 3),
        ('{"a": 1}', '{"a": 1, "b": 2}', 0.5),
        ('{"a": 1}', '{"a": "1"}', 0.0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b"', 0.0),
        ("A,B\nx,1", "A,B\nx,2", 0.75),
        ("8.75", "8.75", 1.0),
        ("8.75", "", 0.0),
    ],
)
def test_fields_count_one_by_one(expected, said, share):
    assert fields_right(Question("", expected, ""), said) == pytest.approx(share)
