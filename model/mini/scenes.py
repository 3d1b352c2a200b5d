"""Scenes: one to four plain shapes on a light ground, at distinct ones of nine places."""

import colorsys
import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from mini.degrade import degrade
from mini.labels import Sample, Shape
from mini.scene_questions import COLOURS, KINDS, PLACES, scene_questions

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

# Ranges of hue (degrees), saturation and value, with room between neighbours.
HSV_RANGES = {
    "red": ((350, 365), (0.80, 1.0), (0.68, 0.95)),
    "green": ((100, 148), (0.55, 1.0), (0.38, 0.75)),
    "blue": ((212, 238), (0.65, 1.0), (0.50, 0.95)),
    "yellow": ((50, 58), (0.75, 1.0), (0.90, 1.0)),
    "orange": ((24, 33), (0.85, 1.0), (0.92, 1.0)),
    "purple": ((274, 296), (0.50, 0.95), (0.42, 0.72)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.13)),
    "grey": ((0, 360), (0.0, 0.05), (0.45, 0.66)),
}
# Degrees: a square turned further would begin to look like a diamond.
MOST_TURN = {"circle": 0, "square": 8, "triangle": 12, "star": 15, "diamond": 6, "hexagon": 8}
SUPERSAMPLE = 4
MOST_SHAPES = 4
DETAIL_KINDS = (*KINDS, "circle", "circle", "hexagon", "hexagon")  # these two are hardest to tell apart


def darker(colour: Colour) -> Colour:
    red, green, blue = (round(level * 0.55) for level in colour)
    return red, green, blue


def draw_colour(name: str, rng: random.Random) -> Colour:
    """A shade that everyone would call by this name."""
    return hsv_colour(*(rng.uniform(low, high) for low, high in HSV_RANGES[name]))


def hsv_colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def polar_corners(kind: str, rng: random.Random) -> Points:
    """Radius and angle (degrees) of each corner of a shape with about the area of a unit circle."""
    if kind == "square":
        return [(1.17, 45 + 90 * i) for i in range(4)]
    if kind == "triangle":
        start = rng.choice([-90, -90, 90])
        return [(1.15, start + 120 * i) for i in range(3)]
    if kind == "star":
        inner = rng.uniform(0.4, 0.58)  # 0.44: a pentagram
        return [(1.15 if i % 2 == 0 else inner, 36 * i - 90) for i in range(10)]
    if kind == "diamond":
        wide = rng.uniform(0.72, 1.05)
        return [(1.15, -90), (wide, 0), (1.15, 90), (wide, 180)]
    if kind == "hexagon":
        start = rng.choice([0, 30])
        return [(1.06, start + 60 * i) for i in range(6)]
    return [(1.0, 7.5 * i) for i in range(48)]


def outline_points(kind: str, rng: random.Random) -> Points:
    """The corners (x, y) of a shape of radius 1 around the origin, turned a little at random."""
    turn = rng.uniform(-MOST_TURN[kind], MOST_TURN[kind])
    return [
        (radius * math.cos(math.radians(angle + turn)), radius * math.sin(math.radians(angle + turn)))
        for radius, angle in polar_corners(kind, rng)
    ]


def paint(image: Image.Image, points: Points, x: float, y: float, radius: float, colour: Colour) -> None:
    """Fill the shape with smooth edges: its mask is drawn large and reduced."""
    reach = math.ceil(radius * 1.3) + 2
    left, top = math.floor(x) - reach, math.floor(y) - reach
    mask = Image.new("L", (2 * reach * SUPERSAMPLE, 2 * reach * SUPERSAMPLE))
    corners = [
        ((x + radius * px - left) * SUPERSAMPLE, (y + radius * py - top) * SUPERSAMPLE) for px, py in points
    ]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    image.paste(colour, (left, top), mask.reduce(SUPERSAMPLE))


def draw_ground(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A light ground: off-white or faintly tinted, now and then fading from one tint to another."""
    height, width = size
    tints = [hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.1), rng.uniform(0.9, 1.0)) for _ in range(2)]
    image = Image.new("RGB", (width, height), tints[0])
    if rng.random() < 0.2:
        fade = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize((width, height))
        image.paste(tints[1], (0, 0), fade)
    return image


def place_shapes(
    size: tuple[int, int],
    rng: random.Random,
    cells: tuple[int, int] = (3, 3),
    most: int = MOST_SHAPES,
    kinds: Sequence[str] = KINDS,
) -> list[tuple[Shape, int]]:
    """Shapes with the numbers of their cells, in reading order, each wholly within its cell.

    `cells` (down, across) is how many the picture has; three by three are the nine places.
    """
    height, width = size[0] / cells[0], size[1] / cells[1]  # of a cell
    num_cells = cells[0] * cells[1]
    placed = []
    for cell in sorted(rng.sample(range(num_cells), rng.randint(1, min(most, num_cells)))):
        radius = min(height, width) * rng.uniform(0.3, 0.42)
        room_x, room_y = (max(0.0, side / 2 - 1.18 * radius) for side in (width, height))
        x = (cell % cells[1] + 0.5) * width + rng.uniform(-0.7, 0.7) * room_x
        y = (cell // cells[1] + 0.5) * height + rng.uniform(-0.7, 0.7) * room_y
        placed.append((Shape(rng.choice(kinds), rng.choice(COLOURS), x, y, radius), cell))
    return placed


def draw_shape(image: Image.Image, shape: Shape, rng: random.Random) -> None:
    points = outline_points(shape.kind, rng)
    fill = draw_colour(shape.colour, rng)
    radius = shape.radius
    if rng.random() < 0.2:
        paint(image, points, shape.x, shape.y, radius, darker(fill))
        radius -= max(1.0, radius * 0.08)
    paint(image, points, shape.x, shape.y, radius, fill)


def draw_scene(
    size: tuple[int, int], rng: random.Random, most: int = MOST_SHAPES
) -> tuple[Image.Image, list[tuple[Shape, str]]]:
    """A scene before any degradation, with its shapes and their places in reading order."""
    image = draw_ground(size, rng)
    placed = place_shapes(size, rng, most=most)
    for shape, _ in placed:
        draw_shape(image, shape, rng)
    return image, [(shape, PLACES[cell]) for shape, cell in placed]


def make_detail(size: tuple[int, int], cells: tuple[int, int], rng: random.Random) -> Sample:
    """A part of a scene, (down, across) cells of it, for the encoder alone: it has no questions."""
    image = draw_ground(size, rng)
    placed = place_shapes(size, rng, cells, kinds=DETAIL_KINDS)
    for shape, _ in placed:
        draw_shape(image, shape, rng)
    shapes = [shape for shape, _ in placed]
    return Sample(world="scene", pixels=degrade(image, rng), questions=[], shapes=shapes)


def make_scene(
    size: tuple[int, int], num_questions: int, rng: random.Random, difficulty: float = 1.0
) -> Sample:
    """`difficulty` (0..1) is how many shapes there may be, from one to four."""
    image, placed = draw_scene(size, rng, most=1 + round((MOST_SHAPES - 1) * difficulty))
    things = [(shape.colour, shape.kind, place) for shape, place in placed]
    questions = scene_questions(things, num_questions, rng)
    shapes = [shape for shape, _ in placed]
    return Sample(world="scene", pixels=degrade(image, rng), questions=questions, shapes=shapes)
