import io

import pytest
from rich.console import Console

from qwencli.render.markdown import FaithfulMarkdown, finished_length


def drawn(markup: str, width: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(FaithfulMarkdown(markup))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_line_breaks_angle_brackets_and_entities_stay() -> None:
    lines = drawn("Milk  2.50\nBread 1.20\n<b>5 < 6</b> &amp; <script>x</script>")
    assert lines == ["Milk  2.50", "Bread 1.20", "<b>5 < 6</b> &amp; <script>x</script>"]


def test_line_breaks_within_emphasis_and_lists_stay() -> None:
    assert drawn("**a\nb**") == ["a", "b"]
    assert [line for line in drawn("- a\n  b") if line] == [" • a", "   b"]


def test_a_link_shows_where_it_leads() -> None:
    assert drawn("[docs](https://example.org)") == ["docs (https://example.org)"]


def test_a_heading_is_at_the_left() -> None:
    assert "Title" in drawn("# Title")


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("one", ""),
        ("one\n\n", ""),  # the next line may belong to it
        ("one\n\ntwo", "one\n\n"),
        ("one\n\n  two", ""),
        ("- a\n\n- b\n\n", ""),
        ("- a\n\n- b\n\nend", "- a\n\n- b\n\n"),
        ("1. a\n\n   more\n\n2. b", ""),
        ("text\n\n- a", "text\n\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\n\nend", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\nx", ""),
        ("~~~\n```\n\nx", ""),
        ("a\n\nb\n\nc", "a\n\nb\n\n"),
    ],
)
def test_a_block_is_finished_when_nothing_can_change_it(text: str, finished: str) -> None:
    assert text[: finished_length(text)] == finished


def test_a_text_in_pieces_ends_as_the_whole_text_does() -> None:
    text = (
        "# T\n\npara\nline\n\n- a\n- b\n\n```py\nx = 1\n\ny\n```\n\n1. q\n\n   r\n2. s\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\nend"
    )
    pieces, growing = [], ""
    for character in text:
        growing += character
        length = finished_length(growing)
        if length:
            pieces.append(growing[:length])
            growing = growing[length:]
    pieces.append(growing)
    apart = [line for piece in pieces for line in drawn(piece) if line]
    assert apart == [line for line in drawn(text) if line]
