"""When each frame of a clip is shown."""

from dataclasses import dataclass

import numpy as np

# A time computed from a frame's number may miss the frame's own time stamp: containers round them, to
# milliseconds often, and a rate told as an average is not exact.
_TOLERANCE_S = 0.005
_TOLERANCE_FRAMES = 0.1


@dataclass(frozen=True, slots=True, eq=False)
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

    def at(self, time: float) -> int:
        """The number of the frame that is shown at `time` seconds; before and after all, the nearest one."""
        tolerance = min(_TOLERANCE_S, _TOLERANCE_FRAMES / self.fps)
        return max(0, int(np.searchsorted(self.starts, time + tolerance, side="right")) - 1)
