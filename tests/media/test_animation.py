import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from qwen35.errors import InputError
from qwen35.messages import ImagePart, Sampling, TextPart, VideoPart
from qwencli.media.animation import PictureClip, open_animation
from qwencli.media.attach import Attacher
from qwencli.media.numbered import is_numbered, open_numbered
from qwencli.media.source import Source, read_path
from tests.media.clips import COLOURS, HEIGHT, WIDTH, colours_of, counter, needs_ffmpeg, number_of
from tests.media.clips import ffmpeg as run_ffmpeg

DURATIONS = [100, 200, 0, 50, 1000]  # ms; without one, a tenth of a second
STARTS = [0.0, 0.1, 0.3, 0.4, 0.45]


def animated(path: Path, frames: list[np.ndarray], durations: list[int]) -> Path:
    pictures = [Image.fromarray(frame) for frame in frames]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options)
    return path


def opened(path: Path, notes: list[str] | None = None) -> PictureClip:
    source = read_path(str(path))
    assert isinstance(source, Source)
    clip = open_animation(source, (notes if notes is not None else []).append)
    assert clip is not None
    return clip


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_frames_are_shown_as_long_as_each_says(suffix: str, tmp_path: Path) -> None:
    clip = opened(animated(tmp_path / f"a{suffix}", [counter(n) for n in range(5)], DURATIONS))
    assert (clip.num_frames, clip.height, clip.width) == (5, HEIGHT, WIDTH)
    assert clip.duration == pytest.approx(1.45)
    times = [0.0, 0.05, 0.15, 0.35, 0.41, 0.5, 1.4]
    frames = list(clip.frames(times, (48, 80)))
    assert [number_of(frame) for frame in frames] == [0, 0, 1, 2, 3, 4, 4]
    (whole,) = clip.frames([0.5], (HEIGHT, WIDTH))
    np.testing.assert_allclose(colours_of(whole), COLOURS, atol=30)  # a GIF has 256 colours
    assert [number_of(frame) for frame in clip.frames(STARTS, (HEIGHT, WIDTH))] == list(range(5))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_those_of_ffmpeg_too(name: str, tmp_path: Path) -> None:
    codec = {"a.gif": ["gif"], "a.png": ["apng", "-f", "apng"], "a.webp": ["libwebp_anim", "-lossless", "1"]}
    run_ffmpeg("-c:v", *codec[name], tmp_path / name, frames=map(counter, range(12)))
    clip = opened(tmp_path / name)
    assert clip.num_frames == 12
    assert clip.duration == pytest.approx(12 / 25, abs=0.03)
    frames = clip.frames([number / clip.fps for number in range(12)], (48, 80))
    assert [number_of(frame) for frame in frames] == list(range(12))


