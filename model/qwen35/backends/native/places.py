"""Where a state's arrays lie, as the library takes it. Some hundred addresses a token: kept cheap."""

from collections.abc import Sequence
from ctypes import addressof, c_char
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qwen35.state import BLOCK_TOKENS, KVBlocks, LinearMemory

Addresses = NDArray[np.uintp]


def address(array: NDArray[Any]) -> int:
    """Of the first element; for a third of what `array.ctypes.data` costs."""
    try:
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # nothing to write, nothing in it, or not all in a row
        return int(array.ctypes.data)


def linear_places(old: Sequence[LinearMemory], new: Sequence[LinearMemory]) -> Addresses:
    """(B, 4): each sequence's conv inputs before and after, its matrix before and after."""
    rows = []
    for before, after in zip(old, new, strict=True):
        conv, state = address(before.conv), address(before.state)
        if after is before:
            rows.append((conv, conv, state, state))
        else:
            rows.append((conv, address(after.conv), state, address(after.state)))
    return np.array(rows, np.uintp)


class BlockTable:
    """The addresses of all KV blocks of the sequences that are in work.

    A block's address never changes and only the end of a list grows, so that a step adds what is new.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[KVBlocks, Addresses] = WeakKeyDictionary()

    def places(self, memories: Sequence[KVBlocks], counts: Sequence[int]) -> Addresses:
        """Make room for `counts` new tokens each, and say where everything lies.

        (B, 2): where each sequence's list of key blocks and its list of value blocks are.
        """
        rows = []
        for memory, count in zip(memories, counts, strict=True):
            memory.num_tokens += count
            while len(memory.k) * BLOCK_TOKENS < memory.num_tokens:
                memory.add_block()
            table = self._table(memory)
            start = address(table)
            rows.append((start, start + table.strides[0]))
        return np.array(rows, np.uintp)

    def _table(self, memory: KVBlocks) -> Addresses:
        """(2, capacity), capacity at least the number of blocks; zeros behind them."""
        table = self._known.get(memory)
        if table is None or table.shape[1] < len(memory.k):
            table = np.zeros((2, 2 * len(memory.k)), np.uintp)
            self._known[memory] = table
        index = len(memory.k) - 1
        while index >= 0 and table[0, index] == 0:
            table[0, index], table[1, index] = address(memory.k[index]), address(memory.v[index])
            index -= 1
        return table
