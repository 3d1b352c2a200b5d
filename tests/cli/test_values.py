import pytest

from qwencli.values import (
    ImageTokens,
    PageRanges,
    Thinking,
    parse_choice,
    parse_image_tokens,
    parse_number,
    parse_pages,
    parse_thinking,
    parse_whole,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", Thinking(False)),
        ("0", Thinking(False)),
        ("on", Thinking(True)),
        ("auto", Thinking()),
        ("512", Thinking(True, 512)),
    ],
)
def test_thinking_is_a_switch_or_a_budget(text: str, value: Thinking) -> None:
    assert parse_thinking(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto", ImageTokens()),
        ("model", ImageTokens(is_capped=False)),
        ("256", ImageTokens(None, 256, is_capped=False)),
        ("64:256", ImageTokens(64, 256, is_capped=False)),
    ],
)
def test_image_tokens_are_a_policy_or_bounds(text: str, value: ImageTokens) -> None:
    assert parse_image_tokens(text) == value


@pytest.mark.parametrize("text", ["256:64", "0", "0:5", "-3", "a", "1:2:3", "", "4:"])
def test_image_tokens_out_of_order_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=repr(text)):
        parse_image_tokens(text)


@pytest.mark.parametrize(
    ("text", "pages"),
    [("1", [1]), ("1-3,5", [1, 2, 3, 5]), ("4-", [4, 5, 6]), ("5,1", [5, 1]), (" 2 , 3 ", [2, 3])],
)
def test_pages_are_chosen_in_the_order_written(text: str, pages: list[int]) -> None:
    assert parse_pages(text).select(6) == pages


@pytest.mark.parametrize("text", ["0", "3-2", "a", "1,,2", "-3", ""])
def test_pages_that_are_no_list_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of pages"):
        parse_pages(text)


@pytest.mark.parametrize("ranges", [((7, 7),), ((2, 9),), ((8, None),)])
def test_a_page_that_is_not_there_is_named(ranges: tuple) -> None:
    with pytest.raises(ValueError, match=r"no page [789]: it has 6"):
        PageRanges(ranges).select(6)


@pytest.mark.parametrize("text", ["nan", "x", "-0.1", "1.1", "inf", ""])
def test_numbers_outside_their_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number from 0 to 1"):
        parse_number(0, 1)(text)


@pytest.mark.parametrize("text", ["1.5", "x", "0", "-1", ""])
def test_whole_numbers_below_their_minimum_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number of at least 1"):
        parse_whole(1)(text)


def test_numbers_at_the_edges_are_taken() -> None:
    assert [parse_number(0, 1)(text) for text in ("0", "1", "0.5")] == [0, 1, 0.5]
    assert parse_whole(1)("1") == 1


def test_a_choice_names_what_there_is() -> None:
    assert parse_choice("auto", "cpu")("cpu") == "cpu"
    with pytest.raises(ValueError, match="'tpu' is none of auto, cpu"):
        parse_choice("auto", "cpu")("tpu")
