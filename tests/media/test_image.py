"""Real files, written by Pillow and opened again."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen35.errors import InputError
from qwen35.messages import ImagePart, TextPart
from qwencli.media.image import decode_image, decode_pages
from qwencli.media.kinds import sniff
from qwencli.media.source import Source, read_path
from qwencli.values import parse_pages

RED, WHITE = (255, 0, 0), (255, 255, 255)


def decode(image: Image.Image, format: str, notes: list[str], **options: object) -> ImagePart:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    data = buffer.getvalue()
    return decode_image(Source("x", data, sniff(data)), notes.append)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_every_format_gives_rgb_bytes(format: str, notes: list[str]) -> None:
    part = decode(Image.new("RGB", (20, 10), RED), format, notes)
    assert part.pixels.shape == (10, 20, 3)
    assert part.pixels.dtype == np.uint8
    assert np.abs(part.pixels.astype(int) - RED).max() <= 3  # JPEG and its kin lose a little
    assert notes == []


def test_the_hash_is_that_of_the_file(tmp_path: Path, notes: list[str]) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    part = decode_image(read_path(str(tmp_path / "x.png")), notes.append)
    import hashlib

    assert part.sha256 == hashlib.sha256((tmp_path / "x.png").read_bytes()).hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int, notes: list[str]) -> None:
    upright = Image.new("RGB", (16, 8), WHITE)
    upright.paste(RED, (0, 0, 4, 4))  # the top left corner
    # How a camera that was held so would have stored it: the inverse of what the viewer must do.
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo[orientation]:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    part = decode(stored, "PNG", notes, exif=exif)
    assert np.array_equal(part.pixels, np.asarray(upright))


def test_damaged_exif_turns_nothing(notes: list[str]) -> None:
    part = decode(Image.new("RGB", (4, 2), RED), "JPEG", notes, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert part.pixels.shape == (2, 4, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_blended_on_white(mode: str, notes: list[str]) -> None:
    clear = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
    assert (decode(Image.new(mode, (2, 2), clear), "PNG", notes).pixels == 255).all()


def test_half_transparency_is_half_white(notes: list[str]) -> None:
    pixels = decode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG", notes).pixels
    assert pixels[0, 0].tolist() == [255, 127, 127]


def test_a_palette_keeps_its_colours_and_its_transparent_entry(notes: list[str]) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    pixels = decode(image, "PNG", notes, transparency=1).pixels
    assert pixels[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_transparent_colour_of_an_rgb_picture_is_white(notes: list[str]) -> None:
    pixels = decode(Image.new("RGB", (1, 1), (0, 0, 255)), "PNG", notes, transparency=(0, 0, 255)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(format: str, notes: list[str]) -> None:
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    pixels = decode(Image.fromarray(levels), format, notes).pixels
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_clear_level_of_16_bits_is_white(notes: list[str]) -> None:
    """Pillow writes no such file: a tRNS chunk before the pixels names the level."""
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)).save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = b"tRNS" + struct.pack(">H", 257)
    where = data.index(b"IDAT") - 4
    data = data[:where] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[where:]
    pixels = decode_image(Source("x", data, sniff(data)), notes.append).pixels
    assert pixels[0, :, 0].tolist() == [0, 255, 128, 255]


def test_32_bit_integers_and_floats_are_scaled_to_their_range(notes: list[str]) -> None:
    integers = np.array([[0, 2**30, 2**31 - 1]], np.int32)
    assert decode(Image.fromarray(integers), "TIFF", notes).pixels[0, :, 0].tolist() == [0, 128, 255]
    floats = np.array([[0, 0.5, 1]], np.float32)
    assert decode(Image.fromarray(floats), "TIFF", notes).pixels[0, :, 0].tolist() == [0, 128, 255]
    assert decode(Image.fromarray(floats * 100), "TIFF", notes).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_floats_that_are_no_numbers_do_no_harm(notes: list[str]) -> None:
    values = np.array([[np.nan, -1, 1]], np.float32)
    assert decode(Image.fromarray(values), "TIFF", notes).pixels[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("CMYK", (0, 255, 255, 0), RED), ("1", 1, WHITE), ("L", 7, (7, 7, 7)), ("YCbCr", (76, 85, 255), RED)],
)
def test_other_modes_become_rgb(mode: str, colour: object, expected: tuple, notes: list[str]) -> None:
    pixels = decode(Image.new(mode, (8, 8), colour), "TIFF", notes).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_of_several_pages_the_first_is_used_with_a_note(notes: list[str]) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255), WHITE)]
    part = decode(frames[0], "TIFF", notes, save_all=True, append_images=frames[1:])
    assert part.pixels[0, 0].tolist() == list(RED)
    assert notes == ["x: holds 3 pages; only the first is used"]


def tiff(*colours: tuple[int, int, int]) -> Source:
    buffer = io.BytesIO()
    first, *others = (Image.new("RGB", (4 + n, 4), colour) for n, colour in enumerate(colours))
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return Source("x.tif", buffer.getvalue(), sniff(buffer.getvalue()))


def test_pages_of_a_tiff_stand_below_their_numbers(notes: list[str]) -> None:
    parts = decode_pages(tiff(RED, (0, 0, 255), WHITE), parse_pages("3,1"), notes.append)
    assert [part.text for part in parts if isinstance(part, TextPart)] == [
        "Page 3 of 3 of x.tif:\n",
        "\n",
        "Page 1 of 3 of x.tif:\n",
        "\n",
    ]
    pictures = [part for part in parts if isinstance(part, ImagePart)]
    assert [picture.pixels[0, 0].tolist() for picture in pictures] == [list(WHITE), list(RED)]
    assert [picture.pixels.shape for picture in pictures] == [(4, 6, 3), (4, 4, 3)]
    assert [picture.source for picture in pictures] == ["x.tif, page 3", "x.tif, page 1"]


def test_a_tiff_of_one_page_is_a_picture(notes: list[str]) -> None:
    (part,) = decode_pages(tiff(RED), None, notes.append)
    assert isinstance(part, ImagePart)
    assert part.source == "x.tif"


def test_a_long_tiff_gives_its_first_pages_and_a_note(notes: list[str]) -> None:
    parts = decode_pages(tiff(*[RED] * 21), None, notes.append)
    assert sum(isinstance(part, ImagePart) for part in parts) == 20
    assert notes == ["x.tif: the first 20 of 21 pages are used; --pages chooses others"]


def test_a_page_that_a_tiff_does_not_have_is_named(notes: list[str]) -> None:
    with pytest.raises(InputError, match=r"x.tif: there is no page 4: it has 3 \(--pages\)."):
        decode_pages(tiff(RED, RED, WHITE), parse_pages("2-4"), notes.append)


def test_a_damaged_page_is_an_error(notes: list[str]) -> None:
    whole = tiff(RED, WHITE, RED)
    for share in (0.3, 0.6, 0.9):
        data = whole.data[: int(len(whole.data) * share)]
        with pytest.raises(InputError, match=r"x\.tif: is a TIFF image, but damaged"):
            decode_pages(Source("x.tif", data, whole.kind), None, notes.append)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises more than its data hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_with_size_and_limit(notes: list[str]) -> None:
    data = png(20_000, 20_000, zlib.compress(b"\0" * 1000))
    with pytest.raises(InputError, match=r"x: Image size \(400000000 pixels\) exceeds limit of 178956970"):
        decode_image(Source("x", data, sniff(data)), notes.append)


def test_a_large_picture_below_the_limit_is_opened_without_a_warning(notes: list[str]) -> None:
    data = png(10_000, 10_000)  # Pillow warns from 89 million pixels on
    with pytest.raises(InputError, match=r"x: is a PNG image, but damaged .*truncated|x: .*broken"):
        decode_image(Source("x", data, sniff(data)), notes.append)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(format: str, share: float, notes: list[str]) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format)
    data = buffer.getvalue()[: int(len(buffer.getvalue()) * share)]
    with pytest.raises(InputError, match=r"x: (is|looks like) a"):
        decode_image(Source("x", data, sniff(data)), notes.append)


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"qoif", b"P6\n2 2\n"])
def test_noise_behind_a_true_beginning_is_refused(head: bytes, notes: list[str]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        data = head + rng.bytes(200)
        with pytest.raises(InputError):
            decode_image(Source("x", data, sniff(data)), notes.append)
