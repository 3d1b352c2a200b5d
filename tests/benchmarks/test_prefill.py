import pytest

from benchmarks.prefill import late_cost, parse_lengths


def test_the_late_cost_is_that_of_the_last_part_over_that_at_1024() -> None:
    parts = [[512, 1.0], [1024, 2.0], [1536, 3.5], [2048, 6.5]]
    assert late_cost(parts) == pytest.approx(3.0)


@pytest.mark.parametrize("parts", [[], [[512, 1.0]], [[512, 1.0], [1024, 2.0]], [[2048, 1.0], [4096, 2.0]]])
def test_short_prompts_and_other_parts_have_none(parts: list[list[float]]) -> None:
    assert late_cost(parts) is None


def test_lengths_come_sorted() -> None:
    assert parse_lengths("2048,512") == (512, 2048)
