"""Frames of a clip to the size that the model is shown."""

import numpy as np
from PIL import Image


def resize_frame(pixels: np.ndarray, size: tuple[int, int], *, columns_first: bool = False) -> np.ndarray:
    """`pixels` (H, W, 3) uint8 at `size` (height, width), within 2 levels of the official video processor's.

    Each of the two passes rounds to bytes and cuts off what lies beyond them, so that their order shows at
    sharp edges, by up to 30 levels. The official one (torchvision) does rows first; Pillow takes the order
    that is cheaper. `columns_first`: of frames that are transposed afterwards.
    """
    height, width = size
    between = (pixels.shape[1], height) if columns_first else (width, pixels.shape[0])
    picture = Image.fromarray(pixels)
    for step in (between, (width, height)):
        if picture.size != step:
            picture = picture.resize(step, Image.Resampling.BICUBIC)
    return np.asarray(picture)
