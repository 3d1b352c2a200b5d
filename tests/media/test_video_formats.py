"""Clips that the program ffmpeg has written, in the formats and with the oddities of the world."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from qwen35.errors import InputError
from tests.media.clips import (
    COLOURS,
    FPS,
    HEIGHT,
    WIDTH,
    all_times,
    colours_of,
    counter,
    ffmpeg,
    needs_ffmpeg,
    number_of,
    numbers,
    opened,
    shown_by_ffmpeg,
)

pytestmark = needs_ffmpeg

_FRAMES = 40
FORMATS = {
    "h264.mp4": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
    "h264_open_gop.mkv": "-c:v libx264 -pix_fmt yuv420p -x264-params open-gop=1:keyint=12:bframes=3",
    "h264_10_bit.mp4": "-c:v libx264 -pix_fmt yuv420p10le -bf 2 -g 12",
    "h264_moov_first.mov": "-c:v libx264 -pix_fmt yuv420p -movflags faststart -g 12",
    "h264.ts": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
    "h264.avi": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
    "h264.flv": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
    "h264_fragments.mp4": "-c:v libx264 -pix_fmt yuv420p -g 12 -movflags frag_keyframe+empty_moov",
    "hevc.mp4": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:keyint=12:bframes=3",
    "hevc_10_bit.mkv": "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none:keyint=12",
    "vp8.webm": "-c:v libvpx -b:v 1M -auto-alt-ref 1 -lag-in-frames 16 -g 12 -deadline good -cpu-used 4",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 1M -auto-alt-ref 1 -lag-in-frames 16 -g 12 -cpu-used 6",
    "av1.mp4": "-c:v libsvtav1 -preset 10 -g 12 -pix_fmt yuv420p",
    "mpeg2.mpg": "-c:v mpeg2video -b:v 4M -bf 2 -g 12",
    "mpeg4.avi": "-c:v mpeg4 -qscale 3 -g 12",
    "mjpeg.avi": "-c:v mjpeg -qscale 3 -pix_fmt yuvj420p",
    "prores.mov": "-c:v prores_ks -pix_fmt yuv422p10le",
    "lossless_rgb.mkv": "-c:v libx264rgb -qp 0 -g 12",
    "wmv2.wmv": "-c:v wmv2 -b:v 2M -g 12",
    "theora.ogv": "-c:v libtheora -qscale 8 -g 12",
    "raw.h264": "-c:v libx264 -pix_fmt yuv420p -bf 3 -g 12",
}


@pytest.fixture(params=FORMATS)
def clip_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    ffmpeg(*FORMATS[request.param].split(), path, frames=map(counter, range(_FRAMES)))
    return path


def test_every_format_shows_its_frames_and_colours(clip_file: Path) -> None:
    clip = opened(clip_file)
    assert (clip.height, clip.width) == (HEIGHT, WIDTH)
    dense = list(clip.frames(all_times(clip), (HEIGHT, WIDTH)))
    assert [number_of(frame) for frame in dense] == list(range(_FRAMES))
    assert clip.notes() == ()
    np.testing.assert_allclose(colours_of(dense[-1]), COLOURS, atol=10)
    for places in ([0, 39], [11, 12, 35], [30]):
        sparse = clip.frames([place / clip.fps for place in places], (HEIGHT, WIDTH))
        for place, frame in zip(places, sparse, strict=True):
            np.testing.assert_array_equal(frame, dense[place])


@pytest.mark.parametrize("name", ["h264.mp4", "hevc_10_bit.mkv", "vp9.webm", "prores.mov"])
def test_pixels_are_those_that_ffmpeg_shows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg(*FORMATS[name].split(), path, frames=map(counter, range(12)))
    expected = shown_by_ffmpeg(path, (HEIGHT, WIDTH))
    clip = opened(path)
    found = np.stack(list(clip.frames(all_times(clip), (HEIGHT, WIDTH))))
    error = np.abs(found.astype(int) - expected)
    # Between versions of FFmpeg, 10 bits and their chroma are not rounded alike.
    assert error.mean() < 1.5
    assert np.quantile(error, 0.95) <= 4


@pytest.mark.parametrize(
    "words",
    [
        "-vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709",
        "-vf scale=out_color_matrix=smpte170m -colorspace smpte170m",
        "-vf scale=out_range=pc:out_color_matrix=bt709 -color_range pc -colorspace bt709",
        "-vf scale=out_color_matrix=bt2020 -colorspace bt2020nc",
    ],
)
def test_the_colour_matrix_and_range_are_those_of_the_file(words: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    ffmpeg(*words.split(), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-qp", 10, path, frames=[counter(5)])
    (frame,) = opened(path).frames([0.0], (HEIGHT, WIDTH))
    np.testing.assert_allclose(colours_of(frame), COLOURS, atol=6)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotated_clip_stands_upright(angle: int, tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.mp4", tmp_path / "clip.mp4"
    ffmpeg("-c:v", "libx264", "-pix_fmt", "yuv420p", plain, frames=map(counter, range(3)))
    ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v", f"rotate={angle}", path)
    clip = opened(path)
    size = (HEIGHT, WIDTH) if angle == 180 else (WIDTH, HEIGHT)
    assert (clip.height, clip.width) == size
    expected = shown_by_ffmpeg(path, size)
    found = np.stack(list(clip.frames(all_times(clip), size)))
    assert np.abs(found.astype(int) - expected).mean() < 2
    half = (size[0] // 2, size[1] // 2)
    (small,) = clip.frames([0.0], half)
    assert small.shape == (*half, 3)


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    words = ["-vf", "setsar=2/1", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    ffmpeg(*words, path, frames=[counter(3)])
    clip = opened(path)
    assert (clip.height, clip.width) == (HEIGHT, 2 * WIDTH)


def test_a_variable_rate_is_read_off_the_time_stamps(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    words = [
        "-vf",
        "setpts='if(lt(N,10),N,10+(N-10)*5)/25/TB'",
        "-vsync",
        "vfr",
        "-video_track_timescale",
        12800,
    ]
    ffmpeg(*words, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", 2, path, frames=map(counter, range(20)))
    clip = opened(path)
    assert clip.num_frames == 20
    starts = [number / 25 if number < 10 else (10 + (number - 10) * 5) / 25 for number in range(20)]
    np.testing.assert_allclose(clip.index.timeline.starts, starts, atol=1e-6)
    assert numbers(clip, [start + 0.03 for start in starts]) == list(range(20))
    assert numbers(clip, [0.55, 0.65, 1.75]) == [10, 11, 16]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.mp4", ["-ss", "0.7"]),  # within a group of frames: an edit list hides those before
        ("late.mp4", ["-output_ts_offset", "3"]),
        ("late.mkv", ["-output_ts_offset", "3"]),
        ("late.ts", ["-output_ts_offset", "100"]),
        ("early.mp4", ["-output_ts_offset", "-1", "-avoid_negative_ts", "disabled"]),
    ],
)
def test_the_beginning_is_the_first_frame_that_is_shown(name: str, words: list[str], tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.mp4", tmp_path / name
    ffmpeg(
        "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", 2, "-g", 50, plain, frames=map(counter, range(60))
    )
    cut, offset = (words, []) if words[0] == "-ss" else ([], words)
    ffmpeg(*cut, "-i", plain, "-c", "copy", *offset, path)
    expected = [number_of(frame) for frame in shown_by_ffmpeg(path, (HEIGHT, WIDTH))]
    clip = opened(path)
    assert clip.index.timeline.starts[0] == 0
    assert numbers(clip, all_times(clip), (HEIGHT, WIDTH)) == expected
    assert numbers(clip, [0.0, clip.duration]) == [expected[0], expected[-1]]


def test_sound_beside_the_frames_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    sound = ["-f", "lavfi", "-i", "sine=d=3", "-map", 0, "-map", 1, "-c:a", "aac"]
    ffmpeg(*sound, "-c:v", "libx264", "-pix_fmt", "yuv420p", path, frames=map(counter, range(30)))
    clip = opened(path)
    assert (clip.num_frames, clip.duration) == (30, pytest.approx(1.2, abs=0.01))
    assert numbers(clip, all_times(clip)) == list(range(30))


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    cover, path = tmp_path / "cover.png", tmp_path / "song.mp4"
    ffmpeg("-frames:v", 1, cover, frames=[counter(1)])
    words = ["-f", "lavfi", "-i", "sine=d=1", "-i", cover, "-map", 0, "-map", 1]
    ffmpeg(*words, "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", path)
    with pytest.raises(InputError, match="no video stream"):
        opened(path)


@pytest.mark.parametrize("size", [(97, 161), (33, 1001), (1080, 1920)])
def test_odd_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    frames = [counter(number, *size) for number in range(4)]
    ffmpeg("-c:v", "libx264", "-pix_fmt", "yuv444p", path, frames=frames, size=size)
    clip = opened(path)
    assert (clip.height, clip.width) == size
    assert numbers(clip, all_times(clip), size) == list(range(4))


@pytest.mark.parametrize(
    "name", ["h264.ts", "vp9.webm", "h264.avi", "h264_fragments.mp4", "h264_moov_first.mov"]
)
def test_what_is_there_of_a_file_that_is_cut_off_is_used(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0)
    frames = [
        np.clip(counter(number) + noise.integers(-12, 12, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
        for number in range(_FRAMES)  # so that a frame takes more room than the file's head
    ]
    ffmpeg(*FORMATS[name].split(), path, frames=frames)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    clip = opened(path)
    assert 10 < clip.num_frames < _FRAMES
    found = numbers(clip, clip.index.timeline.starts[:10].tolist())
    assert found == list(range(10))


@pytest.mark.parametrize("name", ["clip.ts", "clip.mpg"])
def test_files_that_were_put_one_behind_the_other_are_shown_so(name: str, tmp_path: Path) -> None:
    codec = "libx264" if name == "clip.ts" else "mpeg2video"
    joined = b""
    for first in (0, 100):
        words = ["-c:v", codec, "-pix_fmt", "yuv420p", "-b:v", "4M", "-g", 12]
        ffmpeg(*words, tmp_path / name, frames=map(counter, range(first, first + 40)))
        joined += (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(joined)
    clip = opened(tmp_path / name)
    assert (clip.num_frames, clip.duration) == (80, pytest.approx(80 / 25))
    assert numbers(clip, all_times(clip)) == [*range(40), *range(100, 140)]
    assert numbers(clip, [0.4, 2.4]) == [10, 120]
    assert clip.notes() == ()


@pytest.mark.parametrize("name", ["clip.mpg", "clip.vob"])
def test_distant_frames_of_a_program_stream_are_those_of_a_dense_reading(name: str, tmp_path: Path) -> None:
    words = [
        "-f",
        "lavfi",
        "-i",
        "anoisesrc",
        "-t",
        8,
        "-c:v",
        "mpeg2video",
        "-b:v",
        "2M",
        "-bf",
        2,
        "-g",
        15,
    ]
    ffmpeg(*words, "-c:a", "mp2", tmp_path / name, frames=map(counter, range(200)))
    clip = opened(tmp_path / name)
    places = [*range(3, 200, 27)]
    assert numbers(clip, [place / clip.fps for place in places]) == places
    assert clip.notes() == ()


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 4), (200, 0, 0, 255), np.uint8)
    pixels[:, WIDTH // 2 :, 3] = 0
    shape = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{WIDTH}x{HEIGHT}", "-r", FPS, "-i", "-"]
    command = ["ffmpeg", "-v", "error", *shape, "-c:v", "png", tmp_path / "clip.mov"]
    subprocess.run([*map(str, command)], input=pixels.tobytes() * 4, check=True, timeout=60)
    (frame,) = opened(tmp_path / "clip.mov").frames([0.0], (HEIGHT, WIDTH))
    assert frame[:, : WIDTH // 2].reshape(-1, 3).tolist() == [[200, 0, 0]] * (HEIGHT * WIDTH // 2)
    assert (frame[:, WIDTH // 2 :] == 255).all()
