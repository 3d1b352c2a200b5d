"""Our pixels beside those of the official processor's torchvision backend, computed once.

The bicubic filters of Pillow and torchvision round differently. Equality with the Pillow backend is
tested beside the image processor; here the distance to the other backend is stated.
"""

import numpy as np
import pytest

from benchmarks.synthetic import SIZES, config_json
from qwen35.config import ModelConfig
from qwen35.processing.image import ImageProcessor
from tests.golden.make_torchvision_golden import GOLDEN, SETTINGS

LARGEST, MEAN = 2, 0.01  # of 255 levels
NAMES = ("smooth, enlarged", "smooth, reduced", "sharp, reduced")


@pytest.mark.parametrize("name", NAMES)
def test_pixels_lie_within_two_levels_of_the_torchvision_backend(name: str) -> None:
    vision = ModelConfig.from_dict(config_json(SIZES["0.8b"]), "config.json").vision
    with np.load(GOLDEN) as golden:
        pixels, theirs, grid = (golden[f"{name}: {key}"] for key in ("pixels", "levels", "grid"))
    ours = ImageProcessor(SETTINGS, vision, "settings").process(pixels)
    assert ours.grid == tuple(grid)
    levels = (ours.values * 0.5 + 0.5).reshape(-1, 3, 2, 16, 16) * 255
    differences = np.abs(levels - theirs[:, :, None])
    assert differences.max() <= LARGEST + 1e-3
    assert differences.mean() <= MEAN
