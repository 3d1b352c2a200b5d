"""What training is told of a clip's tokens."""

import numpy as np

from mini.architecture import video_processor
from mini.clip_labels import NOTICED, UNKNOWN, ClipLabels
from mini.clips import Film, Shot
from mini.labels import PairLabels, Question, Shape, ShownClip

SHOT = Shot((96, 96), 2.0, 10)  # two pairs of 6 x 6 tokens
STAR, GONE = Shape("star", "red", 24, 24, 12), Shape("circle", "blue", 72, 72, 12)
PAIRS = [PairLabels([STAR, GONE], 0), PairLabels([STAR, None], 1)]
LENGTH = 100


def labels() -> ClipLabels:
    film = Film(SHOT, lambda time: np.zeros((96, 96, 3), np.uint8))
    plan = video_processor().plan(film)
    assert (plan.num_pairs, plan.size) == (2, (96, 96))
    places = np.stack([10 + np.arange(36), 60 + np.arange(36)])
    return ClipLabels(ShownClip(film, plan, PAIRS), (6, 6), places, LENGTH)


def question(pairs: list[int], looks_at: tuple[int, ...]) -> Question:
    return Question("", "", "", pairs=pairs, looks_at=looks_at)


def places_of(shape: Shape, pair: int) -> set[int]:
    """The token of its centre, which is always its own."""
    return {(10, 60)[pair] + int(shape.y) // 16 * 6 + int(shape.x) // 16}


def test_an_answer_is_looked_for_at_its_shapes_or_where_a_pair_ends() -> None:
    ends = (46, 96)
    star, gone, nothing = (0,), (1,), ()
    for pairs, shapes, first, second in (
        ([0], star, places_of(STAR, 0), set()),
        ([0], nothing, places_of(STAR, 0) | places_of(GONE, 0), set()),
        ([1], star, places_of(STAR, 1), set()),
        ([1], gone, {ends[1]}, set()),
        ([0, 1], nothing, places_of(STAR, 0) | places_of(GONE, 0), places_of(STAR, 1)),
        ([], nothing, set(), set()),
    ):
        looks = labels().looks(question(pairs, shapes))
        for row, expected in zip(looks, (first, second), strict=True):
            found = set(np.flatnonzero(row).tolist())
            assert found >= expected
            assert len(found) <= 4 * len(expected)


def test_pair_and_second_are_told_at_the_shapes_and_where_a_pair_ends() -> None:
    noticed = labels().noticed()
    assert list(NOTICED) == ["pair", "second", "count"]
    assert noticed[[46, 96]].tolist() == [[0, 0, 2], [1, 1, 1]]
    (star,) = places_of(STAR, 1)
    assert noticed[star].tolist() == [1, 1, UNKNOWN]
    (gone,) = places_of(GONE, 1)
    assert (noticed[gone] == UNKNOWN).all()


def test_the_cells_of_all_pairs_lie_one_after_another() -> None:
    cells = labels().cells()
    assert cells.values.shape[0] == 2 * 36
    kinds = cells.values[:, 1].reshape(2, 6, 6)
    assert kinds[0, 4, 4] > 0
    assert kinds[1, 4, 4] == 0
    assert kinds[0, 1, 1] == kinds[1, 1, 1] > 0
