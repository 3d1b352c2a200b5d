"""Block letters: capitals and digits, each alone in a square as wide as a picture token.

As on a form with a box for each letter. What a token holds is then one character, which a small encoder
learns within minutes where print of any size and place takes it hours.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from mini.architecture import TOKEN_PIXELS
from mini.fonts import draw_face, load_face
from mini.scenes import Colour, hsv_colour

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
SIZES = (13, 17)  # of the typeface, in pixels
WIDEST = 15  # pixels that a letter takes: it leaves its square by two at most


@dataclass(slots=True)
class Hand:
    """How the letters of one document are written."""

    face: Path | None
    size: int
    ink: Colour
    shift: int  # of the baseline, in pixels

    @classmethod
    def draw(cls, rng: random.Random, split: str) -> "Hand":
        ink = hsv_colour(rng.uniform(0, 360), rng.uniform(0.0, 0.9), rng.uniform(0.0, 0.35))
        return cls(draw_face(rng, split), rng.randint(*SIZES), ink, rng.randint(-1, 1))

    def write(self, image: Image.Image, text: str, row: int, column: int) -> None:
        """Each character in its own square, the first at this `row` and `column`."""
        draw = ImageDraw.Draw(image)
        baseline = (row + 1) * TOKEN_PIXELS - 3 + self.shift
        for index, char in enumerate(text):
            size = self.size
            while load_face(self.face, size).getlength(char) > WIDEST:
                size -= 1
            middle = (column + index + 0.5) * TOKEN_PIXELS
            draw.text((middle, baseline), char, fill=self.ink, font=load_face(self.face, size), anchor="ms")
