"""Whether a layer's router, asked while the layer before it is computed, is to be believed.

What it says before that layer's experts and its own mixer have had their say is a guess at what it will say:
the better the deeper the layer, and the better for the experts that it ranks first. What counts is how often
it is right about experts that are not in memory: where most are, what it names in vain is mostly among the
others. So each layer's ranks are believed for as long as they have been right about such experts lately.
"""

import numpy as np
from numpy.typing import NDArray

LIKELY = 0.5  # share of right guesses from which a rank is believed: a wrong one keeps the disk from others
MEMORY = 16  # guesses over which that share is taken, and calls from the first on in which a layer is asked
PROBE = 8  # later calls in one of which a layer is asked of which no rank is believed


class Guesses:
    """Of one layer. Mutable."""

    def __init__(self) -> None:
        self.right: NDArray[np.float64] = np.zeros(0)  # (A): share of right guesses by rank, of the last
        self._judged: NDArray[np.float64] = np.zeros(0)  # (A): guesses over which the share is taken yet
        self._guessed: NDArray[np.int32] | None = None
        self._is_missing: NDArray[np.bool_] = np.zeros((0, 0), np.bool_)
        self._calls = 0

    def is_due(self) -> bool:
        """Whether to ask for guesses in this call."""
        self._calls += 1
        is_probe = self._calls <= MEMORY or self._calls % PROBE == 0
        return is_probe or bool((self.right >= LIKELY).any())

    def likely(self, guessed: NDArray[np.int32], is_missing: NDArray[np.bool_]) -> list[int]:
        """Of the experts `guessed` (M, A) those missing that may be believed, the first ranks first."""
        if not self.right.size:
            self.right, self._judged = np.zeros((2, guessed.shape[1]))
        self._guessed, self._is_missing = guessed, is_missing
        believed = is_missing & (self.right >= LIKELY)
        return list(dict.fromkeys(guessed.T[believed.T].tolist()))

    def judge(self, chosen: NDArray[np.int32]) -> None:
        """Learn from what was chosen (M, A) after all, where that was guessed."""
        guessed, self._guessed = self._guessed, None
        if guessed is None or guessed.shape != chosen.shape:  # the latter of a step that was given up
            return
        is_right = (guessed[:, :, None] == chosen[:, None, :]).any(2)
        for right, missing in zip(is_right, self._is_missing, strict=True):
            self._judged = np.minimum(self._judged + missing, MEMORY)
            self.right += np.where(missing, (right - self.right) / np.maximum(self._judged, 1), 0.0)
