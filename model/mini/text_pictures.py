"""Printed text: one to four lines of words, numbers, prices and dates in many typefaces."""

import random

from PIL import Image, ImageDraw, ImageFont

from mini.degrade import degrade
from mini.fonts import draw_face, load_face
from mini.labels import Glyph, Sample
from mini.printing import mean_advance, print_line, text_width
from mini.scenes import Colour, draw_ground, hsv_colour
from mini.text_questions import text_questions
from mini.words import line

MARGIN = 3


def ink_and_ground(
    size: tuple[int, int], rng: random.Random, difficulty: float
) -> tuple[Colour, Image.Image]:
    """Dark ink on a light ground or, less often, light ink on a dark one."""
    height, width = size
    if rng.random() < 0.3 * difficulty:
        ground = hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.8), rng.uniform(0.0, 0.38))
        ink = hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.2), rng.uniform(0.85, 1.0))
        return ink, Image.new("RGB", (width, height), ground)
    ink = hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.8), rng.uniform(0.0, 0.42))
    return ink, draw_ground(size, rng)


def fitting_line(face: ImageFont.FreeTypeFont, max_chars: int, width: float, rng: random.Random) -> str:
    """A line that is not wider than `width` pixels."""
    text = line(rng, max(1, min(max_chars, int(width / mean_advance(face)))))
    while text_width(face, text) > width and len(text) > 1:
        text = text[:-1].rstrip()
    return text


def print_page(
    size: tuple[int, int], rng: random.Random, split: str, difficulty: float
) -> tuple[Image.Image, list[str], list[Glyph]]:
    """A page before any degradation, its lines and its characters."""
    height, width = size
    face_size = rng.randint(round(18 - 4 * difficulty), round(24 + 4 * difficulty))
    face_size = min(face_size, int((height - 2 * MARGIN) / 1.25))
    face = load_face(draw_face(rng, split, difficulty), face_size)
    ink, image = ink_and_ground(size, rng, difficulty)
    draw = ImageDraw.Draw(image)

    pitch = face_size * rng.uniform(1.2, 1.6)
    fitting_lines = max(1, int((height - 2 * MARGIN) / pitch))
    num_lines = rng.randint(1, min(fitting_lines, 1 + round(3 * difficulty)))
    max_chars = round(4 * 12**difficulty)
    left = MARGIN + rng.random() ** 2 * 0.25 * width
    right = width - MARGIN
    is_centred = rng.random() < 0.2
    first_baseline = MARGIN + face_size + rng.random() * max(0.0, height - 2 * MARGIN - num_lines * pitch)

    lines, glyphs = [], []
    for index in range(num_lines):
        text = fitting_line(face, max_chars, right - left, rng)
        start = left + (right - left - text_width(face, text)) / 2 if is_centred else left
        baseline = round(first_baseline + index * pitch)
        glyphs += print_line(draw, text, round(start), baseline, face, ink)
        lines.append(text)
    return image, lines, glyphs


def make_text(
    size: tuple[int, int], num_questions: int, rng: random.Random, split: str, difficulty: float
) -> Sample:
    image, lines, glyphs = print_page(size, rng, split, difficulty)
    pixels = degrade(image, rng, strength=difficulty)
    questions = text_questions(lines, num_questions, rng)
    return Sample(world="text", pixels=pixels, questions=questions, glyphs=glyphs)
