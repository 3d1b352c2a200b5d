"""What the engine asks of whatever runs the model. No torch here: arrays are numpy."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from qwen35.events import ExpertUse
from qwen35.state import ModelState
from qwen35.weights.placement import CHUNK

PREFILL_CHUNK = CHUNK  # tokens; a multiple of the delta rule's chunk, and a step of the progress bar


class Lookahead(Protocol):
    """Guesses at what follows in one sequence, whose state is passed at each call, and their check."""

    def draft(self, state: ModelState, token: int, count: int) -> list[int]:
        """What may come after `token`, which comes after `state`: at most `count` tokens, perhaps none."""
        ...

    def check(self, state: ModelState, ids: Sequence[int]) -> np.ndarray:
        """Logits (M, vocab_size) float32 after each of `ids`, as `decode` gives them one by one.

        `state` moves past the first of them alone; there are at most `room(state)`.
        """
        ...

    def accept(self) -> None:
        """The next of the ids that were checked is what came: the state moves past it."""
        ...

    def room(self, state: ModelState) -> int:
        """How many ids may be checked at once; at least one."""
        ...


class Backend(Protocol):
    name: str  # as `qwen doctor` and `-v` show it
    numerics: str  # states computed under one name are the same, bit by bit: part of every cache key

    prefill_chunk: int  # tokens that the engine gives to `prefill` at a time

    @property
    def expert_use(self) -> ExpertUse | None:
        """What the experts have cost since the model was loaded; None where all of them are in memory."""
        ...

    @property
    def layer_use(self) -> ExpertUse | None:
        """The same of whole layers."""
        ...

    def device_room(self) -> int | None:
        """Free bytes of the device that states are brought to at each step; None where that is memory."""
        ...

    def close(self) -> None:
        """End threads and files that the backend has of its own; it is not used again."""
        ...

    def save_hot(self) -> None:
        """Write down what the next process had better begin with: quickly, before an interrupt ends it."""
        ...

    def new_state(self) -> ModelState: ...

    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Features (M, D) of patches (P, values) of pictures or frame pairs, opaque to the engine but for
        their rows. No picture, and no pair, sees another."""
        ...

    def prefill(
        self, state: ModelState, ids: np.ndarray, position_ids: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        """Run T tokens, `ids` (T,) at (3, T), after `state`, and move it past them.

        `features` (M', D) fill the M' placeholders among these ids. Returns the logits (vocab_size,)
        float32 of the token after the last.
        """
        ...

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        """One token for each of B sequences, `ids` (B,). Returns logits (B, vocab_size) float32."""
        ...

    def look_ahead(self, state: ModelState) -> Lookahead | None:
        """Of a sequence, from here on until `forget`; None where nothing here guesses."""
        ...

    def forget(self, state: ModelState) -> None:
        """No more looking ahead of this sequence."""
        ...
