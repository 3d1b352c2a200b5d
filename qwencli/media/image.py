"""Pictures: encoded bytes as upright RGB pixels, by Pillow."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from qwen35.errors import InputError
from qwen35.messages import ImagePart, Part
from qwencli.media.pages import choose_pages, page_parts
from qwencli.media.source import Source
from qwencli.values import PageRanges

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# What Pillow may open: its other plugins include some that start external programs (EPS).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "JPEG2000", "QOI", "PPM")
_PAGED = ("TIFF",)  # formats in which further frames are pictures of their own
_WHITE = (255, 255, 255)
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations of EXIF


def decode_image(source: Source, notify: Callable[[str], None]) -> ImagePart:
    """The (first) picture of `source`, rotated as its EXIF data says, transparency on white.

    Raises InputError for a broken file and for one of more pixels than Pillow's bomb limit.
    """
    with _plain_errors(source):
        image = open_picture(source)
        if (num_pages := _num_pages(image)) > 1:
            notify(f"{source.name}: holds {num_pages} pages; only the first is used")
        pixels = _pixels(image)
    return ImagePart(pixels, source.name, source.sha256)


def decode_pages(source: Source, pages: PageRanges | None, notify: Callable[[str], None]) -> tuple[Part, ...]:
    """The picture of `source`; of a TIFF with several, the chosen ones, as pages of a document.

    Raises InputError as `decode_image`, and for pages that it does not have.
    """
    with _plain_errors(source):
        image = open_picture(source)
        num_pages = _num_pages(image)
    if num_pages == 1:
        return (decode_image(source, notify),)
    parts: list[Part] = []
    for number in choose_pages(source.name, num_pages, pages, notify):
        with _plain_errors(source):
            image.seek(number - 1)
            pixels = _pixels(image)
        parts.extend(page_parts(source, number, num_pages, pixels))
    return tuple(parts)


@contextmanager
def _plain_errors(source: Source) -> Iterator[None]:
    """What Pillow raises, as an InputError for a person."""
    name = source.name
    try:
        yield
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


def _num_pages(image: "ImageFile") -> int:
    return getattr(image, "n_frames", 1) if image.format in _PAGED else 1


def _pixels(image: "ImageFile") -> np.ndarray:
    image.load()
    return np.asarray(to_rgb(upright(image)))


def open_picture(source: Source) -> "ImageFile":
    """Its header is read, and no pixels yet."""
    with warnings.catch_warnings():
        # Pillow warns from half its limit on and raises at the limit: only the latter is ours.
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(source.data), formats=_FORMATS)


def upright(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF data says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data turns no picture
        return image.copy()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of what `upright` makes of it. Reads no pixels: EXIF data that a PNG has behind them
    counts once they are loaded."""
    try:
        is_read = image.format != "PNG" or "exif" in image.info  # else Pillow would load them to look for it
        exif = image.getexif() if is_read else {}
        is_on_its_side = exif.get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    except Exception:
        is_on_its_side = False
    return (image.width, image.height) if is_on_its_side else (image.height, image.width)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB, transparency on white."""
    if image.mode.startswith("I;16"):
        levels, clear = np.asarray(image), image.info.get("transparency")
        return _scaled(np.where(levels == clear, 65535, levels) if isinstance(clear, int) else levels, 65535)
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
