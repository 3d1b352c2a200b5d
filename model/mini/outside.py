"""Pictures from outside of mini's world, all procedural, and the questions that it declines."""

import random

import numpy as np
from PIL import Image

from mini.degrade import degrade
from mini.labels import Question, Sample
from mini.outside_questions import decline, outside_picture_question, outside_question
from mini.talk import ABOUT_A_PICTURE
from mini.textures import TEXTURES, Canvas, Pixels, cloud_field
from mini.things import THINGS


def warp(canvas: Canvas, pixels: Pixels) -> Pixels:
    """The picture bent by smooth random shifts."""
    reach = canvas.rng.uniform(10, 80)
    y, x = canvas.grid()
    rows = (y + reach * (cloud_field(canvas) - 0.5)).astype(np.int32).clip(0, canvas.height - 1)
    columns = (x + reach * (cloud_field(canvas) - 0.5)).astype(np.int32).clip(0, canvas.width - 1)
    return pixels[rows, columns]


def tone(canvas: Canvas, pixels: Pixels) -> Pixels:
    """Another brightness and contrast; now and then no colour."""
    if canvas.rng.random() < 0.15:
        pixels = np.broadcast_to(pixels.mean(axis=2, keepdims=True), pixels.shape)
    low, high = sorted(canvas.rng.uniform(0, 255) for _ in range(2))
    gamma = canvas.rng.uniform(0.5, 2.0)
    levels = np.linspace(0, 1, 256) ** gamma * (high - low) + low
    return levels.astype(np.uint8)[pixels.astype(np.uint8)]


def draw_outside(size: tuple[int, int], rng: random.Random) -> np.ndarray:
    """Pixels (H, W, 3) of one random picture of nothing that mini knows."""
    generator = np.random.Generator(np.random.SFC64(rng.getrandbits(64)))
    scale = min(1.0, rng.choice([60, 100, 140, 320]) / max(size))  # coarse ones are also quick to make
    vividness = rng.choice([1.0, rng.random(), 0.5 * rng.random()])
    canvas = Canvas(round(size[0] * scale), round(size[1] * scale), rng, generator, vividness)
    pixels = rng.choice(THINGS if rng.random() < 0.65 else TEXTURES)(canvas)
    if rng.random() < 0.2:
        pixels = warp(canvas, pixels)
    if rng.random() < 0.4:
        pixels = tone(canvas, pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resampling = Image.Resampling.NEAREST if rng.random() < 0.2 else Image.Resampling.BICUBIC
    return degrade(image.resize((size[1], size[0]), resampling), rng)


def make_outside(size: tuple[int, int], num_questions: int, rng: random.Random) -> Sample:
    pixels = draw_outside(size, rng)
    questions: dict[str, Question] = {}
    while len(questions) < num_questions:
        chance = rng.random()
        if chance < 0.6:
            question = decline(rng.choice(ABOUT_A_PICTURE), rng)
        else:
            question = outside_picture_question(rng) if chance < 0.9 else outside_question(rng)
        questions.setdefault(question.question, question)
    return Sample(world="outside", pixels=pixels, questions=list(questions.values()))
