"""Clips whose frames tell their own number, made by PyAV, or by the program ffmpeg in many formats."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwencli.media.source import FileSource, read_path
from qwencli.media.video import VideoClip, open_clip

HEIGHT, WIDTH = 96, 160
FPS = 25
BITS = 8
COLOURS = ((200, 40, 40), (40, 180, 60), (50, 60, 200), (220, 200, 40), (128, 128, 128))

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not here")


def counter(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame (height, width, 3): `number` in blocks of black and white above, COLOURS below."""
    frame = np.empty((height, width, 3), np.uint8)
    middle = height // 2
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[:middle, left:right] = 235 if number >> bit & 1 else 20
    for place, colour in enumerate(COLOURS):
        left, right = place * width // len(COLOURS), (place + 1) * width // len(COLOURS)
        frame[middle:, left:right] = colour
    return frame


def number_of(frame: np.ndarray) -> int:
    """What `counter` wrote into a frame, whatever became of its size since."""
    height, width = frame.shape[:2]
    row = frame[height // 8 : height * 3 // 8].mean(axis=(0, 2))
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(row[middle - 1 : middle + 2].mean() > 128) << bit for bit, middle in enumerate(middles))


def colours_of(frame: np.ndarray) -> np.ndarray:
    """(colours, 3): the middle of each of the lower patches."""
    height, width = frame.shape[:2]
    row = frame[height * 11 // 16 : height * 13 // 16].mean(axis=0)
    middles = [(2 * place + 1) * width // (2 * len(COLOURS)) for place in range(len(COLOURS))]
    return np.array([row[middle - 1 : middle + 2].mean(axis=0) for middle in middles])


def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    fps: int = FPS,
    stamps: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """By PyAV, which is always here. `stamps`: when each frame is shown, counted in frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = stamps[number] if stamps is not None else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ffmpeg(
    *words: object, frames: Iterable[np.ndarray] = (), size: tuple[int, int] = (HEIGHT, WIDTH)
) -> None:
    """Run ffmpeg; with `frames`, raw pictures of that (height, width), as its first input."""
    raw = b"".join(frame.tobytes() for frame in frames)
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "2"]
    if raw:
        shape = f"{size[1]}x{size[0]}"
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", str(FPS), "-i", "-"]
    subprocess.run([*command, *map(str, words)], input=raw, check=True, timeout=120)


def shown_by_ffmpeg(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(F, height, width, 3): the frames as that program shows them."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vsync", "passthrough", "-pix_fmt", "rgb24"]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True, timeout=120)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *size, 3)


def opened(path: Path, notes: list[str] | None = None) -> VideoClip:
    source = read_path(str(path))
    assert isinstance(source, FileSource)
    return open_clip(source, (notes if notes is not None else []).append)


def numbers(clip: VideoClip, times: Sequence[float], size: tuple[int, int] = (48, 80)) -> list[int]:
    return [number_of(frame) for frame in clip.frames(times, size)]


def all_times(clip: VideoClip) -> list[float]:
    return [number / clip.fps for number in range(clip.num_frames)]
