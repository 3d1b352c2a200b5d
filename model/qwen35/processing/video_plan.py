"""What a model will be shown of a clip: for a person in one line, for programs as a dict."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cap:
    """What a clip would be without a cap on its tokens. `size` (height, width) in pixels."""

    num_frames: int
    size: tuple[int, int]
    tokens_per_pair: int


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """Frames of the seconds [start, end) of a clip, resized to `size` (height, width), two and two.

    `uncapped` is None where nothing had to become less for `max_tokens`.
    """

    times: tuple[float, ...]  # of the frames, seconds, ascending; those of an odd number end in a pair of one
    size: tuple[int, int]
    tokens_per_pair: int
    start: float
    end: float
    original_size: tuple[int, int]
    max_tokens: int
    uncapped: Cap | None

    def pair(self, index: int) -> tuple[float, float]:
        """The times of the two frames of a pair; an odd last frame is paired with itself."""
        return self.times[2 * index], self.times[min(2 * index + 1, len(self.times) - 1)]

    def timestamp(self, index: int) -> str:
        """What the prompt says before a pair: the time between its two frames."""
        return f"<{sum(self.pair(index)) / 2:.1f} seconds>"

    @property
    def range(self) -> str:
        """Its seconds as a clock shows them, such as "1:00-2:00"."""
        return f"{_clock(self.start)}-{_clock(self.end)}"

    @property
    def num_pairs(self) -> int:
        return -(-len(self.times) // 2)

    @property
    def num_tokens(self) -> int:
        return self.num_pairs * self.tokens_per_pair

    @property
    def line(self) -> str:
        """Such as "61 s at 2 fps: 122 frames of 640x480, 61 pairs x 300 = 18,300 tokens"."""
        wanted = self.uncapped or Cap(len(self.times), self.size, self.tokens_per_pair)
        seconds = f"{_short(self.end - self.start)} s"
        if self.start:
            seconds += f" from {_short(self.start)} s on"
        text = f"{seconds} at {self._fps(wanted.num_frames)} fps: {_frames(wanted)}"
        if self.uncapped is None:
            return text
        less = []
        if self.size != wanted.size:
            less.append(f"frames of {self.size[1]}x{self.size[0]}")
        if len(self.times) != wanted.num_frames:
            less.append(f"{self._fps(len(self.times))} fps, {len(self.times):,} frames")
        total = f"{self.num_pairs:,} x {self.tokens_per_pair:,} = {self.num_tokens:,} tokens"
        return f"{text}; capped at {self.max_tokens:,}: {', '.join(less)}, {total}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: times in seconds, sizes as [width, height] in pixels."""
        return {
            "start_s": round(self.start, 3),
            "end_s": round(self.end, 3),
            "frames": len(self.times),
            "pairs": self.num_pairs,
            "size": [self.size[1], self.size[0]],
            "original_size": [self.original_size[1], self.original_size[0]],
            "tokens_per_pair": self.tokens_per_pair,
            "tokens": self.num_tokens,
            "max_tokens": self.max_tokens,
            "is_capped": self.uncapped is not None,
            "times_s": [round(time, 3) for time in self.times],
            "plan": self.line,
        }

    def _fps(self, num_frames: int) -> str:
        return _short(num_frames / (self.end - self.start))


def _short(number: float) -> str:
    """With two digits that count, at least."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _clock(seconds: float) -> str:
    """Such as 0:59.5, 12:00 or 1:02:03."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{clock}:{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")


def _frames(wanted: Cap) -> str:
    pairs = -(-wanted.num_frames // 2)
    total = pairs * wanted.tokens_per_pair
    return (
        f"{wanted.num_frames:,} frame{'s' * (wanted.num_frames != 1)} of {wanted.size[1]}x{wanted.size[0]}, "
        f"{pairs:,} pair{'s' * (pairs != 1)} x {wanted.tokens_per_pair:,} = {total:,} tokens"
    )
