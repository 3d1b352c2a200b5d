"""A clip to frame pairs: which frames, at which size; as video_preprocessor_config.json says.

A plan needs no more than what is known of a clip before it is decoded. Where nothing else is asked for, it is
the official processor's, value for value. The patches of a pair are made when they are wanted.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen35.config import VisionConfig, read_json
from qwen35.errors import CheckpointError, InputError
from qwen35.messages import Clip, Sampling
from qwen35.processing.image import (
    MAX_ASPECT_RATIO,
    ImageProcessor,
    cut_patches,
    normalised_levels,
    pixel_bounds,
)
from qwen35.processing.video_plan import Cap, VideoPlan

PAIR = 2  # frames that become one row of patches
# The official settings, for a checkpoint that has none of its own. Sizes are areas over all frames.
DEFAULTS: Mapping[str, Any] = {
    "size": {"shortest_edge": 4096, "longest_edge": 25_165_824},
    "fps": 2,
    "min_frames": 4,
    "max_frames": 768,
}
UNKNOWN_FPS = 24.0  # of a clip that does not say, as the official processor assumes
# Below this many tokens a pair, a cap takes frames away instead: the reference tool shows none smaller.
LEAST_TOKENS = 128
MOST_TIMES = 1_000_000  # of a clip that has fewer frames: beyond a damaged one there is no such wish


def clip_size(
    num_frames: int, height: int, width: int, factor: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """The (height, width) that each frame of a clip is resized to; the bounds are areas over all frames.

    Raises InputError for an empty or an extremely long picture.
    """
    num_frames = max(num_frames, PAIR)  # a single frame stands twice
    if min(height, width) < 1:
        raise InputError(f"{width}x{height} pixels: there is nothing to see.")
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InputError(
            f"{width}x{height} pixels: the long side may be at most {MAX_ASPECT_RATIO} times the short one."
        )
    # Python's round, half to even, as the official processor does.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    area = round(num_frames / PAIR) * PAIR * new_height * new_width
    if area > max_pixels:
        shrink = math.sqrt(num_frames * height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (num_frames * height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


class VideoProcessor:
    """`assumed` says what a checkpoint without settings of its own leaves open; None where it has them.

    `keeps_wrapper`: whether the clip as a whole stands between a vision start and end of its own, as
    transformers writes it since 5.12, where the Qwen team's code, and vLLM, put its pairs in their place.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        vision: VisionConfig,
        where: str,
        *,
        assumed: str | None = None,
        keeps_wrapper: bool = False,
    ) -> None:
        """`settings` as in video_preprocessor_config.json; `where` names them in errors (CheckpointError)."""
        self.vision, self.assumed, self.keeps_wrapper = vision, assumed, keeps_wrapper
        self.factor = vision.patch_size * vision.spatial_merge_size  # pixels along a token's side
        if vision.temporal_patch_size != PAIR:
            raise CheckpointError(
                f"{where}: 'temporal_patch_size' is {vision.temporal_patch_size}; supported: {PAIR}."
            )
        self._levels = normalised_levels(settings, vision, where)
        self._min_pixels, self._max_pixels = pixel_bounds(settings, where)
        self._fps = _positive(settings, "fps", where)
        self._min_frames = int(_positive(settings, "min_frames", where))
        self._max_frames = int(_positive(settings, "max_frames", where))
        self._frame_cap = (
            int(_positive({"max_video_tokens": 768} | dict(settings), "max_video_tokens", where))
            if settings.get("cap_pixels_per_frame")
            else None
        )

    @classmethod
    def from_folder(cls, folder: Path, vision: VisionConfig) -> "VideoProcessor":
        """Read video_preprocessor_config.json, or its form within processor_config.json.

        Where a checkpoint has neither, the official settings are assumed, with its pictures' normalisation.
        Raises CheckpointError.
        """
        path = folder / "video_preprocessor_config.json"
        nested = folder / "processor_config.json"  # written by transformers 5 in place of the former
        if path.exists():
            return cls({**DEFAULTS, **read_json(path)}, vision, str(path))
        if nested.exists() and isinstance(settings := read_json(nested).get("video_processor"), dict):
            return cls({**DEFAULTS, **settings}, vision, f"{nested}, video_processor")
        assumed = f"the model has no {path.name}: the family's sampling of clips is assumed"
        pictures = ImageProcessor.from_folder(folder, vision).settings
        shared = {
            key: value for key, value in pictures.items() if key not in ("size", "min_pixels", "max_pixels")
        }
        return cls({**shared, **DEFAULTS}, vision, str(folder), assumed=assumed)

    def plan(self, clip: Clip, sampling: Sampling = Sampling()) -> VideoPlan:
        """Which frames of `clip` a model is shown, and how large. Raises InputError, which names the clip."""
        try:
            return self._plan(clip, sampling)
        except InputError as error:
            raise InputError(f"{clip.source}: {error}", path=clip.source) from None

    def _plan(self, clip: Clip, sampling: Sampling) -> VideoPlan:
        _check(clip, sampling)
        rate = clip.fps if clip.fps > 0 else UNKNOWN_FPS
        length = clip.duration if clip.duration > 0 else clip.num_frames / rate
        start, end = sampling.start or 0.0, min(length, sampling.end or math.inf)
        if start >= end:
            raise InputError(f"it ends after {length:.1f} s, nothing of it lies from {start:g} s on.")
        frames = _Frames.between(clip, start, end, rate, is_whole=end >= length)
        times = self._choose(frames, start, end, sampling)
        natural = self._size(clip, len(times), math.inf)
        uncapped = Cap(len(times), natural, self._tokens(natural))
        if sampling.max_tokens is None:
            limit = self._budget(len(times))
            size = self._size(clip, len(times), limit)
            limit *= PAIR * -(-len(times) // PAIR) / max(len(times), PAIR)  # an odd last frame stands twice
        else:
            limit = sampling.max_tokens * PAIR * self.factor**2
            num_frames, size = self._fit(clip, len(times), natural, sampling.max_tokens)
            if num_frames < len(times):
                times = self._choose(frames, start, end, sampling, num_frames)
        return VideoPlan(
            times=times,
            size=size,
            tokens_per_pair=self._tokens(size),
            start=start,
            end=end,
            original_size=(clip.height, clip.width),
            max_tokens=int(limit) // (PAIR * self.factor**2),
            uncapped=None if (len(times), size) == (uncapped.num_frames, natural) else uncapped,
        )

    def _choose(
        self, frames: "_Frames", start: float, end: float, sampling: Sampling, most: float = math.inf
    ) -> tuple[float, ...]:
        """Times of at most so many frames in seconds, ascending."""
        if sampling.fps is not None:
            fps = min(sampling.fps, frames.highest_rate)
            if (end - start) * fps > max(frames.total + 1, MOST_TIMES):
                raise InputError(
                    f"{end - start:,.0f} s at {fps:g} fps are too many frames; its time stamps may be "
                    "damaged. Choose an end (--end), or fewer frames (--fps, --frames)."
                )
            times = _grid(start, end, fps)
            return times if len(times) <= most else _grid(start, end, most / (end - start))[: int(most)]
        count = sampling.num_frames
        if count is None:
            count = min(max(int(frames.seconds * self._fps), self._min_frames), self._max_frames)
        return frames.spread(int(min(count, len(frames.times), most)))

    def _fit(
        self, clip: Clip, num_frames: int, natural: tuple[int, int], max_tokens: int
    ) -> tuple[int, tuple[int, int]]:
        """How many frames, and their size, become at most `max_tokens` tokens: smaller first, then fewer."""
        per_token = PAIR * self.factor**2  # pixels over the two frames of a pair
        pairs = -(-num_frames // PAIR)
        if pairs * self._tokens(natural) <= max_tokens:
            return num_frames, natural
        height, width = clip.height, clip.width
        size = clip_size(pairs * PAIR, height, width, self.factor, 0, max_tokens * per_token)
        budgeted = self._size(clip, num_frames, self._budget(num_frames))
        least = min(LEAST_TOKENS, self._tokens(natural), self._tokens(budgeted))
        if pairs * self._tokens(size) <= max_tokens and self._tokens(size) >= least:
            return num_frames, size
        size = clip_size(PAIR, height, width, self.factor, 0, least * per_token)
        pairs = max_tokens // self._tokens(size)
        if not pairs:
            raise InputError(
                f"one pair of its frames takes {self._tokens(size)} tokens at the least, and it may have "
                f"{max_tokens}. Allow more (--video-tokens)."
            )
        return min(pairs * PAIR, num_frames), size

    def _budget(self, num_frames: int) -> float:
        """The checkpoint's own most, in pixels over all frames."""
        if self._frame_cap is None:
            return self._max_pixels
        num_frames = max(num_frames, PAIR)  # a single frame stands twice
        share = min(self._frame_cap * self.factor**2, self._max_pixels // num_frames)
        return max(share, int(self._min_pixels * 1.05)) * num_frames

    def _size(self, clip: Clip, num_frames: int, max_pixels: float) -> tuple[int, int]:
        return clip_size(num_frames, clip.height, clip.width, self.factor, self._min_pixels, max_pixels)

    def _tokens(self, size: tuple[int, int]) -> int:
        """Of a pair of frames of this (height, width) in pixels."""
        return size[0] * size[1] // self.factor**2

    def grid(self, plan: VideoPlan) -> tuple[int, int, int]:
        """(time, height, width) in patches of one pair."""
        return 1, plan.size[0] // self.vision.patch_size, plan.size[1] // self.vision.patch_size

    def patches(self, clip: Clip, plan: VideoPlan, first_pair: int = 0) -> Iterator[np.ndarray]:
        """Patches (P, values) float32 of each pair from `first_pair` on, made as the clip's frames come."""
        times = plan.times[PAIR * first_pair :]
        frames = clip.frames(times, plan.size)
        _, height, width = self.grid(plan)
        for begin in range(0, len(times), PAIR):
            out = np.empty((height * width, self.vision.patch_values), np.float32)
            is_alone = begin + 1 == len(times)  # an odd last frame fills both slots
            for slot in range(1 if is_alone else PAIR):
                slots = slice(None) if is_alone else slice(slot, slot + 1)
                cut_patches(next(frames), self._levels, self.vision, out, slots)
            yield out

    @property
    def digest(self) -> bytes:
        """Of what becomes of a frame's pixels."""
        return hashlib.sha256(self._levels.tobytes()).digest()


@dataclass(frozen=True, slots=True, eq=False)
class PlannedClip:
    """A clip in a prompt: what is to be seen of it, and how."""

    clip: Clip
    plan: VideoPlan
    processor: VideoProcessor

    @property
    def note(self) -> str:
        """What is going to be seen, for a person."""
        return f"{self.clip.source}: {self.plan.line}"

    def patches(self, first_pair: int = 0) -> Iterator[np.ndarray]:
        """Patches (P, values) float32 of each pair from `first_pair` on, as they are decoded."""
        return self.processor.patches(self.clip, self.plan, first_pair)

    def pair_key(self, index: int) -> bytes:
        """32 bytes that tell what a pair shows, without a look at it: the file, the times, the size."""
        assert self.clip.sha256, "a clip without a hash of its own would be taken for another"
        digest = hashlib.sha256(b"pair 2\0" + self.clip.sha256.encode() + b"\0" + self.processor.digest)
        digest.update(np.array(self.plan.size, "<i4").tobytes())
        digest.update(np.array(self.plan.pair(index), "<f8").tobytes())
        return digest.digest()


@dataclass(frozen=True, slots=True, eq=False)
class _Frames:
    """What is to be seen in a range of a clip, of `total` frames in all."""

    times: np.ndarray  # seconds, ascending: when one frame after the other comes
    seconds: float  # that they last
    highest_rate: float  # at which frames come anywhere in the clip
    total: int

    @classmethod
    def between(cls, clip: Clip, start: float, end: float, rate: float, *, is_whole: bool) -> "_Frames":
        """The frames that begin in the seconds [start, end), and before them the one that stands at `start`.

        That one only where it stands alone, or for longer than a frame usually does. A range that `is_whole`
        goes to the last frame, whenever that is.
        """
        total, starts = clip.num_frames, clip.starts
        if starts is None:
            first = math.ceil(start * rate - 1e-6)
            stop = total if is_whole else min(math.ceil(end * rate - 1e-6), total)
            times, highest_rate = np.arange(first, stop) / rate, rate
        else:
            first, stop = np.searchsorted(starts, (start - 1e-6, end - 1e-6)).tolist()
            times, highest_rate = (
                starts[first : total if is_whole else stop],
                1 / float(np.diff(starts).min()),
            )
        if not len(times) or times[0] - start > 1.001 / rate:
            times = np.concatenate([[start], times])
        seconds = len(times) / rate if starts is None else end - start
        return cls(times, seconds, highest_rate, total)

    def spread(self, count: int) -> tuple[float, ...]:
        """Of `count` of them, evenly from the first to the last."""
        places = np.linspace(0, len(self.times) - 1, count).round().astype(int)
        return tuple(self.times[places].tolist())


def _grid(start: float, end: float, fps: float) -> tuple[float, ...]:
    """Times in seconds that begin with the range, whatever its end is."""
    count = max(1, math.ceil((end - start) * fps - 1e-6))
    return tuple(start + place / fps for place in range(count))


def _check(clip: Clip, sampling: Sampling) -> None:
    if clip.num_frames < 1:
        raise InputError("it has no frames.")
    if sampling.fps is not None and sampling.num_frames is not None:
        raise InputError("both a rate and a number of frames are asked for. Choose one (--fps, --frames).")
    for name in ("fps", "num_frames", "max_tokens"):
        value = getattr(sampling, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} is {value}, expected a number above 0.")
    start, end = sampling.start or 0.0, math.inf if sampling.end is None else sampling.end
    if not 0 <= start < end:
        raise InputError(f"there are no seconds from {start:g} to {end:g}. Choose a start before the end.")


def _positive(settings: Mapping[str, Any], key: str, where: str) -> float:
    value = settings.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise CheckpointError(f"{where}: '{key}' is {value!r}, expected a number above 0.")
    return value
