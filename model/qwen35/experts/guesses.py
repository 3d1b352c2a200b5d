"""Whether a layer's router, asked before the layer's mixer is computed, is to be believed.

What it says of the mixer's input is a guess at what it will say of its output: the better the deeper the
layer, and the better for the experts that it ranks first. So each layer's ranks are believed for as long as
they have been right lately.
"""

import numpy as np
from numpy.typing import NDArray

LIKELY = 0.7  # share of right guesses from which a rank is believed: a wrong one delays what is needed
MEMORY = 16  # calls over which that share is taken


class Guesses:
    """Of all layers. Mutable."""

    def __init__(self, num_layers: int) -> None:
        self._right = [np.zeros(0) for _ in range(num_layers)]  # share by rank, of the last calls
        self._layer: int | None = None
        self._guessed = np.empty((0, 0), np.int32)

    def likely(self, layer: int, guessed: NDArray[np.int32]) -> list[int]:
        """Of the experts `guessed` (M, A) those that may be believed, the first ranks first."""
        if not len(self._right[layer]):
            self._right[layer] = np.zeros(guessed.shape[1])
        self._layer, self._guessed = layer, guessed
        believed = guessed[:, self._right[layer] >= LIKELY]
        return list(dict.fromkeys(believed.T.ravel().tolist()))

    def judge(self, layer: int, chosen: NDArray[np.int32]) -> None:
        """Learn from what was chosen (M, A) after all, where this layer's were guessed last."""
        if self._layer == layer and self._guessed.shape == chosen.shape:
            right = (self._guessed[:, :, None] == chosen[:, None, :]).any(2).mean(0)
            self._right[layer] += (right - self._right[layer]) / MEMORY
        self._layer = None
