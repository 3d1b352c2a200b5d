import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from qwen35.errors import InputError
from qwencli.media.watchdog import Beat, watched


def test_items_come_in_order_and_errors_where_they_arise() -> None:
    def produce(beat: Beat) -> Iterator[int]:
        yield from range(5)
        raise InputError("x: is damaged.")

    found: list[int] = []
    items = watched("x", produce)
    with pytest.raises(InputError, match="x: is damaged"):
        found.extend(items)
    assert found == list(range(5))


def test_work_that_gets_nowhere_is_given_up() -> None:
    end = threading.Event()

    def produce(beat: Beat) -> Iterator[int]:
        yield 1
        beat()
        end.wait(60)  # as a decoder in an endless loop: it never asks whether it may go on
        yield 2

    items = watched("clip.mp4", produce, stall_s=0.5)
    assert next(items) == 1
    with pytest.raises(InputError, match=r"^clip\.mp4: the decoder made no progress for 0\.5 s"):
        next(items)
    end.set()


def test_slow_work_that_gets_on_is_waited_for() -> None:
    def produce(beat: Beat) -> Iterator[int]:
        for _ in range(10):
            time.sleep(0.1)
            beat()
        yield 7

    assert list(watched("x", produce, stall_s=0.5)) == [7]


def test_whoever_takes_their_time_is_no_reason_to_give_up() -> None:
    items = watched("x", lambda beat: iter(range(9)), stall_s=0.25)
    found = []
    for item in items:
        found.append(item)
        time.sleep(0.1 if len(found) < 8 else 0.6)
    assert found == list(range(9))


def test_work_that_nobody_waits_for_ends_and_is_never_far_ahead() -> None:
    made = []

    def produce(beat: Beat) -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with closing(watched("x", produce)) as items:
        next(items)
        time.sleep(0.2)
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "decoder"]
