"""How a very long clip is cut into windows, each of them shown to the model as a clip of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from qwen35.engine.request import Request
from qwen35.errors import InputError
from qwen35.messages import Clip, Message, Part, VideoPart
from qwen35.processing.processor import Processor
from qwen35.processing.video_plan import VideoPlan

LEAST_S = 1.0  # of a window: two frames, as clips are sampled by default
MOST = 100_000  # windows: a day of the shortest
_ROUNDS = 0.5  # of a window: what is left over and shorter belongs to the last one


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """A request about one clip, and what each window shows of it."""

    request: Request  # whose last message has the clip
    clip: Clip
    plans: tuple[VideoPlan, ...]

    @classmethod
    def plan(cls, processor: Processor, request: Request, seconds: float) -> "Windows":
        """Cut what `request` wants to see of its clip into windows of so many `seconds`.

        The last one may be shorter, or longer, by half. Bounds of frames and tokens hold for each window.
        Raises InputError where there is not just one clip, and that in the last message.
        """
        if seconds < LEAST_S:
            raise InputError(
                f"A window of {seconds:g} s is too short. Choose {LEAST_S:g} s or more (--window)."
            )
        part = _the_clip(request.messages)
        if processor.video is None:
            raise InputError(
                f"{part.clip.source}: this model reads text alone. Choose one that sees pictures."
            )
        whole = processor.video.plan(part.clip, part.sampling)
        count = max(1, int((whole.end - whole.start) / seconds + _ROUNDS))
        if count > MOST:
            raise InputError(
                f"{part.clip.source}: lasts {whole.end - whole.start:,.0f} s and would be {count:,} windows; "
                f"there may be {MOST:,}. Its time stamps may be damaged. Choose longer windows (--window) or "
                "an end (--end).",
                path=part.clip.source,
            )
        borders = [*(whole.start + number * seconds for number in range(count)), whole.end]
        return cls._of(processor, request, [*pairwise(borders)])

    def of_request(self, processor: Processor, request: Request) -> "Windows":
        """The same seconds for another `request`, whose bounds for the clip are those of a window."""
        return self._of(processor, request, [(plan.start, plan.end) for plan in self.plans])

    @classmethod
    def _of(cls, processor: Processor, request: Request, ranges: Sequence[tuple[float, float]]) -> "Windows":
        assert processor.video is not None
        part = _the_clip(request.messages)
        plans = [
            processor.video.plan(part.clip, replace(part.sampling, start=start, end=end))
            for start, end in ranges
        ]
        return cls(request, part.clip, tuple(plans))

    def request_of(self, index: int, clip: Clip | None = None) -> Request:
        """What is asked in a window, about its seconds of the clip, or of `clip` in its place."""
        plan, (*before, last) = self.plans[index], self.request.messages

        def cut(part: Part) -> Part:
            if not isinstance(part, VideoPart):
                return part
            return VideoPart(clip or part.clip, replace(part.sampling, start=plan.start, end=plan.end))

        shown = replace(last, parts=tuple(map(cut, last.parts)))
        return replace(self.request, messages=(*before, shown))

    @property
    def num_tokens(self) -> int:
        """Video tokens of all windows."""
        return sum(plan.num_tokens for plan in self.plans)

    @property
    def line(self) -> str:
        """What is going to be done, for a person."""
        count, first = len(self.plans), self.plans[0]
        if count == 1:
            return f"one window of {first.line}"
        return (
            f"{count:,} windows of {first.line}; {self.num_tokens:,} tokens in all. Attention sees one "
            "window at a time; what was before it is in the recurrent state alone"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the keys of a plan, null where the windows differ, and `windows`, the seconds of each."""
        own = [plan.to_dict() for plan in self.plans]
        over_all = {
            "end_s": round(self.plans[-1].end, 3),
            "frames": sum(len(plan.times) for plan in self.plans),
            "pairs": sum(plan.num_pairs for plan in self.plans),
            "tokens": self.num_tokens,
            "is_capped": any(plan.uncapped is not None for plan in self.plans),
            "times_s": [round(time, 3) for plan in self.plans for time in plan.times],
            "plan": self.line,
            "windows": [[round(plan.start, 3), round(plan.end, 3)] for plan in self.plans],
        }
        alike = {key: value for key, value in own[0].items() if all(each[key] == value for each in own)}
        return dict.fromkeys(own[0]) | alike | over_all | {"start_s": own[0]["start_s"]}


def _the_clip(messages: Sequence[Message]) -> VideoPart:
    clips = [part for message in messages for part in message.parts if isinstance(part, VideoPart)]
    if len(clips) != 1 or clips[0] not in messages[-1].parts:
        found = f"there are {len(clips)} of them" if clips else "there is none"
        raise InputError(f"Windows go through one video, and {found}. Pass one (--window).")
    return clips[0]
