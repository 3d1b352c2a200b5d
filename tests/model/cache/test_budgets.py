"""The room that was given is kept, whatever is asked: told by the files and arrays that there are."""

import gc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from qwen35.messages import ImagePart, Message
from qwen35.state import KVBlocks, ModelState
from tests.model.cache.asking import (
    ask,
    assert_tidy,
    assistant,
    engine_of,
    picture,
    system,
    user,
    words,
)

DISK, RAM = 1_500_000, 1_000_000  # bytes; the largest state has some 700,000
EXCESS = 1.05


def test_budgets_hold(model: Path, states: Path) -> None:
    budgets_hold(model, states, 60)


@pytest.mark.long
def test_budgets_hold_over_500_mixed_requests(model: Path, states: Path) -> None:
    disk, ram = budgets_hold(model, states, 500)
    print(f"greatest: disk {disk / DISK:.3f}, memory {ram / RAM:.3f} of the budget")


def budgets_hold(model: Path, states: Path, num_requests: int) -> tuple[int, int]:
    """Ask, and look after each answer. Returns the greatest sizes seen, on the disk and in memory."""
    others = living_states()  # other tests'
    engine = engine_of(model, states, disk=DISK, ram=RAM)
    rng = np.random.default_rng(0)
    told: list[Message] = []
    disk = ram = 0
    for _ in range(num_requests):
        told = next_question(rng, told)
        answer = ask(engine, told, close=bool(rng.integers(4)), max_tokens=4)
        assert answer.notes == []
        told.append(assistant(answer.text))
        disk, ram = max(disk, bytes_on_disk(states)), max(ram, bytes_in_memory(others))
        assert disk <= DISK * EXCESS
        assert ram <= RAM * EXCESS
    engine.close()
    assert disk > DISK / 2  # the budgets were of use
    assert ram > RAM / 2
    assert_tidy(states)
    return disk, ram


def next_question(rng: np.random.Generator, told: list[Message]) -> list[Message]:
    """A text, a document, a picture, both; or the conversation goes on, or from an earlier place."""
    topic = int(rng.integers(30))
    question = f" {rng.integers(5)}"
    match rng.integers(6):
        case 0:
            return [user(words(int(rng.integers(20, 300)), topic))]
        case 1:
            return [system(words(80)), user(words(int(rng.integers(250, 500)), topic) + " end", question)]
        case 2:
            return [user(shown(topic), question)]
        case 3:
            return [user(words(150, topic) + " end", shown(topic), shown(topic + 1), question)]
        case 4 if 0 < len(told) < 5:
            return [*told, user(words(int(rng.integers(5, 80)), topic))]
        case 5 if told:
            return [*told[: len(told) // 4 * 2], user(shown(topic), question)]
    return [user(words(40, topic))]


def shown(topic: int) -> ImagePart:
    return picture(topic, 64, 64 * (1 + topic % 3))


def bytes_on_disk(states: Path) -> int:
    total = 0
    for path in [*(states / "blobs").iterdir()]:
        with suppress(FileNotFoundError):  # just now it made room
            total += path.stat().st_size
    return total


def bytes_in_memory(others: list[ModelState]) -> int:
    """Of the arrays that states hold anywhere in this process, but `others`; shared ones count once, and
    views as what they are views of."""
    held: dict[int, int] = {}
    for state in [state for state in living_states() if not any(state is other for other in others)]:
        for layer in state.layers:
            arrays = (*layer.k, *layer.v) if isinstance(layer, KVBlocks) else (layer.conv, layer.state)
            for array in arrays:
                while isinstance(array.base, np.ndarray):
                    array = array.base
                held[id(array)] = array.nbytes
    return sum(held.values())


def living_states() -> list[ModelState]:
    return [item for item in gc.get_objects() if type(item) is ModelState]
