"""Procedural pictures with things in them that mini does not know: heaps, landscapes, lumps, scribbles."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mini.textures import TEXTURES, Canvas, Pixels, cloud_field, clouds, flat, gradient

Points = list[tuple[float, float]]


def random_fill(canvas: Canvas) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in canvas.colour())
    return red, green, blue


def lump(canvas: Canvas, x: float, y: float, radius: float) -> Points:
    """The outline of an irregular round thing."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    bends = [
        canvas.rng.uniform(0, 0.4 / k) * np.sin(k * angles + canvas.rng.uniform(0, 2 * np.pi))
        for k in range(2, 6)
    ]
    reach, stretch = radius * (1 + sum(bends)), canvas.rng.uniform(0.5, 1.6)
    xs, ys = x + stretch * reach * np.cos(angles), y + reach / stretch * np.sin(angles)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def jagged(canvas: Canvas, x: float, y: float, radius: float) -> Points:
    """A random polygon."""
    angles = sorted(canvas.rng.uniform(0, 2 * math.pi) for _ in range(canvas.rng.randint(3, 8)))
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def spot(canvas: Canvas) -> tuple[float, float]:
    """A random point, x and y."""
    return canvas.rng.uniform(0, canvas.width), canvas.rng.uniform(0, canvas.height)


def shade(canvas: Canvas, pixels: Pixels) -> Pixels:
    """Light and shadow from a cloudy field."""
    light = canvas.rng.uniform(0.3, 0.8)
    return (pixels * (1 - light + light * cloud_field(canvas))[..., None]).astype(np.uint8)


def paper(canvas: Canvas) -> Pixels:
    """An even light ground, such as inside pictures have."""
    return np.broadcast_to(
        canvas.generator.integers(225, 256, 3, dtype=np.uint8), (canvas.height, canvas.width, 3)
    )


def heap(canvas: Canvas) -> Pixels:
    """Things upon things, small ones many and large ones few, as natural pictures have them."""
    image = Image.fromarray(np.ascontiguousarray(canvas.rng.choice([paper, flat, flat])(canvas)))
    draw = ImageDraw.Draw(image)
    least, side = canvas.rng.uniform(2, 8), min(canvas.height, canvas.width)
    outline = canvas.rng.choice([lump, jagged, lump])
    for _ in range(canvas.rng.randint(40, 120)):
        radius = min(least / math.sqrt(max(canvas.rng.random(), 1e-3)), side / 3)
        draw.polygon(outline(canvas, *spot(canvas), radius), fill=random_fill(canvas))
    return shade(canvas, np.asarray(image))


def landscape(canvas: Canvas) -> Pixels:
    """A sky, and ridges before one another, each of its own ground."""
    pixels = np.array(gradient(canvas) if canvas.rng.random() < 0.6 else clouds(canvas))
    rows = np.arange(canvas.height)[:, None]
    horizon = canvas.rng.uniform(0.2, 0.6) * canvas.height
    for _ in range(canvas.rng.randint(1, 4)):
        ridge = np.full(canvas.width, horizon)
        for k in range(1, 6):
            bend = 2 * np.pi * (k * np.arange(canvas.width) / canvas.width + canvas.rng.random())
            ridge += canvas.rng.uniform(0, 0.12) * canvas.height / k * np.sin(bend)
        is_ground = rows > ridge[None]
        ground = shade(canvas, np.array(flat(canvas))) if canvas.rng.random() < 0.6 else clouds(canvas)
        pixels[is_ground] = ground[is_ground]
        horizon += canvas.rng.uniform(0.05, 0.3) * canvas.height
    return pixels


def lumps_on_ground(canvas: Canvas) -> Pixels:
    """A few shaded or textured things before a plain or blurred ground, as in a photograph of objects."""
    ground = canvas.rng.choice([paper, flat, gradient, clouds, heap])(canvas)
    image = Image.fromarray(np.ascontiguousarray(ground))
    if canvas.rng.random() < 0.7:
        image = image.filter(ImageFilter.BoxBlur(canvas.rng.uniform(1, 8)))
    side = min(canvas.height, canvas.width)
    for _ in range(canvas.rng.randint(1, 3)):
        x, y = spot(canvas)
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).polygon(lump(canvas, x, y, side * canvas.rng.uniform(0.12, 0.4)), fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(canvas.rng.uniform(0.5, 3)))
        texture = canvas.rng.choice(TEXTURES)(canvas)
        image.paste(Image.fromarray(shade(canvas, texture)), (0, 0), mask)
    return np.asarray(image)


def strokes(canvas: Canvas) -> Pixels:
    """Many straight lines, or curves of a wandering pen."""
    image = Image.fromarray(np.ascontiguousarray(canvas.rng.choice([paper, flat, gradient])(canvas)))
    draw = ImageDraw.Draw(image)
    is_one_colour, is_straight = canvas.rng.random() < 0.5, canvas.rng.random() < 0.5
    fill, width = random_fill(canvas), canvas.rng.randint(1, 6)
    for _ in range(canvas.rng.randint(8, 60) if is_straight else canvas.rng.randint(3, 12)):
        fill = fill if is_one_colour else random_fill(canvas)
        points = [spot(canvas), spot(canvas)] if is_straight else wander(canvas)
        draw.line(points, fill=fill, width=width, joint="curve")
    return np.asarray(image)


def wander(canvas: Canvas) -> Points:
    x, y = spot(canvas)
    angle, points = canvas.rng.uniform(0, 2 * math.pi), []
    for _ in range(canvas.rng.randint(10, 60)):
        points.append((x, y))
        angle += canvas.rng.gauss(0, 0.6)
        x, y = x + 8 * math.cos(angle), y + 8 * math.sin(angle)
    return points


def soft_spots(canvas: Canvas) -> Pixels:
    """Blurred lights."""
    y, x = canvas.grid()
    pixels = np.broadcast_to(canvas.colour(), (canvas.height, canvas.width, 3)).copy()
    for _ in range(canvas.rng.randint(3, 8)):
        column, row = spot(canvas)
        reach = canvas.rng.uniform(0.05, 0.35) * max(canvas.height, canvas.width)
        weight = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * reach**2))[..., None]
        pixels += weight * (canvas.colour() - pixels)
    return pixels.astype(np.uint8)


THINGS = (heap, landscape, lumps_on_ground, strokes, soft_spots)
