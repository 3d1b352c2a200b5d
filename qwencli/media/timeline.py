"""When each frame of a clip is shown."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# A time computed from a frame's number may miss the frame's own time stamp: containers round them, to
# milliseconds often, and a rate told as an average is not exact.
_TOLERANCE_S = 0.005
_TOLERANCE_FRAMES = 0.1


@dataclass(frozen=True, eq=False)
class Timeline:
    """`starts` (F,) float64: seconds from the beginning, ascending, the first one 0."""

    starts: np.ndarray
    duration: float  # seconds, to the end of the last frame

    @property
    def num_frames(self) -> int:
        return len(self.starts)

    @property
    def fps(self) -> float:
        return self.num_frames / self.duration

    @cached_property
    def varying(self) -> np.ndarray | None:
        """`starts`; None where the rate is constant, and what is beside it no more than rounding."""
        misses = np.abs(self.starts - np.arange(self.num_frames) / self.fps)
        return self.starts if misses.max() > self._tolerance else None

    def at(self, time: float) -> int:
        """The number of the frame that is shown at `time` seconds; before and after all, the nearest one."""
        number = max(0, int(np.searchsorted(self.starts, time + self._tolerance, side="right")) - 1)
        # Of frames that follow each other in less than the tolerance, the one that is meant.
        while number and self.starts[number] - time > abs(time - self.starts[number - 1]):
            number -= 1
        return number

    @property
    def _tolerance(self) -> float:
        return min(_TOLERANCE_S, _TOLERANCE_FRAMES / self.fps)
