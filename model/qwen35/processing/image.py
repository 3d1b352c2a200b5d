"""One picture to patches: resize, normalise, cut, as the checkpoint's preprocessor_config.json says.

Equal to the official processor's PIL backend, value for value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwen35.config import VisionConfig, read_json
from qwen35.errors import CheckpointError, InputError

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, slots=True)
class TokenBounds:
    """How many tokens one picture may become. Raises InputError for bounds that no picture meets."""

    min: int
    max: int

    def __post_init__(self) -> None:
        if self.min < 1 or self.max < self.min:
            raise InputError(
                f"Image tokens {self.min}:{self.max}: the least must be 1 or more and not above the most."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """A picture as the vision encoder takes it."""

    values: np.ndarray  # (P, C * Tp * patch * patch) float32, merge cell by merge cell
    grid: tuple[int, int, int]  # (time, height, width) in patches
    resized: tuple[int, int]  # (height, width) in pixels


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size nearest to (height, width) in multiples of `factor` whose area lies within the bounds.

    The aspect ratio is kept as far as the multiples allow. Raises InputError for an empty or an
    extremely long picture.
    """
    if min(height, width) < 1 or max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InputError(
            f"{width}x{height} pixels: the long side may be at most "
            f"{MAX_ASPECT_RATIO} times the short one. Crop it."
        )
    # Python's round, half to even, as the official processor does.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


class ImageProcessor:
    """`bounds` are the checkpoint's own, in tokens."""

    def __init__(self, settings: Mapping[str, Any], vision: VisionConfig, where: str) -> None:
        """`settings` as in preprocessor_config.json; `where` names them in errors (CheckpointError)."""
        self.settings, self.vision = settings, vision
        self.factor = vision.patch_size * vision.spatial_merge_size  # pixels along a token's side
        self.levels = normalised_levels(settings, vision, where)
        self._min_pixels, self._max_pixels = pixel_bounds(settings, where)

    @classmethod
    def from_folder(cls, folder: Path, vision: VisionConfig) -> "ImageProcessor":
        """Read preprocessor_config.json, or its form within processor_config.json. Raises CheckpointError."""
        path = folder / "preprocessor_config.json"
        nested = folder / "processor_config.json"  # written by transformers 5 in place of the former
        if not path.exists() and nested.exists():
            settings = read_json(nested).get("image_processor")
            if not isinstance(settings, dict):
                raise CheckpointError(f"{nested}: the key 'image_processor' is missing.", path=str(nested))
            return cls(settings, vision, f"{nested}, image_processor")
        return cls(read_json(path), vision, str(path))

    @property
    def bounds(self) -> TokenBounds:
        area = self.factor**2
        return TokenBounds(max(1, math.ceil(self._min_pixels / area)), max(1, self._max_pixels // area))

    def plan(self, height: int, width: int, bounds: TokenBounds | None = None) -> tuple[int, int]:
        """The (height, width) in pixels that a picture is resized to. None: the checkpoint's bounds."""
        limits = (self._min_pixels, self._max_pixels)
        if bounds is not None:
            limits = (bounds.min * self.factor**2, bounds.max * self.factor**2)
        return smart_resize(height, width, self.factor, *limits)

    def num_tokens(self, resized: tuple[int, int]) -> int:
        return resized[0] * resized[1] // self.factor**2

    def grid(self, resized: tuple[int, int]) -> tuple[int, int, int]:
        """(time, height, width) in patches of a picture resized to (height, width) in pixels."""
        return 1, resized[0] // self.vision.patch_size, resized[1] // self.vision.patch_size

    def process(
        self, pixels: np.ndarray, bounds: TokenBounds | None = None, out: np.ndarray | None = None
    ) -> Patches:
        """Patches of one picture, `pixels` (height, width, 3) uint8; written into `out` where given."""
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == self.vision.in_channels
        height, width = self.plan(pixels.shape[0], pixels.shape[1], bounds)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        grid = self.grid((height, width))
        if out is None:
            out = np.empty((grid[1] * grid[2], self.vision.patch_values), np.float32)
        # A still picture fills every temporal slot of a patch with the same pixels.
        cut_patches(np.asarray(picture), self.levels, self.vision, out, slice(None))
        return Patches(out, grid, (height, width))


def normalised_levels(settings: Mapping[str, Any], vision: VisionConfig, where: str) -> np.ndarray:
    """What the 256 values of a byte become in each channel, (C, 256) float32, by a preprocessor's settings.

    Raises CheckpointError, with `where`, for settings that are not this encoder's or not supported.
    """
    for key, expected in (
        ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size),
        ("temporal_patch_size", vision.temporal_patch_size),
    ):
        if _get(settings, key, where) != expected:
            raise CheckpointError(
                f"{where}: '{key}' is {settings[key]!r} but config.json's vision_config has {expected}."
            )
    # The official files leave these out; the values are those of the processor class they name.
    for key, supported in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("resample", Image.Resampling.BICUBIC),
    ):
        if settings.get(key, supported) != supported:
            raise CheckpointError(f"{where}: '{key}' is {settings[key]!r}; supported: {int(supported)}.")
    mean = _per_channel(settings, "image_mean", vision.in_channels, where)
    std = _per_channel(settings, "image_std", vision.in_channels, where)
    # The steps and dtypes of the official processor.
    unit = (np.arange(256) * float(settings.get("rescale_factor", 1 / 255))).astype(np.float32)
    return (unit - mean[:, None]) / std[:, None]


