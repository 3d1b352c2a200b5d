"""What training is told of a clip's tokens."""

import numpy as np
import pytest

from mini.architecture import video_processor
from mini.clip_labels import COMES, GOES, NOTICED, SHOWN, TURNS, UNKNOWN, ClipLabels, what_is_new
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


def test_when_something_happens_is_looked_for_at_the_shape_and_where_its_pair_ends() -> None:
    for shape, at in ((0, places_of(STAR, 1)), (1, set())):
        looks = labels().looks(Question("", "", "", pairs=[1], looks_at=(shape,), looks_at_end=True))
        assert {96} | at <= set(np.flatnonzero(looks[0]).tolist()) <= {*range(60, 96), 96}
        assert looks[0].sum() == (1 if shape else 1 + looks[0][60:96].sum())
        assert not looks[1].any()


def test_pair_second_and_what_is_new_are_told_at_the_shapes_and_where_a_pair_ends() -> None:
    noticed = labels().noticed()
    assert list(NOTICED)[:4] == ["pair", "second", "count", "new"]
    assert noticed[[46, 96], :4].tolist() == [[0, 0, 2, 0], [1, 1, 1, GOES]]
    (star,) = places_of(STAR, 1)
    assert noticed[star, :4].tolist() == [1, 1, UNKNOWN, 0]
    (gone,) = places_of(GONE, 1)
    assert (noticed[gone] == UNKNOWN).all()


def test_where_a_pair_ends_its_colours_and_those_before_are_told() -> None:
    noticed, names = labels().noticed(), list(NOTICED)
    for end, shown in ((46, {"has red", "has blue"}), (96, {"has red", "had red", "had blue"})):
        told = {name for name, value in zip(names, noticed[end], strict=True) if name in SHOWN and value}
        assert told == shown
    assert (noticed[[*range(46), *range(47, 96)], 4:] == UNKNOWN).all()


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        (STAR, Shape("star", "red", 60, 24, 12), 0),
        (STAR, Shape("star", "blue", 24, 24, 12), TURNS),
        (None, STAR, COMES),
        (STAR, None, GOES),
        (None, None, 0),
    ],
)
def test_new_is_what_was_not_so_in_the_pair_before(before: Shape | None, now: Shape | None, new: int) -> None:
    assert what_is_new(before, now) == new
    film = labels().clip.clip
    pairs = [PairLabels([before, GONE], 0), PairLabels([now, GONE], 1)]
    told = ClipLabels(ShownClip(film, labels().clip.plan, pairs), (6, 6), labels().places, LENGTH).noticed()
    assert told[[46, 96], 3].tolist() == [0, new]
    if now is not None:
        assert set(told[sorted(places_of(now, 1)), 3]) == {new}


def test_the_cells_of_all_pairs_lie_one_after_another() -> None:
    cells = labels().cells()
    assert cells.values.shape[0] == 2 * 36
    kinds = cells.values[:, 1].reshape(2, 6, 6)
    assert kinds[0, 4, 4] > 0
    assert kinds[1, 4, 4] == 0
    assert kinds[0, 1, 1] == kinds[1, 1, 1] > 0
