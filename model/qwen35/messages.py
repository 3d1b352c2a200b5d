"""A conversation as data: what the user and the model said, with pictures as pixels."""

from dataclasses import dataclass
from typing import Literal

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


Part = TextPart | ImagePart


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
