"""A conversation as data: what the user and the model said, with pictures as pixels and clips to be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """One still picture: `pixels` (height, width, 3) uint8 RGB, upright, alpha already blended."""

    pixels: np.ndarray
    source: str  # what the user called it: a path, a URL, "stdin"
    sha256: str = ""  # of the bytes it was decoded from
    page: int | None = None  # from 1, of a document


class Clip(Protocol):
    """A video as whoever opened it offers it: what is known before it is decoded, and its frames."""

    source: str  # what the user called it
    height: int  # of a frame in pixels, upright
    width: int
    duration: float  # seconds
    fps: float  # frames a second, on the average
    num_frames: int
    starts: np.ndarray | None  # (num_frames,) seconds when each is shown; None: at the constant rate `fps`

    @property
    def sha256(self) -> str:
        """Of its bytes; may have to be waited for, as a large file has to be read whole."""
        ...

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """For each of `times`, ascending seconds from the beginning, the frame that is shown then.

        (height, width, 3) uint8 RGB, resized to `size` (height, width), one by one as they are decoded. For
        one that cannot be decoded the last good one stands. May be asked again. Raises InputError where
        there is none at all.
        """
        ...

    def notes(self) -> tuple[str, ...]:
        """What a person should know of the frames that were asked for so far, such as those not decodable."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip a model is shown. None: as the checkpoint's video preprocessor has it.

    `fps` frames a second, or `num_frames` in all, of the seconds [start, end); at most `max_tokens` for the
    clip, for which frames become smaller, then fewer.
    """

    fps: float | None = None
    num_frames: int | None = None
    start: float | None = None
    end: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VideoPart:
    clip: Clip
    sampling: Sampling = Sampling()


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is an assistant's thinking, kept apart from what it answered.

    `token_ids` are an answer as the model wrote it, reasoning included, where that is known.
    """

    role: Role
    parts: tuple[Part, ...]
    reasoning: str | None = None
    token_ids: tuple[int, ...] | None = None

    @classmethod
    def of_text(cls, role: Role, text: str) -> "Message":
        return cls(role, (TextPart(text),))

    @property
    def text(self) -> str:
        """The text parts alone, joined as the chat template joins them."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))
