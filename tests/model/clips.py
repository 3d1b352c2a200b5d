"""Clips made of arrays, which count what they are asked for."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from qwen35.processing.resize import resize_frame


class ArrayClip:
    """A `messages.Clip` of `pixels` (F, height, width, 3) uint8 at a constant rate, resized as all are."""

    starts: np.ndarray | None = None

    def __init__(self, pixels: np.ndarray, fps: float = 25.0, source: str = "clip.mp4") -> None:
        self.pixels, self.fps, self.source = pixels, fps, source
        self.sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
        self.num_frames, self.height, self.width = pixels.shape[:3]
        self.duration = self.num_frames / fps
        self.calls = 0  # of `frames`
        self.shown: list[int] = []  # the frames that were taken, in order

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        assert list(times) == sorted(times)
        self.calls += 1
        return self._read(times, size)

    def _read(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        for time in times:
            index = min(int(time * self.fps + 0.1), self.num_frames - 1)
            self.shown.append(index)
            yield resize_frame(self.pixels[index], size)

    def notes(self) -> tuple[str, ...]:
        return ()


class LongClip(ArrayClip):
    """One that could not be held: each frame is drawn when it is asked for. Frame n is n's colour."""

    def __init__(self, num_frames: int, height: int, width: int, fps: float = 25.0) -> None:
        super().__init__(np.zeros((1, height, width, 3), np.uint8), fps)
        self.num_frames, self.duration = num_frames, num_frames / fps
        self.sha256 = f"long {height}x{width}"

    def _read(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        for time in times:
            index = min(int(time * self.fps + 0.1), self.num_frames - 1)
            self.shown.append(index)
            yield np.broadcast_to(np.array([index % 256, index // 256 % 256, 7], np.uint8), (*size, 3)).copy()


def clip(
    num_frames: int = 12,
    height: int = 64,
    width: int = 96,
    *,
    fps: float = 25.0,
    seed: int = 0,
    source: str = "clip.mp4",
) -> ArrayClip:
    """One whose frames all differ."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (num_frames, 5, 7, 3), dtype=np.uint8)
    return ArrayClip(np.stack([resize_frame(frame, (height, width)) for frame in coarse]), fps, source)
