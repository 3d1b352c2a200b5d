"""One prompt and the state cache: where its states are kept, and under which names."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qwen35.cache.keys import media_of, prefix_keys
from qwen35.cache.store import Snapshot
from qwen35.processing.processor import ModelInput
from qwen35.state import ModelState

if TYPE_CHECKING:
    from qwen35.cache.cache import StateCache

STEP_TOKENS = 4096  # of long text, from one saved state to the next
MIN_TOKENS = 32  # that a state must spare to be worth its bytes, unless it ends a picture or a document
LABEL_TOKENS = 12


class PromptCache:
    """One prompt's view: what is known of it (`found`), and after how many tokens to keep its states."""

    def __init__(self, cache: "StateCache", prompt: ModelInput, *, is_one_of_many: bool) -> None:
        self._cache, self._prompt, self._is_one_of_many = cache, prompt, is_one_of_many
        self._media = media_of(prompt)
        self.found = cache.find(prompt, self._media, with_reason=not is_one_of_many)
        self.boundaries = chosen_places(prompt, self.found.num_tokens)
        self._last = self.found.num_tokens

    def keep(self, state: ModelState) -> None:
        """`state` has come to one of the `boundaries`, or to another place that is in no picture or pair."""
        n = state.num_tokens
        if n == self._last:  # it is kept
            return
        key = prefix_keys(self._cache.model, self._prompt.ids, self._media, [n])[n]
        blocks = self._cache.block_keys(self._prompt.ids, self._media, n)
        ids = [int(i) for i in self._prompt.ids[max(0, n - LABEL_TOKENS) : n]]
        label = " ".join(self._cache.decode(ids).split())
        snapshot = Snapshot(key, self._cache.model, n, blocks, n - self._last, label)
        if self._is_one_of_many:
            self._cache.hold(snapshot, state)
        else:
            self._cache.keep(snapshot, state)
        self._last = n

    def keep_written(self, state: ModelState, token_ids: Sequence[int]) -> None:
        """`state` has gone on by these ids, which the model wrote, but perhaps the last one."""
        if self._is_one_of_many or state.num_tokens - self._last < MIN_TOKENS:
            return
        written = np.array(token_ids, self._prompt.ids.dtype)
        self._prompt = replace(self._prompt, ids=np.concatenate([self._prompt.ids, written]))
        self.keep(state)

    def keep_prompt(self) -> None:
        """Remember that this was asked."""
        if not self._is_one_of_many:
            self._cache.keep_prompt(self._prompt, self._media)

    def features(self, index: int) -> np.ndarray | None:
        """Features (M, D) of the prompt's index-th picture or pair, or None where none were saved."""
        return self._cache.features(self._media[index].key)

    def keep_features(self, index: int, features: np.ndarray) -> None:
        """Keep the `features` (M, D) of the prompt's index-th picture or pair."""
        if not self._is_one_of_many:
            self._cache.keep_features(self._media[index].key, features)


def chosen_places(prompt: ModelInput, start: int) -> tuple[int, ...]:
    """Of the places where someone may come back, and regular ones in long text, those worth their bytes."""
    steps = {*range(STEP_TOKENS, len(prompt.ids), STEP_TOKENS)}
    for span in prompt.media:  # no state is saved within one, but before it
        steps = {span.start if span.start < n < span.end else n for n in steps}
    places = sorted({n for n in (*prompt.boundaries, *steps) if start < n < len(prompt.ids)})
    ends = {*prompt.document_ends}
    chosen, last = [], start
    for n in places:
        if n in ends or n - last >= MIN_TOKENS:
            chosen.append(n)
            last = n
    return tuple(chosen)
