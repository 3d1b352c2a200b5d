"""Procedural textures, as functions of a canvas: what is outside of mini's world and has no things in it."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

Pixels = np.ndarray  # (H, W, 3) uint8


@dataclass(frozen=True, slots=True)
class Canvas:
    """The size of a picture to be made and the chance that makes it."""

    height: int
    width: int
    rng: random.Random
    generator: np.random.Generator
    vividness: float  # 0..1: from greys to any colour at all

    def colour(self) -> np.ndarray:
        """A random colour (3,) of this picture's vividness, as floats of 0..255."""
        colour = self.generator.integers(0, 256, 3).astype(np.float32)
        return colour.mean() + self.vividness * (colour - colour.mean())

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each pixel, as floats that broadcast to (H, W)."""
        y = np.arange(self.height, dtype=np.float32)[:, None]
        return y, np.arange(self.width, dtype=np.float32)[None]

    def blend(self, field: np.ndarray) -> Pixels:
        """Two or three random colours, mixed by a field (H, W) of 0..1."""
        stops = self.rng.choice([2, 3])
        colours = np.stack([self.colour() for _ in range(stops)])
        ramp = np.stack(
            [np.interp(np.linspace(0, stops - 1, 256), range(stops), colours[:, c]) for c in range(3)], axis=1
        )
        return ramp.astype(np.uint8)[(field.clip(0, 1) * 255).astype(np.uint8)]


def flat(canvas: Canvas) -> Pixels:
    return np.broadcast_to(canvas.colour().astype(np.uint8), (canvas.height, canvas.width, 3))


def gradient(canvas: Canvas) -> Pixels:
    """A fade along a line or away from a point."""
    y, x = canvas.grid()
    if canvas.rng.random() < 0.5:
        angle = canvas.rng.uniform(0, 2 * np.pi)
        field = y * np.sin(angle) + x * np.cos(angle)
    else:
        field = np.hypot(y - canvas.rng.uniform(0, canvas.height), x - canvas.rng.uniform(0, canvas.width))
    return canvas.blend((field - field.min()) / max(np.ptp(field), 1.0))


def noise(canvas: Canvas) -> Pixels:
    """Coloured or grey noise, fine or in blocks."""
    block = canvas.rng.choice([1, 1, 2, 4, 8, 16, 32])
    channels = canvas.rng.choice([1, 3])
    shape = (-(-canvas.height // block), -(-canvas.width // block), channels)
    blocks = canvas.generator.integers(0, 256, shape, dtype=np.uint8)
    pixels = blocks.repeat(block, axis=0).repeat(block, axis=1)[: canvas.height, : canvas.width]
    return np.broadcast_to(pixels, (canvas.height, canvas.width, 3))


def cloud_field(canvas: Canvas) -> np.ndarray:
    """Noise of many scales (H, W), 0..1, each octave weaker than the coarser one by a random factor."""
    field = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    weight, fade, cells = 1.0, canvas.rng.uniform(0.35, 0.85), canvas.rng.choice([2, 3, 4, 6])
    while cells < max(canvas.height, canvas.width) / 2:
        octave = Image.fromarray(canvas.generator.integers(0, 256, (cells, cells), dtype=np.uint8))
        field += weight * np.asarray(octave.resize((canvas.width, canvas.height), Image.Resampling.BICUBIC))
        weight, cells = weight * fade, cells * 2
    field -= field.min()
    return field / max(field.max(), 1.0)


def clouds(canvas: Canvas) -> Pixels:
    """Clouds, marble or veins, by what is made of the field."""
    field = cloud_field(canvas)
    form = canvas.rng.randrange(3)
    if form == 1:
        field = np.abs(2 * field - 1)
    elif form == 2:
        field = 0.5 + 0.5 * np.sin(field * canvas.rng.uniform(10, 60))
    return canvas.blend(field)


def coloured_clouds(canvas: Canvas) -> Pixels:
    """An independent field for each channel."""
    return (np.stack([cloud_field(canvas) for _ in range(3)], axis=2) * 255).astype(np.uint8)


def waves(canvas: Canvas) -> Pixels:
    """Stripes, grids, rings or moire, hard or soft."""
    y, x = canvas.grid()
    field = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    for _ in range(canvas.rng.randint(1, 3)):
        frequency = 2 * np.pi / canvas.rng.uniform(5, 60)
        if canvas.rng.random() < 0.3:
            distance = np.hypot(
                y - canvas.rng.uniform(0, canvas.height), x - canvas.rng.uniform(0, canvas.width)
            )
            field += np.sin(distance * frequency)
        else:
            angle = canvas.rng.uniform(0, np.pi)
            field += np.sin((x * np.cos(angle) + y * np.sin(angle)) * frequency)
    return canvas.blend(1 / (1 + np.exp(-field * canvas.rng.choice([1.0, 2.0, 20.0]))))


def cells(canvas: Canvas) -> Pixels:
    """Cells around random points: flat ones, or shaded by the distance to their point."""
    y, x = canvas.grid()
    nearest = np.full((canvas.height, canvas.width), np.inf, dtype=np.float32)
    owner = np.zeros((canvas.height, canvas.width), dtype=np.uint8)
    num_points = canvas.rng.randint(6, 30)
    for index in range(num_points):
        row, column = canvas.rng.uniform(0, canvas.height), canvas.rng.uniform(0, canvas.width)
        distance = (y - row) ** 2 + (x - column) ** 2
        is_nearer = distance < nearest
        nearest[is_nearer] = distance[is_nearer]
        owner[is_nearer] = index
    if canvas.rng.random() < 0.5:
        return canvas.generator.integers(0, 256, (num_points, 3), dtype=np.uint8)[owner]
    return canvas.blend(np.sqrt(nearest / nearest.max()))


TEXTURES = (flat, gradient, noise, clouds, coloured_clouds, waves, cells)
