"""Which rows of a pass belong to which sequence, and where their states are before and after each layer."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.places import Addresses, BlockTable
from qwen35.state import BLOCK_TOKENS, KVBlocks, LinearMemory, ModelState


class Rows:
    """All tokens of one sequence, or one token of each of several. Mutable, for one pass.

    `starts` (B + 1) are the first rows of the library's sequences, `lengths` (B) their tokens before.
    """

    def __init__(self, states: Sequence[ModelState], count: int) -> None:
        """`count` rows of each."""
        self._states, self._count = states, count
        self.starts: NDArray[np.int32] = count * np.arange(len(states) + 1, dtype=np.int32)
        self.lengths: NDArray[np.int32] = np.array([state.num_tokens for state in states], np.int32)

    @classmethod
    def of_prompt(cls, state: ModelState, count: int) -> "Rows":
        return cls([state], count)

    @classmethod
    def of_several(cls, states: Sequence[ModelState]) -> "Rows":
        return cls(states, 1)

    def linear(self, index: int) -> tuple[list[LinearMemory], list[LinearMemory]]:
        """Of linear layer `index`: each sequence's memory before, and where it is to be after."""
        past = [cast(LinearMemory, state.layers[index]) for state in self._states]
        return past, [state.to_write(index) for state in self._states]

    def leave(self, index: int, left: Sequence[LinearMemory]) -> None:
        """The layer is through."""
        for state, memory in zip(self._states, left, strict=True):
            state.layers[index] = memory

    def blocks(self, table: BlockTable, index: int) -> Addresses:
        """Of full-attention layer `index`: where each sequence's blocks are (B, 2), its rows' among them."""
        memories = [cast(KVBlocks, state.layers[index]) for state in self._states]
        return table.places(memories, [self._count] * len(memories))

    def finish(self) -> None:
        """All layers are through."""
        for state in self._states:
            state.num_tokens += self._count


class KeptRows(Rows):
    """A token and drafts after it, of one sequence: the state after every row is kept.

    When all layers are through the state stands after the first row; `accept` moves it on by one.
    """

    def __init__(self, state: ModelState, count: int, spare: dict[int, list[LinearMemory]]) -> None:
        """At most `room(state)` rows. `spare`: memories, by layer, that may be written to."""
        assert 1 <= count <= room(state)
        super().__init__([state], count)
        self._state, self._spare = state, spare
        self._first = state.num_tokens
        self._kept: dict[int, list[LinearMemory]] = {}  # before the first row, and after each
        # To the library each row is a sequence, which begins where the one before it ends.
        self.starts = np.arange(count + 1, dtype=np.int32)
        self.lengths = self._first + np.arange(count, dtype=np.int32)

    def linear(self, index: int) -> tuple[list[LinearMemory], list[LinearMemory]]:
        before = cast(LinearMemory, self._state.layers[index])
        spare = self._spare.setdefault(index, [])
        left = [spare.pop() if spare else _like(before) for _ in range(self._count)]
        self._kept[index] = [before, *left]
        return self._kept[index][:-1], left

    def leave(self, index: int, left: Sequence[LinearMemory]) -> None:
        self._state.layers[index] = left[0]

    def blocks(self, table: BlockTable, index: int) -> Addresses:
        return np.repeat(super().blocks(table, index), self._count, axis=0)

    def finish(self) -> None:
        self._stand(1)

    def accept(self) -> None:
        """The next row's token came: stand after it."""
        self._stand(self._state.num_tokens - self._first + 1)

    def release(self) -> None:
        """No further row will be accepted: what the state does not stand on may be written to."""
        for index, memories in self._kept.items():
            own = self._state.layers[index]
            self._spare[index] += [each for each in memories if each is not own and not each.is_shared]
        self._kept = {}

    def _stand(self, row: int) -> None:
        for index, memories in self._kept.items():
            self._state.layers[index] = memories[row]
        self._state.num_tokens = self._first + row
        for layer in self._state.layers:
            if isinstance(layer, KVBlocks):
                layer.num_tokens = self._state.num_tokens


def room(state: ModelState) -> int:
    """Rows that end in the block of keys where the next one begins: so no block is left that holds none."""
    return BLOCK_TOKENS - state.num_tokens % BLOCK_TOKENS


def _like(memory: LinearMemory) -> LinearMemory:
    return LinearMemory(np.empty_like(memory.conv), np.empty_like(memory.state))
