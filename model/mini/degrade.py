"""What happens to a picture between drawing and reading: blur, noise, JPEG."""

import io
import random

import numpy as np
from PIL import Image, ImageFilter


def degrade(image: Image.Image, rng: random.Random, strength: float = 1.0) -> np.ndarray:
    """The picture's pixels (H, W, 3) uint8 as a camera or a hurried export leaves them.

    `strength` (0..1) scales how often and how much; at 0 the pixels are as drawn.
    """
    if rng.random() < 0.3 * strength:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.3 + 0.5 * strength)))
    pixels = np.asarray(image)
    if rng.random() < 0.5 * strength:
        pixels = add_noise(pixels, rng, sigma=rng.uniform(1.0, 1.0 + 7.0 * strength))
    if rng.random() < 0.3 * strength:
        pixels = compress(pixels, quality=rng.randint(45, 95))
    return pixels


def add_noise(pixels: np.ndarray, rng: random.Random, sigma: float) -> np.ndarray:
    """Gaussian noise, grey or coloured, `sigma` levels of 255 strong."""
    height, width, _ = pixels.shape
    channels = rng.choice([1, 3])
    generator = np.random.Generator(np.random.SFC64(rng.getrandbits(64)))
    noise = generator.standard_normal((height, width, channels), dtype=np.float32) * np.float32(sigma)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def compress(pixels: np.ndarray, quality: int) -> np.ndarray:
    """The pixels after a round through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))
