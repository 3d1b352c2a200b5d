"""What a user writes for an option, as a value.

The same words count on the command line, in `QWEN_*` and in config.toml. Each parser takes the text
and raises ValueError with a message that says what was expected.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_FPS = 1000
MOST_SPECULATED = 16


@dataclass(frozen=True, slots=True)
class Thinking:
    """`enabled` None leaves it to the model's chat template; `budget` bounds the reasoning tokens."""

    enabled: bool | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Tokens that one picture may take.

    Without bounds of the user's own, `is_capped` says whether the checkpoint's upper bound is
    lowered where the model runs on a CPU.
    """

    minimum: int | None = None
    maximum: int | None = None
    is_capped: bool = True


@dataclass(frozen=True, slots=True)
class VideoTokens:
    """Tokens that one clip may take; `is_capped` as in ImageTokens."""

    maximum: int | None = None
    is_capped: bool = True


AUTO_THINKING = Thinking()
AUTO_IMAGE_TOKENS = ImageTokens()
AUTO_VIDEO_TOKENS = VideoTokens()


@dataclass(frozen=True, slots=True)
class PageRanges:
    """Pages as printed, from 1; (3, None) is page 3 to the last."""

    ranges: tuple[tuple[int, int | None], ...]

    def select(self, num_pages: int) -> list[int]:
        """The chosen pages in the order written. Raises ValueError for one that is not there."""
        pages: list[int] = []
        for first, last in self.ranges:
            if max(first, last or first) > num_pages:
                missing = max(first, last or first)
                raise ValueError(f"there is no page {missing}: it has {num_pages}")
            pages.extend(range(first, (last or num_pages) + 1))
        return pages


def parse_whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise ValueError(f"{text!r} is not a whole number of at least {minimum}.")
        return value

    return parse


def parse_speculate(text: str) -> Literal["auto"] | int:
    """Tokens that are drafted at a time; 0: none."""
    word = text.strip().lower()
    if word == "auto":
        return "auto"
    if word == "off":
        return 0
    if word.isascii() and word.isdigit() and int(word) <= MOST_SPECULATED:
        return int(word)
    raise ValueError(f"{text!r} is none of auto, off and the whole numbers to {MOST_SPECULATED}.")


def parse_number(minimum: float, maximum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not minimum <= value <= maximum:
            raise ValueError(f"{text!r} is not a number from {minimum:g} to {maximum:g}.")
        return value

    return parse


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """`8G`, `500M`, `1.5GB`: powers of ten; GiB and the like in powers of two. 0 is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if match is None:
        raise ValueError(f"{text!r} is not a size. Write it like 8G or 500M.")
    number, unit, is_binary = match.groups()
    factor = _UNITS[unit] if not is_binary else 1024 ** [*_UNITS].index(unit)
    try:
        return int(float(number) * factor)
    except OverflowError:
        raise ValueError(f"{text!r} is larger than any memory or disk.") from None


def parse_rate(text: str) -> int:
    """Bytes a second: a size that is not 0."""
    if not (rate := parse_bytes(text.removesuffix("/s"))):
        raise ValueError(f"{text!r}: nothing would ever come.")
    return rate


def parse_ram(text: str) -> int | None:
    """A size, or `auto`."""
    return None if text == "auto" else parse_bytes(text)


def parse_batch_size(text: str) -> int | None:
    """A number of rows, or `auto`."""
    return None if text == "auto" else parse_whole(1)(text)


def parse_choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}.")
        return text

    return parse


def parse_thinking(text: str) -> Thinking:
    """off | on | auto | N (think for at most N tokens)."""
    if text in ("off", "false", "0"):
        return Thinking(False)
    if text in ("on", "true"):
        return Thinking(True)
    if text == "auto":
        return Thinking()
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"{text!r} is none of off, on, auto, or a number of tokens.")
    return Thinking(True, int(text))


def parse_image_tokens(text: str) -> ImageTokens:
    """auto | model | MAX | MIN:MAX."""
    if text in ("auto", "model"):
        return ImageTokens(is_capped=text == "auto")
    match = re.fullmatch(r"(?:([0-9]+):)?([0-9]+)", text)
    if not match:
        raise ValueError(f"{text!r} is none of auto, model, MAX or MIN:MAX.")
    minimum, maximum = int(match[1]) if match[1] else None, int(match[2])
    if maximum < 1 or minimum == 0 or (minimum or 1) > maximum:
        raise ValueError(f"{text!r}: at least one token, and MIN no more than MAX.")
    return ImageTokens(minimum, maximum, is_capped=False)


def parse_video_tokens(text: str) -> VideoTokens:
    """auto | model | MAX."""
    if text in ("auto", "model"):
        return VideoTokens(is_capped=text == "auto")
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError(f"{text!r} is none of auto, model, or a number of tokens.")
    return VideoTokens(int(text), is_capped=False)


def parse_time(text: str) -> float:
    """Seconds from the beginning of a clip: `90`, `90s`, `1:30`, `1:02:03.5`, `1h2m3s`."""
    unit = r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?"
    clock = r"(?:(?:(\d+):)?([0-5]?\d):)?([0-5]?\d(?:\.\d+)?)"
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = text and (re.fullmatch(unit, text) or re.fullmatch(clock, text))
    if not match:
        raise ValueError(f"{text!r} is not a time. Write it like 90, 90s, 1:30 or 1:02:03.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_fps(text: str) -> float:
    """Frames a second; 1/10 is one in ten seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(?:/(\d+(?:\.\d+)?))?", text.strip())
    rate = float(match[1]) / (float(match[2] or 1) or math.inf) if match else 0.0
    if not 0 < rate <= MAX_FPS:
        raise ValueError(f"{text!r} is not a number of frames a second, such as 2, 0.5 or 1/10.")
    return rate


def parse_pages(text: str) -> PageRanges:
    """1-3,5,8- (from 1; the last may be left open)."""
    ranges = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(-([0-9]*))?\s*", item)
        first = int(match[1]) if match else 0
        last = first if not match or match[2] is None else int(match[3]) if match[3] else None
        if first < 1 or (last is not None and last < first):
            raise ValueError(f"{text!r} is not a list of pages such as 1-3,5 or 8-.")
        ranges.append((first, last))
    return PageRanges(tuple(ranges))