def test_a_picture_that_does_not_move_stays_one(tmp_path: Path) -> None:
    for suffix in (".gif", ".webp", ".png", ".jpg", ".tif"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(counter(1)).save(path)
        source = read_path(str(path))
        assert isinstance(source, Source)
        assert open_animation(source, print) is None


def test_pages_of_a_tiff_are_no_clip(tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(counter(1)).save(path, save_all=True, append_images=[Image.fromarray(counter(2))])
    (attachment,) = Attacher(None, notes.append, lambda *_: None).attach_all([str(path)])
    pictures = [part for part in attachment.parts if not isinstance(part, TextPart)]
    assert [type(picture) for picture in pictures] == [ImagePart, ImagePart]
    assert notes == []


def test_the_picture_for_those_that_know_no_apng_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pictures = [Image.fromarray(counter(number)) for number in (9, 1, 2)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, default_image=True)
    clip = opened(path)
    assert [number_of(frame) for frame in clip.frames([0.0, 0.1], (48, 80))] == [1, 2]


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pictures = [Image.new("RGBA", (40, 40), (255, 0, 0, alpha)) for alpha in (255, 0)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=100, lossless=True
    )
    red, white = opened(tmp_path / "a.webp").frames([0.0, 0.1], (40, 40))
    assert (red[5, 5].tolist(), white[5, 5].tolist()) == ([255, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("part", [0.55, 0.6, 0.65, 0.7])
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_an_animation_that_is_cut_off_is_used_as_far_as_it_goes(
    suffix: str, part: float, tmp_path: Path, notes: list[str]
) -> None:
    path = animated(tmp_path / f"a{suffix}", [counter(n) for n in range(12)], [100] * 12)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    clip = opened(path, notes)
    assert 3 < clip.num_frames < 12
    assert notes == [f"{path}: is damaged or cut off: {clip.num_frames} frames are there"]
    times = [number / 10 for number in range(4)]
    assert [number_of(frame) for frame in clip.frames(times, (48, 80))] == [0, 1, 2, 3]


def test_numbered_files_are_a_clip_where_a_pattern_names_them(tmp_path: Path, notes: list[str]) -> None:
    for number in (8, 9, 10, 11):
        Image.fromarray(counter(number)).save(tmp_path / f"f{number:03}.png")
    Image.fromarray(counter(99)).save(tmp_path / "f12.png")  # too short a number
    (tmp_path / "f013.txt").write_text("no frame")
    spec = f"{tmp_path}/f%03d.png"
    assert is_numbered(spec)
    clip, size_bytes = open_numbered(spec, notes.append)
    assert (clip.num_frames, clip.fps, clip.duration) == (4, 2.0, 2.0)
    assert size_bytes == sum((tmp_path / f"f{number:03}.png").stat().st_size for number in (8, 9, 10, 11))
    assert [number_of(frame) for frame in clip.frames([0, 0.5, 1, 1.5], (48, 80))] == [8, 9, 10, 11]
    assert notes == [f"{spec}: 4 pictures, taken as a clip of 2 frames a second"]
    attached = Attacher(None, notes.append, lambda *_: None, sampling=Sampling(fps=1)).attach_all([spec])
    assert [(item.type, item.source) for item in attached] == [("video", spec)]
    (part,) = attached[0].parts
    assert isinstance(part, VideoPart)
    assert part.sampling == Sampling(fps=1)


def test_a_numbered_file_that_is_damaged_is_replaced(tmp_path: Path, notes: list[str]) -> None:
    for number in range(3):
        Image.fromarray(counter(number)).save(tmp_path / f"{number}.png")
    path = tmp_path / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    clip, _ = open_numbered(f"{tmp_path}/%d.png", notes.append)
    assert [number_of(frame) for frame in clip.frames([0, 0.5, 1], (48, 80))] == [0, 0, 2]
    assert clip.notes() == (
        f"{tmp_path}/%d.png: 1 frame cannot be decoded; the last good one stands in place",
    )


def test_numbered_files_begin_with_a_damaged_one(tmp_path: Path, notes: list[str]) -> None:
    for number in (1, 2):
        Image.fromarray(counter(number)).save(tmp_path / f"{number}.png")
    path = tmp_path / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "2.png").rename(tmp_path / "2.PNG")
    (tmp_path / "01.png").write_text("%d is not how this one is written")
    clip, _ = open_numbered(f"{tmp_path}/%d.png", notes.append)
    assert (clip.num_frames, clip.height, clip.width) == (2, HEIGHT, WIDTH)
    assert [number_of(frame) for frame in clip.frames([0, 0.5], (48, 80))] == [2, 2]
    path.unlink()
    open_numbered(f"{tmp_path}/%d.png", notes.append)
    assert notes[-1] == f"{tmp_path}/%d.png: 1 picture, taken as a clip of 2 frames a second"


def test_gaps_and_other_sizes_of_numbered_files_are_told(tmp_path: Path, notes: list[str]) -> None:
    for number in (10, 20, 30, 50, 80):
        Image.fromarray(counter(number)).save(tmp_path / f"{number}.png")
    spec = f"{tmp_path}/%d.png"
    open_numbered(spec, notes.append)
    assert notes[1:] == [
        f"{spec}: 3 numbers are missing, the first after 30; the clip goes on as if nothing were missing"
    ]
    Image.new("RGB", (20, 10)).save(tmp_path / "20.png")
    turned = Image.new("RGB", (HEIGHT, WIDTH))  # on its side, and the first's size when upright
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "30.png", exif=exif)
    open_numbered(spec, notes.append)
    assert (
        notes[-1] == f"{spec}: 1 picture is of another size, and stretched to {WIDTH}x{HEIGHT} as the first"
    )


def test_no_picture_is_decoded_to_compare_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be ten thousand of them."""
    for number in range(5):
        Image.fromarray(counter(number)).save(tmp_path / f"{number}.png")
    loads: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: (loads.append(image), load(image))[1])
    open_numbered(f"{tmp_path}/%d.png", print)
    assert len({*map(id, loads)}) == 1  # the first, for its size


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations_are_turned_as_their_exif_data_says(suffix: str, tmp_path: Path) -> None:
    upright = [counter(number) for number in (1, 2)]
    stored = [Image.fromarray(np.rot90(pixels)) for pixels in upright]  # orientation 6: turn it by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{suffix}"
    stored[0].save(path, save_all=True, append_images=stored[1:], duration=500, exif=exif, lossless=True)
    clip = opened(path)
    assert (clip.height, clip.width) == (HEIGHT, WIDTH)
    for shown, expected in zip(clip.frames([0, 0.5], (HEIGHT, WIDTH)), upright, strict=True):
        np.testing.assert_array_equal(shown, expected)


def test_names_that_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "100%d.txt").write_text("a file of that name")
    for spec in (f"{tmp_path}/100%d.txt", f"{tmp_path}/%04d.png", "50% done", "a\0%d", "%d" * 9000):
        assert not is_numbered(spec)


def test_numbered_files_that_are_no_pictures_are_refused(tmp_path: Path, notes: list[str]) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_text("text")
    with pytest.raises(InputError, match=r"0\.png: is text where a picture is meant"):
        open_numbered(f"{tmp_path}/%d.png", notes.append)


def test_bytes_need_no_file() -> None:
    buffer = io.BytesIO()
    pictures = [Image.fromarray(counter(number)) for number in range(3)]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    from qwencli.media.source import collect

    source = collect("stdin", [buffer.getvalue()])
    assert isinstance(source, Source)
    clip = open_animation(source, print)
    assert clip is not None
    assert clip.num_frames == 3
