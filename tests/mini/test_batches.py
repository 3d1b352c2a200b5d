"""Batches: rows of about one length together."""

import pytest

from mini.batches import best_split


@pytest.mark.parametrize(
    ("lengths", "split"),
    [([20, 21, 22, 60, 66], 3), ([30, 30, 30], 3), ([9], 1), ([10, 50, 50, 50], 1)],
)
def test_long_rows_are_parted_from_short_ones(lengths: list[int], split: int) -> None:
    padded = lengths[split - 1] * split + lengths[-1] * (len(lengths) - split)
    assert best_split(lengths) == split or padded == len(lengths) * lengths[-1]
