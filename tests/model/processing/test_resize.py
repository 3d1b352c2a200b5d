"""Frames are made smaller and larger in two passes, whose order is not Pillow's own."""

import numpy as np
import pytest
from PIL import Image

from qwen35.processing.resize import resize_frame

BICUBIC = Image.Resampling.BICUBIC


@pytest.mark.parametrize("size", [(160, 256), (90, 100), (200, 300), (170, 251)])
def test_rows_come_first_whatever_is_cheaper(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (170, 251, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = picture.resize((size[1], 170), BICUBIC).resize(size[::-1], BICUBIC)
    np.testing.assert_array_equal(resize_frame(pixels, size), np.asarray(expected))


def test_columns_come_first_in_what_is_transposed_afterwards() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (170, 251, 3), dtype=np.uint8)
    upright = resize_frame(np.ascontiguousarray(pixels.transpose(1, 0, 2)), (256, 160))
    turned = resize_frame(pixels, (160, 256), columns_first=True)
    np.testing.assert_array_equal(turned.transpose(1, 0, 2), upright)
