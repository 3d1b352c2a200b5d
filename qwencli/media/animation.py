"""Clips made of pictures, by Pillow: GIF, animated WebP, PNG and AVIF."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from qwen35.errors import InputError
from qwen35.processing.resize import resize_frame
from qwencli.media.image import open_picture, to_rgb, upright, upright_size
from qwencli.media.source import Source
from qwencli.media.timeline import Timeline

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
# Players show a frame without a duration, or with one that no screen can show, for a tenth of a second.
_LEAST_MS, _USUAL_MS = 11, 100

Read = Callable[[Sequence[int]], Iterator[np.ndarray | None]]


class PictureClip:
    """A `messages.Clip` of pictures. `read` gives the pixels of ascending frames, None for a damaged one."""

    def __init__(
        self, source: str, sha256: str, size: tuple[int, int], timeline: Timeline, read: Read
    ) -> None:
        self.source = source
        self.sha256 = sha256
        self.height, self.width = size
        self.duration = timeline.duration
        self.fps = timeline.fps
        self.num_frames = timeline.num_frames
        self.starts = timeline.varying
        self._timeline = timeline
        self._read = read
        self._bad: set[int] = set()

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """As `messages.Clip` has it."""
        numbers = [self._timeline.at(time) for time in times]
        unique = sorted(set(numbers))
        pictures = zip(unique, self._read(unique), strict=True)
        picture: np.ndarray | None = None
        place, num_owed = -1, 0
        for number in numbers:
            while place < number:
                place, pixels = next(pictures)
                if pixels is None:
                    self._bad.add(place)
                else:
                    picture = resize_frame(pixels, size)
            num_owed += 1
            if picture is not None:
                yield from [picture] * num_owed
                num_owed = 0
        if num_owed:
            raise InputError(f"{self.source}: none of these frames can be decoded.", path=self.source)

    def notes(self) -> tuple[str, ...]:
        if not self._bad:
            return ()
        which = "1 frame" if len(self._bad) == 1 else f"{len(self._bad)} frames"
        return (f"{self.source}: {which} cannot be decoded; the last good one stands in place",)


def open_animation(source: Source, notify: Callable[[str], None]) -> PictureClip | None:
    """None for a picture that does not move, and for one that cannot be opened at all."""
    try:
        image = open_picture(source)
        first = int(getattr(image, "default_image", False))  # an APNG's picture for those that know no APNG
        if image.format not in _ANIMATED:
            return None
        promised = _num_promised(source)
        if promised is not None and promised - first < 2:
            return None
        durations = _durations(image, first)
        size = upright_size(image)
    except MemoryError:
        raise
    except Exception:  # whatever Pillow's parsers trip over: `decode_image` says it in plain words
        return None
    if promised is None or len(durations) < promised - first:
        there = "1 frame is" if len(durations) == 1 else f"{len(durations):,} frames are"
        notify(f"{source.name}: is damaged or cut off: {there} there")
    ends = np.cumsum(durations) / 1000
    timeline = Timeline(np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))

    def read(numbers: Sequence[int]) -> Iterator[np.ndarray | None]:
        with open_picture(source) as image:
            for number in numbers:
                yield _frame(image, first + number)

    return PictureClip(source.name, source.sha256, size, timeline, read)


def _num_promised(source: Source) -> int | None:
    """How many frames the file says, or shows on a way through it, that it has; None where it is damaged."""
    try:
        return getattr(open_picture(source), "n_frames", 1)
    except MemoryError:
        raise
    except Exception:
        return None


def _durations(image: "ImageFile", first: int) -> list[float]:
    """Of all frames, in ms; up to where the file is damaged, but at least of one."""
    durations: list[float] = []
    for number in count(first):
        try:
            image.seek(number)
            image.load()  # WebP tells a frame's duration no earlier
        except EOFError:
            break
        except Exception:
            if not durations:
                raise
            break
        told = float(image.info.get("duration") or 0)
        durations.append(told if told >= _LEAST_MS else _USUAL_MS)
    return durations


def _frame(image: "ImageFile", number: int) -> np.ndarray | None:
    try:
        image.seek(number)
        return np.asarray(to_rgb(upright(image)))
    except MemoryError:
        raise
    except Exception:  # damaged
        return None
