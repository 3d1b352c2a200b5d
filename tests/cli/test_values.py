import pytest

from qwencli.values import (
    ImageTokens,
    PageRanges,
    Thinking,
    VideoTokens,
    parse_bytes,
    parse_choice,
    parse_fps,
    parse_image_tokens,
    parse_number,
    parse_pages,
    parse_thinking,
    parse_time,
    parse_video_tokens,
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("1:23", 83),
        ("1:02:03.5", 3723.5),
        ("1h2m3s", 3723),
        ("2m", 120),
    ],
)
def test_times_are_seconds_or_a_clock(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1:75", "1:2:3:4", "1s2m", "s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize(("text", "rate"), [("2", 2), ("0.5", 0.5), (".5", 0.5), ("1/10", 0.1)])
def test_a_rate_may_be_a_fraction(text: str, rate: float) -> None:
    assert parse_fps(text) == rate


@pytest.mark.parametrize("text", ["0", "-1", "1/0", "5000", "nan", "fast"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of frames a second"):
        parse_fps(text)


def test_tokens_of_a_video() -> None:
    assert parse_video_tokens("auto") == VideoTokens()
    assert parse_video_tokens("model") == VideoTokens(is_capped=False)
    assert parse_video_tokens("500") == VideoTokens(500, is_capped=False)
    for text in ("0", "-1", "1:2", "all"):
        with pytest.raises(ValueError, match="is none of auto, model, or a number of tokens"):
            parse_video_tokens(text)


@pytest.mark.parametrize("text", ["", "8X", "-1G", "1e5G", "9" * 400])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is larger than any memory"):
        parse_bytes(text)
