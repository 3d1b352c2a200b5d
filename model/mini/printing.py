"""Printing a line of text, and where each of its characters came to stand."""

from functools import lru_cache

from PIL import ImageDraw, ImageFont

from mini.labels import Glyph

Colour = tuple[int, int, int]


@lru_cache(maxsize=1 << 18)
def advance(face: ImageFont.FreeTypeFont, char: str, following: str) -> float:
    """How far the pen moves over `char` before `following` (or nothing), kerning included."""
    return face.getlength(char + following) - (face.getlength(following) if following else 0.0)


@lru_cache(maxsize=4096)
def x_height(face: ImageFont.FreeTypeFont) -> float:
    """The height of an x, in pixels."""
    return -face.getbbox("x", anchor="ls")[1]


@lru_cache(maxsize=4096)
def mean_advance(face: ImageFont.FreeTypeFont) -> float:
    """The width of a usual character, in pixels."""
    usual = "the quick brown fox jumps over a lazy dog 0123456789 ABCDEFGHIJ"
    return face.getlength(usual) / len(usual)


def advances(face: ImageFont.FreeTypeFont, text: str) -> list[float]:
    """How far the pen moves over each character of the text."""
    return [advance(face, char, text[index + 1 : index + 2]) for index, char in enumerate(text)]


def text_width(face: ImageFont.FreeTypeFont, text: str) -> float:
    return sum(advances(face, text))


def print_line(
    draw: ImageDraw.ImageDraw,
    text: str,
    left: float,
    baseline: float,
    face: ImageFont.FreeTypeFont,
    colour: Colour,
) -> list[Glyph]:
    """Draw the line and return its characters, spaces left out."""
    draw.text((left, baseline), text, fill=colour, font=face, anchor="ls")
    middle = baseline - x_height(face) / 2
    glyphs, pen = [], left
    for char, step in zip(text, advances(face, text), strict=True):
        if char != " ":
            glyphs.append(Glyph(char, pen + face.getlength(char) / 2, middle))
        pen += step
    return glyphs
