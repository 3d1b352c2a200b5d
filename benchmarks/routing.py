"""Choices of experts, token by token, as real models make them: for models whose weights are random.

Published traces of mixtures of this size repeat 45 % of a layer's choices at the next token, and favour some
experts, so that the last used 40 % of them hold 90 to 95 % of the next choices. Random weights choose
uniformly, which no cache can be good at. `Local` draws choices with both properties.
"""

import numpy as np
from numpy.typing import NDArray

# Exponent of the experts' popularity by rank, and the share of choices that stay beside what popularity
# repeats anyway. 8 of 256 experts then repeat at 45 %, and the last used 40 % hold 91 % of the next choices.
SKEW, STAYS = 1.4, 0.15


class Local:
    """One layer's choices. Mutable: each is drawn after the one before."""

    def __init__(self, num_experts: int, top_k: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        weights = np.arange(1, num_experts + 1) ** -SKEW
        self._popularity = self._rng.permutation(weights / weights.sum())
        self._top_k = top_k
        self._last: NDArray[np.int64] = np.empty(0, np.int64)

    def draw(self) -> NDArray[np.int64]:
        """The next token's experts (A), all different."""
        stays = self._last[self._rng.random(len(self._last)) < STAYS]
        rest = self._popularity.copy()
        rest[stays] = 0
        drawn = self._rng.choice(len(rest), self._top_k - len(stays), replace=False, p=rest / rest.sum())
        self._last = np.concatenate([stays, drawn])
        return self._last
