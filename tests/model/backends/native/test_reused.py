"""Output memory is used again, and never while somebody looks at it."""

import numpy as np

from qwen35.backends.native.reused import MOST_KEPT, ReusedRows


def test_what_is_held_is_not_given_again() -> None:
    memory = ReusedRows()
    rng = np.random.default_rng(0)
    held: list[tuple[np.ndarray, float]] = []
    for number in range(300):
        rows = memory.take(int(rng.integers(1, 9)), 50)
        rows[:] = number
        if rng.random() < 0.5:
            held.append((rows[rng.integers(len(rows))], number))  # a row alone, as the engine keeps it
        if held and rng.random() < 0.4:
            held.pop(int(rng.integers(len(held))))
        del rows
        assert all((row == value).all() for row, value in held)


def test_what_nobody_holds_is_given_again() -> None:
    memory = ReusedRows()
    addresses = set()
    last = memory.take(8, 50)
    for num_rows in (8, 7, 3, 8, 1):
        last = memory.take(num_rows, 50)  # the last one is let go of after this one is made
        addresses.add(last.ctypes.data)
    assert len(addresses) <= MOST_KEPT
    assert memory.take(9, 50).shape == (9, 50)
    assert memory.take(2, 60).shape == (2, 60)