def cut_patches(
    picture: np.ndarray, levels: np.ndarray, vision: VisionConfig, out: np.ndarray, slots: slice
) -> None:
    """Write `picture` (height, width, C) uint8, in whole merge cells, into temporal `slots` of its patches.

    `out` (P, C * Tp * patch * patch): merge cells in raster order, in each its patches in raster order.
    """
    assert out.flags.c_contiguous, "a reshaped copy would be written instead"
    size, merge, channels = vision.patch_size, vision.spatial_merge_size, vision.in_channels
    cells_across = picture.shape[1] // (size * merge)
    values = out.reshape(-1, cells_across, merge, merge, channels, vision.temporal_patch_size, size, size)
    bands = picture.reshape(-1, merge, size, cells_across, merge, size, channels)
    # A row of cells at a time: the picture as a whole is never there in floats but for the patches.
    for cells, band in zip(values, bands.transpose(0, 3, 1, 4, 6, 2, 5), strict=True):
        for channel in range(channels):
            cells[:, :, :, channel, slots] = levels[channel][band[:, :, :, channel]][..., None, :, :]


def _get(settings: Mapping[str, Any], key: str, where: str) -> Any:
    if settings.get(key) is None:
        raise CheckpointError(f"{where}: the key '{key}' is missing. The checkpoint is incomplete.")
    return settings[key]


def _per_channel(settings: Mapping[str, Any], key: str, channels: int, where: str) -> np.ndarray:
    values = _get(settings, key, where)
    if (
        not isinstance(values, list)
        or len(values) != channels
        or not all(isinstance(v, int | float) for v in values)
    ):
        raise CheckpointError(f"{where}: '{key}' is {values!r}, expected {channels} numbers.")
    return np.array(values, np.float32)


def pixel_bounds(settings: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Least and greatest area. `shortest_edge` and `longest_edge` are areas too, whatever their names say."""
    size = settings.get("size") or {}
    found = []
    for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        value = next((v for v in (settings.get(old), size.get(new), size.get(old)) if v is not None), None)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}: 'size' has no usable '{new}' (found {value!r}).")
        found.append(value)
    if found[0] > found[1]:
        raise CheckpointError(f"{where}: the least picture size {found[0]} is above the greatest {found[1]}.")
    return found[0], found[1]
