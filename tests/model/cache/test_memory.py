"""States in memory: what they share is counted once, and what waits to be saved counts too."""

import threading

import pytest

from qwen35.cache import memory as memory_module
from qwen35.cache.memory import Memory
from tests.model.cache.saved import random_state

LONG, SHORT = random_state(600), random_state(40)
BLOCKS = 2 * sum(array.nbytes for layer in LONG.layers[3:4] for array in (layer.k[0], layer.v[0]))
FIXED = sum(layer.size_bytes for layer in LONG.layers[:3])


def kept(memory: Memory, *keys: str) -> list[bool]:
    return [key in memory for key in keys]


def test_what_was_not_used_for_longest_goes() -> None:
    memory = Memory(2 * SHORT.size_bytes)
    for key in "ab":
        memory.keep(key, random_state(40, ord(key)))
    memory.use("a")
    memory.keep("c", random_state(40, 7))
    assert kept(memory, "a", "b", "c") == [True, False, True]


def test_what_states_share_is_counted_once() -> None:
    """Two forks share whole blocks and matrices; each has a last block of its own."""
    tail = LONG.size_bytes - BLOCKS - FIXED
    memory = Memory(LONG.size_bytes + tail)
    memory.keep("a", LONG.fork())
    memory.keep("b", LONG.fork())
    assert kept(memory, "a", "b") == [True, True]
    memory.keep("c", LONG.fork())
    assert kept(memory, "a", "b", "c") == [False, True, True]


def test_a_state_under_a_key_that_is_there_replaces_it() -> None:
    memory = Memory(SHORT.size_bytes)
    for seed in range(3):
        memory.keep("a", random_state(40, seed))
    assert kept(memory, "a") == [True]


def test_one_that_is_larger_than_the_budget_pushes_out_nothing() -> None:
    memory = Memory(LONG.size_bytes - 1)
    memory.keep("a", SHORT)
    memory.keep("b", LONG)
    assert kept(memory, "a", "b") == [True, False]


def test_what_waits_to_be_saved_takes_room_until_it_is() -> None:
    memory = Memory(SHORT.size_bytes)
    waiting = random_state(40, 1)
    assert memory.wait_for_room(waiting)
    memory.keep("a", SHORT)
    assert kept(memory, "a") == [False]
    memory.saved(waiting)
    memory.keep("a", SHORT)
    assert kept(memory, "a") == [True]


def test_a_second_one_waits_for_the_first_to_be_saved() -> None:
    memory = Memory(SHORT.size_bytes)
    first, second = random_state(40, 1), random_state(40, 2)
    done = []

    def save() -> None:
        done.append("saved")
        memory.saved(first)

    assert memory.wait_for_room(first)
    saver = threading.Timer(0.05, save)
    saver.start()
    assert memory.wait_for_room(second)
    assert done == ["saved"]
    saver.join()


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "PATIENCE_S", 0.01)
    memory = Memory(SHORT.size_bytes)
    assert memory.wait_for_room(random_state(40, 1))
    assert not memory.wait_for_room(random_state(40, 2))
