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
        self.right: list[float] = []  # (A): share of right guesses by rank, of the last
        self._judged: list[int] = []  # (A): guesses over which the share is taken yet
        self._guessed: list[list[int]] = []  # (M, A), not judged yet
        self._is_missing: list[list[bool]] = []
        self._calls = 0

    def is_due(self) -> bool:
        """Whether to ask for guesses in this call."""
        self._calls += 1
        is_probe = self._calls <= MEMORY or self._calls % PROBE == 0
        return is_probe or any(right >= LIKELY for right in self.right)

    def likely(self, guessed: list[list[int]], is_missing: list[list[bool]]) -> list[int]:
        """Of the experts `guessed` (M, A) those missing that may be believed, the first ranks first."""
        if not self.right:
            self.right, self._judged = [0.0] * len(guessed[0]), [0] * len(guessed[0])
        self._guessed, self._is_missing = guessed, is_missing
        believed = [rank for rank, right in enumerate(self.right) if right >= LIKELY]
        rows = [*zip(guessed, is_missing, strict=True)]
        return list(dict.fromkeys(row[rank] for rank in believed for row, misses in rows if misses[rank]))

    def judge(self, chosen: NDArray[np.int32]) -> None:
        """Learn from what was chosen (M, A) after all, where that was guessed."""
        guessed, self._guessed = self._guessed, []
        if not guessed or chosen.shape != (len(guessed), len(self.right)):  # of a step that was given up
            return
        for row, misses, right_ones in zip(guessed, self._is_missing, chosen.tolist(), strict=True):
            for rank, (expert, is_missing) in enumerate(zip(row, misses, strict=True)):
                if is_missing:
                    self._judged[rank] = min(self._judged[rank] + 1, MEMORY)
                    self.right[rank] += ((expert in right_ones) - self.right[rank]) / self._judged[rank]
