"""States in memory, within a budget of bytes: those last used, and those that wait to be saved."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator

import numpy as np

from qwen35.state import KVBlocks, ModelState

PATIENCE_S = 2.0  # that an answer waits for what is being saved, at most


class Memory:
    """For one thread that answers and one that saves. What several states share is counted once.

    What waits to be saved counts like the rest. A state that alone is larger than the budget is held until
    it is saved, and not after that.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[str, ModelState] = OrderedDict()
        self._owners: Counter[int] = Counter()  # of arrays, by id
        self._size_bytes = 0
        self._waiting_bytes = 0
        self._changed = threading.Condition()

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def lengths(self) -> set[int]:
        """Numbers of tokens of the states that are here."""
        return {state.num_tokens for state in self._kept.values()}

    def use(self, key: str) -> ModelState:
        """The state of this key, which is here; now the last that was used."""
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, key: str, state: ModelState) -> None:
        """Keep a state, and let go of those that were not used for longest where they are too many."""
        if state.size_bytes > self._budget_bytes:
            return  # it would push out all others, and then itself
        with self._changed:
            if key in self._kept:
                self._remove(self._kept.pop(key))
            self._kept[key] = state
            self._add(state)
            self._keep_to_budget()

    def has_room(self, state: ModelState) -> bool:
        """Whether `wait_for_room` would not wait."""
        return not self._waiting_bytes or self._waiting_bytes + state.size_bytes <= self._budget_bytes

    def wait_for_room(self, state: ModelState) -> bool:
        """Wait until this state may wait to be saved, behind others; then it does so until `saved`.

        False where that takes too long: it is not worth the delay of an answer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.has_room(state), PATIENCE_S):
                return False
            self._waiting_bytes += state.size_bytes
            self._add(state)
            self._keep_to_budget()
            return True

    def saved(self, state: ModelState) -> None:
        """Or will not be: it waits no more."""
        with self._changed:
            self._waiting_bytes -= state.size_bytes
            self._remove(state)
            self._changed.notify()

    def _keep_to_budget(self) -> None:
        while self._kept and self._size_bytes > self._budget_bytes:
            self._remove(self._kept.popitem(last=False)[1])

    def _add(self, state: ModelState) -> None:
        for array in _arrays(state):
            self._size_bytes += 0 if self._owners[id(array)] else array.nbytes
            self._owners[id(array)] += 1

    def _remove(self, state: ModelState) -> None:
        for array in _arrays(state):
            self._owners[id(array)] -= 1
            if not self._owners[id(array)]:
                del self._owners[id(array)]
                self._size_bytes -= array.nbytes


def _arrays(state: ModelState) -> Iterator[np.ndarray]:
    for layer in state.layers:
        yield from (*layer.k, *layer.v) if isinstance(layer, KVBlocks) else (layer.conv, layer.state)
