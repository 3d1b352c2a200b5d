"""How often each expert of a layer was chosen: a choice counts half as much after HALF_LIFE tokens."""

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 64  # tokens


class FadingCounts:
    """Of one layer. Mutable."""

    def __init__(self, num_experts: int) -> None:
        self.values: NDArray[np.float64] = np.zeros(num_experts)  # (E); only their ratios mean anything
        self._weight = 1.0  # of the next token's choices: it grows, which is the same as counts that fade

    def add(self, chosen: NDArray[np.int32]) -> None:
        """The choices (M, A) of M tokens, one after another."""
        M, A = chosen.shape
        if M == 1:  # a token's experts are different ones
            self.values[chosen[0]] += self._weight
        else:
            weights = self._weight * 2.0 ** (np.arange(M) / HALF_LIFE)
            np.add.at(self.values, chosen.ravel(), np.repeat(weights, A))
        self._weight *= 2.0 ** (M / HALF_LIFE)
        if self._weight > 1e100:
            self.values /= self._weight
            self._weight = 1.0
