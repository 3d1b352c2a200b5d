"""Small parts of the renderers."""

import io
import subprocess
import sys

import pytest

from qwencli.render.columns import count, facts, size, table
from qwencli.render.output import Output
from qwencli.render.record import Record
from qwencli.render.safe import one_line, terminal_safe


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert terminal_safe("a\x1b[2Jb\x07\x9bc\u202ed\r") == "a\ufffd[2Jb\ufffd\ufffdc\ufffdd\ufffd"
    assert terminal_safe("tab\tline\nünï 漢字 🎉") == "tab\tline\nünï 漢字 🎉"


def test_a_name_of_two_lines_is_one_line() -> None:
    assert one_line("a\nb") == "a\\nb"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (27_400_000, "27.4 MB"),
        (6.5e9, "6.5 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_in_units_of_1000(number: int, text: str) -> None:
    assert size(int(number)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (12, "12"),
        (12_500, "12.5K"),
        (752_000_000, "752M"),
        (27_800_000_000, "27.8B"),
        (397_000_000_000, "397B"),
    ],
)
def test_parameters_are_counted_as_names_do(number: int, text: str) -> None:
    assert count(number) == text


def test_the_object_of_a_run_is_written_once() -> None:
    stream, record = io.StringIO(), Record()
    for _ in range(2):
        record.print(Output(stream), "json")
    assert stream.getvalue().count("\n") == 1


def test_columns_are_as_wide_as_their_widest_entry() -> None:
    assert table(("A", "B"), [("long", "x"), ("s", "yy")]) == "A     B\nlong  x\ns     yy\n"
    assert facts({"a": "1", "long": "2"}) == "a     1\nlong  2\n"


def test_a_note_within_the_answer_waits_for_the_end_of_its_line() -> None:
    """Both streams in one file, as `2>&1` has them."""
    code = (
        "import sys; from qwen35.events import *; from qwencli.render.aside import *\n"
        "from qwencli.render.plain import PlainRenderer; from qwencli.render.output import standard_output\n"
        "sys.stderr = sys.stdout\n"
        "with Aside(Verbosity.NORMAL) as aside, PlainRenderer(standard_output(), aside) as renderer:\n"
        "    for event in (Note('first'), TextDelta('one'), Note('then'), TextDelta(' two')):\n"
        "        renderer.show(event)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "note: first\none two\nnote: then\n"


def test_the_last_column_is_broken_between_words_on_a_narrow_terminal() -> None:
    rows = [("1", "these are words of a long line that goes on")]
    assert table(("N", "TEXT"), rows, 30) == "N  TEXT\n1  these are words of a long\n   line that goes on\n"
    assert table(("N" * 20, "TEXT"), rows, 30).splitlines()[1:] == [
        "1",
        "  these are words of a long",
        "  line that goes on",
    ]
    assert facts({"a": "some words", "long": "and some more words of it"}, 26).splitlines() == [
        "a     some words",
        "long  and some more words",
        "      of it",
    ]
    assert table(("N", "TEXT"), rows) == "N  TEXT\n1  these are words of a long line that goes on\n"
