"""Clips: what is drawn is what is asked about, and the program shows it as the training did."""

import colorsys
import random
from collections import Counter

import numpy as np
import pytest

from mini.batches import IGNORE, BatchMaker
from mini.clip_questions import ClipAsker
from mini.clips import Film, draw_shot
from mini.labels import PairLabels, Question, Sample, Shape
from mini.outside_questions import OUTSIDE
from mini.sample import make_sample
from mini.scene_questions import PLACES
from mini.scenes import HSV_RANGES
from mini.write import write_checkpoint
from qwen35.messages import Message, TextPart, VideoPart
from qwen35.network.model import Qwen35
from qwen35.processing.processor import Processor


def clip_samples(num: int, num_questions: int = 12) -> list[Sample]:
    samples = (make_sample("clip", seed, "val", num_questions=num_questions) for seed in range(2 * num))
    return [sample for sample in samples if sample.clip and sample.clip.pairs][:num]


@pytest.fixture(scope="module")
def maker() -> BatchMaker:
    return BatchMaker()


@pytest.fixture(scope="module")
def processor(maker: BatchMaker, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(Qwen35(maker.config), folder)
    return Processor.from_folder(folder)


def test_the_program_prepares_a_clip_as_the_training_does(maker: BatchMaker, processor: Processor) -> None:
    for sample in clip_samples(6, num_questions=1):
        (question,) = sample.questions
        batch = maker.collate_clips([sample], None)
        assert batch.pictures is not None
        assert sample.clip is not None
        (rows,) = batch.rows
        message = Message("user", (VideoPart(sample.clip.clip), TextPart(question.question)))
        prepared = processor.prepare([message], enable_thinking=question.reasoning is not None)
        num_rest = int((rows.targets[0] != IGNORE).float().argmax()) + 1
        ids = [*batch.pictures.prefix[0].tolist(), *rows.ids[0, :num_rest].tolist()]
        positions = np.concatenate([batch.pictures.positions[:, 0], rows.positions[:, 0, :num_rest]], axis=1)
        assert ids == prepared.ids.tolist()
        assert np.array_equal(positions, prepared.position_ids)
        patches = np.concatenate([*prepared.clips[0].patches()])
        assert batch.pictures.patches is not None
        assert np.array_equal(patches, batch.pictures.patches)


def test_the_second_part_of_an_answer_is_told_from_the_first(maker: BatchMaker) -> None:
    num_parted = 0
    for sample in clip_samples(6):
        batch = maker.collate_clips([sample], None)
        by_ids = {tuple(maker.tokenizer.encode(q.answer)): q for q in sample.questions}
        for rows in batch.rows:
            assert rows.is_later is not None
            for targets, is_later in zip(rows.targets, rows.is_later, strict=True):
                said = targets[targets != IGNORE].tolist()
                question = by_ids.get(tuple(said[:-1]))
                if question is None:  # in thinking mode, the reasoning comes first
                    continue
                later = maker.tokenizer.decode(targets[is_later & (targets != IGNORE)].tolist())
                expected = question.answer[question.second_part :] if question.second_part else ""
                assert later == (f"{expected}<|im_end|>" if expected else "")
                num_parted += bool(expected)
    assert num_parted > 5


def frame_at(film: Film, time: float) -> np.ndarray:
    return next(film.frames([time], (film.height, film.width)))


def colour_of(pixels: np.ndarray) -> str:
    """The name nearest to what a few pixels (..., 3) are on the average; "" for a light ground."""
    hue, saturation, value = colorsys.rgb_to_hsv(*pixels.reshape(-1, 3).mean(0) / 255)
    if value > 0.8 and saturation < 0.3:
        return ""
    if value < 0.25:
        return "black"
    if saturation < 0.25:
        return "grey"

    def away(name: str) -> float:
        low, high = HSV_RANGES[name][0]
        return abs((hue * 360 - (low + high) / 2 + 180) % 360 - 180)

    return min((name for name in HSV_RANGES if name not in ("black", "grey")), key=away)


def test_the_labels_are_what_the_frames_show() -> None:
    seen: Counter[str] = Counter()
    for sample in clip_samples(40, num_questions=1):
        assert sample.clip is not None
        film, plan, pairs = sample.clip.clip, sample.clip.plan, sample.clip.pairs
        assert isinstance(film, Film)
        for number, pair in enumerate(pairs):
            pictures = [frame_at(film, time) for time in plan.pair(number)]
            for index, shape in enumerate(pair.shapes):
                places = {(s.x, s.y) for p in pairs if (s := p.shapes[index]) is not None}
                if len(places) > 1:
                    continue  # it moves: the middle of a pair may lie beside both
                ((x, y),) = places
                around = np.s_[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
                colour = shape.colour if shape else ""
                assert [colour_of(picture[around]) for picture in pictures] == [colour, colour]
                seen["there" if shape else "not there"] += 1
    assert min(seen.values()) > 5


def test_a_shape_goes_where_the_answer_says() -> None:
    num_moves = 0
    for sample in clip_samples(60):
        assert sample.clip is not None
        film, plan = sample.clip.clip, sample.clip.plan
        assert isinstance(film, Film)
        answers = {q.answer for q in sample.questions if q.task == "direction"}
        if not answers or len(sample.clip.pairs[0].shapes) > 1:
            continue
        (answer,) = answers
        places = []
        for pair in (0, plan.num_pairs - 1):
            y, x = np.mean([middle_of(frame_at(film, time)) for time in plan.pair(pair)], axis=0)
            places.append(PLACES[int(y / film.height * 3) * 3 + int(x / film.width * 3)])
        begin, end = places
        assert answer == f"From the {begin} to the {end}."
        num_moves += begin != end
    assert num_moves > 5


def middle_of(picture: np.ndarray) -> tuple[float, float]:
    """(y, x) of what is not ground."""
    picture = picture.astype(int)
    y, x = np.nonzero(np.abs(picture - np.median(picture, axis=(0, 1))).max(-1) > 60)
    return y.mean(), x.mean()


def test_when_is_the_second_of_the_first_pair_that_differs_from_the_one_before() -> None:
    num_asked = 0
    for sample in clip_samples(60):
        assert sample.clip is not None
        shapes = [pair.shapes[0] for pair in sample.clip.pairs]
        for question in sample.questions:
            if question.task == "when":
                (pair,) = question.pairs
                second = int("".join(filter(str.isdigit, question.answer)))
                assert sample.clip.plan.timestamp(pair).startswith(f"<{second}.")
                before, now = shapes[pair - 1], shapes[pair]
                assert (before and before.colour) != (now and now.colour)
                assert question.looks_at_end
                num_asked += 1
    assert num_asked > 10


def circle(colour: str = "red", x: float = 50) -> Shape:
    return Shape("circle", colour, x, 50, 10)


STAR = Shape("star", "black", 20, 20, 10)


def told(story: str, *pairs: list[Shape | None]) -> dict[str, set[str]]:
    """All answers by the question as it is put, of a clip whose n-th pair stands at 2 n seconds."""
    labels = [PairLabels(shapes, 2 * number) for number, shapes in enumerate(pairs)]
    questions: list[Question] = []
    for seed in range(800):
        questions += ClipAsker(story, labels, (100, 100), random.Random(seed)).ask(12)
    answers: dict[str, set[str]] = {}
    for question in questions:
        answers.setdefault(question.question.lower().rstrip("?."), set()).add(question.answer)
    assert all(len(found) == 1 for found in answers.values()), "one question, one answer"
    return answers


@pytest.mark.parametrize(
    ("story", "pairs", "expected"),
    [
        (
            "moves",
            [[circle(), STAR], [circle(), STAR], [circle(x=80), STAR]],
            {
                "what happens": "A black star at the top left and a red circle in the centre, "
                "then a black star at the top left and a red circle at the middle right.",
                "which way does the circle move": "From the centre to the middle right.",
                "which way does the star move": "From the top left to the top left.",
                "what colour is the star at the end": "Black.",
            },
        ),
        (
            "turns",
            [[circle()], [circle("blue")], [circle("blue")]],
            {
                "what happens": "A red circle in the centre, then a blue circle in the centre.",
                "what colour is the circle at first": "Red.",
                "what colour is the circle at the end": "Blue.",
                "what colour does the circle turn": "Blue.",
                "when does the circle turn blue": "At 2 seconds.",
                "how many circles are there at the end": "1",
            },
        ),
        (
            "appears",
            [[None, STAR], [circle(), STAR]],
            {
                "what happens": "A black star at the top left, "
                "then a black star at the top left and a red circle in the centre.",
                "what appears": "A red circle.",
                "is there a circle at first": "No.",
                "is there a circle at the end": "Yes.",
                "how many shapes are there at first": "1",
                "how many shapes are there at the end": "2",
                "when does it happen": "At 2 seconds.",
            },
        ),
        (
            "disappears",
            [[circle()], [circle()], [None]],
            {
                "what happens": "A red circle in the centre, then nothing.",
                "what disappears": "A red circle.",
                "how many shapes are there at the end": "0",
                "when does the red circle disappear": "At 4 seconds.",
            },
        ),
        ("appears", [[None], [circle()]], {"what happens": "Nothing, then a red circle in the centre."}),
        (
            "counts",
            [[None, circle()], [circle(), circle(x=90)]],
            {"how many circles are there at the end": "2"},
        ),
    ],
)
def test_answers_say_what_happens(
    story: str, pairs: list[list[Shape | None]], expected: dict[str, str]
) -> None:
    answers = told(story, *pairs)
    assert {question: answers.get(question) for question in expected} == {
        question: {answer} for question, answer in expected.items()
    }


def test_when_is_not_asked_of_what_has_no_one_time() -> None:
    for story, pairs in (
        ("counts", [[None, circle()], [circle(), circle(x=90)]]),
        ("moves", [[circle()], [circle(x=80)]]),
        ("nothing", [[circle()], [circle()]]),
    ):
        assert not [question for question in told(story, *pairs) if "when" in question]


def test_all_stories_are_told_and_some_clips_are_from_outside() -> None:
    samples = [make_sample("clip", seed, "val", num_questions=8) for seed in range(150)]
    outside = [sample for sample in samples if sample.clip and not sample.clip.pairs]
    assert 3 < len(outside) < 30
    assert all(question.answer == OUTSIDE for sample in outside for question in sample.questions)
    asked = {question.task for sample in samples for question in sample.questions}
    assert asked == {"happens", "direction", "colour", "presence", "count", "when", "outside"}


def test_a_shot_can_be_a_file() -> None:
    """Whole frames, four at least."""
    rng = random.Random(0)
    for _ in range(100):
        shot = draw_shot(rng)
        film = Film(shot, lambda time, size=shot.size: np.zeros((*size, 3), np.uint8))
        assert film.num_frames >= 4
        assert film.num_frames / film.fps == pytest.approx(film.duration)
