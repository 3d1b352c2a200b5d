"""How often each expert of a layer was chosen: a choice counts half as much after HALF_LIFE tokens."""

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 64  # tokens


class FadingCounts:
    """Of one layer. Mutable."""

    def __init__(self, num_experts: int) -> None:
        self.values = [0.0] * num_experts  # (E); only their ratios mean anything
        self._weight = 1.0  # of the next token's choices: it grows, which is the same as counts that fade

    def add(self, chosen: NDArray[np.int32]) -> None:
        """The choices (M, A) of M tokens, one after another."""
        M, A = chosen.shape
        if M == 1:
            for expert in chosen[0].tolist():
                self.values[expert] += self._weight
        else:
            weights = np.repeat(self._weight * 2.0 ** (np.arange(M) / HALF_LIFE), A)
            added = np.bincount(chosen.ravel(), weights, len(self.values))
            self.values = (np.array(self.values) + added).tolist()
        self._weight *= 2.0 ** (M / HALF_LIFE)
        if self._weight > 1e100:
            self.values = [value / self._weight for value in self.values]
            self._weight = 1.0
