"""Batches: every stage's can be made at any time; rows of about one length lie together."""

import math

import pytest

from mini.batches import BatchMaker, best_split
from mini.curriculum import STAGES, Curriculum, Stage


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reads", [True, False])
def test_every_stage_has_batches_from_its_beginning_to_its_end(stage: Stage, reads: bool) -> None:
    maker, curriculum = BatchMaker(), Curriculum(stage, tokens_per_step=60, reads=reads, clips=0.2)
    for index in range(40):
        batch = maker.make(index, index / 39, curriculum)
        assert batch.rows or stage == "eyes"
        if batch.pictures is not None:
            num_tokens = math.prod(batch.pictures.grid) // 4 * len(batch.pictures.prefix)
            assert batch.pictures.labels.shape == batch.pictures.is_sure.shape
            assert len(batch.pictures.labels) == num_tokens
            assert (batch.pictures.patches is None) == (stage == "language")


@pytest.mark.parametrize(
    ("lengths", "split"),
    [([20, 21, 22, 60, 66], 3), ([30, 30, 30], 3), ([9], 1), ([10, 50, 50, 50], 1)],
)
def test_long_rows_are_parted_from_short_ones(lengths: list[int], split: int) -> None:
    padded = lengths[split - 1] * split + lengths[-1] * (len(lengths) - split)
    assert best_split(lengths) == split or padded == len(lengths) * lengths[-1]
