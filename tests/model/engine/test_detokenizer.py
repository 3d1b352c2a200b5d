import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35.engine.detokenizer import Detokenizer
from qwen35.processing.tokenizer import Tokenizer
from tests.model.checkpoint import byte_tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())  # every byte a token: the hardest splits there are


def pieces(tokens: bytes | list[int], *stop: str) -> list[str]:
    """What each token makes certain, then what the end does."""
    detokenizer = Detokenizer(TOKENIZER, stop)
    shown = []
    for token in tokens:
        shown.append(detokenizer.push(token))
        if detokenizer.is_stopped:
            break
    shown.append(detokenizer.flush())
    assert detokenizer.text == "".join(shown)
    return shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_out_whole(text: str) -> None:
    assert "".join(pieces(text.encode())) == text


def test_a_character_is_shown_when_its_last_byte_arrives() -> None:
    assert pieces("aé😀".encode()) == ["a", "", "é", "", "", "", "😀", ""]


def test_long_text_with_wide_characters_survives_the_cutting_of_its_tokens() -> None:
    text = "日本語のテキスト、und so weiter… " * 40
    assert "".join(pieces(text.encode())) == text


@pytest.mark.parametrize("broken", [b"ab\xff", b"\xe2\x82", b"\xff\xfeok", b"\xe2\x82ok"])
def test_bytes_that_are_no_text_are_shown_as_such_and_lose_nothing_else(broken: bytes) -> None:
    assert "".join(pieces(broken)) == broken.decode(errors="replace")


def test_special_tokens_are_not_shown() -> None:
    end = TOKENIZER.id_of("<|im_end|>")
    assert "".join(pieces([*b"ok", end])) == "ok"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("abcabd", ["abd"], "abc"),
        ("aab", ["ab"], "a"),
        ("xSTOPy", ["TOP", "STOP"], "x"),
        ("nothing of it", ["STOP"], "nothing of it"),
        ("ends in ST", ["STOP"], "ends in ST"),
        ("käse", ["ä"], "k"),
        ("an empty one stops nothing", [""], "an empty one stops nothing"),
    ],
)
def test_the_text_ends_before_a_stop_string(text: str, stop: list[str], expected: str) -> None:
    assert "".join(pieces(text.encode(), *stop)) == expected


def test_what_may_become_a_stop_string_waits() -> None:
    assert pieces(b"aSTxSTOP", "STOP") == ["a", "", "", "STx", "", "", "", "", ""]


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stopping_equals_cutting_the_whole_text_at_the_first_stop_string_complete(
    text: str, stop: list[str]
) -> None:
    ends = [text[:end] for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    whole = text if not ends else ends[0][: min(ends[0].find(s) for s in stop if s in ends[0])]
    assert "".join(pieces(text.encode(), *stop)) == whole
