"""Parts of a batch by themselves: the question's places, what is prepared ahead, what is shown of it."""

import threading
import time
from dataclasses import dataclass

import pytest

from qwencli.batch.ahead import ahead
from qwencli.batch.summary import Summary, duration
from qwencli.templates.places import MissingColumn, Places


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("What is {name}?", "What is a.png?"),
        ("{name}{name} in {invoice no}", "a.pnga.png in 7"),
        ('as {"total": {"x": 1}} {} { name } {0}', 'as {"total": {"x": 1}} {} { name } {0}'),
        ("{{name}} and {name}", "{name} and a.png"),
        ("{{{name}}}", "{{name}}"),
        (r"\frac{{a}}{{b}}", r"\frac{a}{b}"),
    ],
)
def test_places_are_filled_and_other_braces_stay(text: str, filled: str) -> None:
    assert Places(text).fill({"name": "a.png", "invoice no": "7"}) == filled


def test_what_is_put_in_is_not_looked_at_again() -> None:
    assert Places("{a}").fill({"a": "{b}", "b": "x"}) == "{b}"


def test_a_place_without_a_column_is_named() -> None:
    with pytest.raises(MissingColumn) as caught:
        Places("{a} {b}").fill({"a": "x"})
    assert caught.value.name == "b"


@dataclass(frozen=True)
class Made:
    number: int
    num_bytes: int


def test_work_is_done_ahead_in_order_and_within_bounds() -> None:
    begun: list[int] = []

    def work(number: int) -> Made:
        begun.append(number)
        time.sleep(0.01 * (number % 3))  # later ones are ready earlier
        return Made(number, 10)

    results = ahead(range(20), work, num_threads=3, most=6, max_bytes=1000, is_stopped=lambda: False)
    got = []
    for made in results:
        assert made
        got.append(made.number)
        assert len(begun) <= made.number + 1 + 6
    assert got == [*range(20)]


def test_large_results_are_not_piled_up() -> None:
    begun: list[int] = []

    def work(number: int) -> Made:
        begun.append(number)
        return Made(number, 100)

    results = ahead(range(20), work, num_threads=1, most=10, max_bytes=150, is_stopped=lambda: False)
    for made in results:
        assert made
        time.sleep(0.01)  # whatever was begun is ready now
        assert len(begun) <= made.number + 1 + 3


def test_it_stops_while_it_waits() -> None:
    stopped, release = threading.Event(), threading.Event()

    def work(number: int) -> Made:
        release.wait(20)
        return Made(number, 1)

    results = ahead([1, 2], work, num_threads=1, most=2, max_bytes=9, is_stopped=stopped.is_set)
    threading.Timer(0.1, stopped.set).start()
    assert list(results) == []
    release.set()


def test_what_is_slow_is_passed_and_not_waited_for() -> None:
    release, is_busy = threading.Event(), False

    def work(number: int) -> Made:
        if number == 0:
            release.wait(20)
        return Made(number, 1)

    results = ahead(
        range(4),
        work,
        num_threads=2,
        most=3,
        max_bytes=9,
        is_stopped=lambda: False,
        may_wait=lambda: not is_busy,
    )
    assert [made and made.number for made in (next(results), next(results), next(results))] == [1, 2, 3]
    is_busy = True
    assert next(results) is None
    release.set()
    assert [made.number for made in results if made] == [0]


def test_what_goes_wrong_in_a_thread_is_raised_here() -> None:
    def work(number: int) -> Made:
        return Made(1 // number, 1)

    with pytest.raises(ZeroDivisionError):
        list(ahead([1, 0], work, num_threads=1, most=2, max_bytes=9, is_stopped=lambda: False))


def test_a_summary_says_what_is_left_and_what_to_do() -> None:
    summary = Summary(10, answered=4, failed=1, skipped=2, failed_before=1, seconds=2.0)
    summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens = 1000, 400, 100
    assert summary.text("out.jsonl") == (
        "4 of 10 items answered, 2 were done before (of them 1 failed), 1 failed, 3 left; "
        "700 tokens in 2.0 s (2.0 items/s, 350 tokens/s)\n"
        "each failure is told in out.jsonl; --retry-failed asks those items again\n"
        "the same command goes on where this one stopped\n"
    )


def test_a_summary_of_what_is_not_kept_tells_how_to_keep_it() -> None:
    assert Summary(1, answered=1).text(None).count("\n") == 1
    assert Summary(2, failed=1).text(None).splitlines()[1:] == [
        "each failure is told in the output",
        "with -o FILE the same command goes on where it stopped, and can ask again",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1:01"), (3725.4, "1:02:05")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
