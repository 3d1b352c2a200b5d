"""Pictures: encoded bytes as upright RGB pixels, by Pillow."""

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from qwen35.errors import InputError
from qwen35.messages import ImagePart
from qwencli.media.source import Source

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# What Pillow may open: its other plugins include some that start external programs (EPS).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "JPEG2000", "QOI", "PPM")
_PAGED = ("TIFF",)  # formats in which further frames are pictures of their own
_WHITE = (255, 255, 255)


def decode_image(source: Source, notify: Callable[[str], None]) -> ImagePart:
    """The (first) picture of `source`, rotated as its EXIF data says, transparency on white.

    Raises InputError for a broken file and for one of more pixels than Pillow's bomb limit.
    """
    name = source.name
    try:
        image = open_picture(source)
        if image.format in _PAGED and (num_frames := getattr(image, "n_frames", 1)) > 1:
            notify(f"{name}: holds {num_frames} pages; only the first is used")
        image.load()
        pixels = np.asarray(to_rgb(_upright(image)))
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: {str(error).split(',')[0]}. Scale it down first.", path=name) from None
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{name}: looks like {source.kind.label}, but cannot be decoded. Convert it to PNG or JPEG.",
            path=name,
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers trip over
        raise InputError(
            f"{name}: is {source.kind.label}, but damaged ({error}). Save or download it again.", path=name
        ) from None
    return ImagePart(pixels, name, source.sha256)


def open_picture(source: Source) -> "ImageFile":
    """Its header is read, and no pixels yet."""
    with warnings.catch_warnings():
        # Pillow warns from half its limit on and raises at the limit: only the latter is ours.
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(source.data), formats=_FORMATS)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data turns no picture
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB, transparency on white."""
    if image.mode.startswith("I;16"):
        return _scaled(np.asarray(image), 65535)
    if image.mode == "I":
        values = np.asarray(image)
        return _scaled(values, 65535 if values.max() <= 65535 else float(values.max()))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0, neginf=0)
        return _scaled(values, max(float(values.max()), 1.0))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        blended = Image.new("RGBA", image.size, _WHITE)
        blended.alpha_composite(image.convert("RGBA"))
        return blended.convert("RGB")
    return image.convert("RGB")


def _scaled(values: np.ndarray, white: float) -> Image.Image:
    """Grey levels of any range, 0 to `white`, as 8 bits (Pillow's own conversion cuts off at 255)."""
    levels = np.clip(values.astype(np.float64) * 255 / white, 0, 255).round().astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")
