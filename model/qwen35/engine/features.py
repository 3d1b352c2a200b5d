"""What the vision encoder makes of a prompt's pictures and clips, each when its turn comes."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from qwen35.backends.base import Backend
from qwen35.cache.prompt import PromptCache
from qwen35.events import PictureProgress
from qwen35.processing.processor import MediaSpan, ModelInput

# Pairs of frames are encoded together up to this many patches: enough for the encoder to be busy, and
# little beside the memory of a model.
PATCHES_AT_ONCE = 4096


class Features:
    """For one pass through a prompt from token `start` on. Mutable.

    A clip's frames are decoded, cut, encoded and forgotten as the pass comes to them: what is held at a
    time does not grow with the clip.
    """

    def __init__(self, backend: Backend, prompt: ModelInput, start: int, saved: PromptCache | None) -> None:
        """What lies before `start` a saved state has seen; `saved` may know features of what follows."""
        self.seconds = 0.0  # of decoding and encoding
        self.done = 0  # image and video tokens
        self._backend, self._prompt, self._saved = backend, prompt, saved
        self._waiting = deque(index for index, span in enumerate(prompt.media) if span.start >= start)
        self._total = sum(prompt.media[index].length for index in self._waiting)
        self._ready: deque[tuple[MediaSpan, np.ndarray]] = deque()
        self._clip: object = None  # that is being decoded, and its pairs from `_next_pair` on
        self._next_pair = 0
        self._pairs: Iterator[np.ndarray] = iter(())
        counts = [0 if span.clip else _num_patches(span) for span in prompt.media]
        self._first_patches = [0, *accumulate(counts)]

    @property
    def is_under_way(self) -> bool:
        """Whether some of the pictures and clips are through, and others to come."""
        return 0 < self.done < self._total

    def make(self, end: int) -> Iterator[PictureProgress]:
        """Make ready all that the tokens before `end` need, step by step."""
        while self._waiting and self._prompt.media[self._waiting[0]].start < end:
            start = time.perf_counter()
            self._make_next()
            self.seconds += time.perf_counter() - start
            yield PictureProgress(self.done, self._total)

    def take(self, start: int, end: int) -> np.ndarray | None:
        """Rows (M', D) for the placeholders among tokens [start, end); what lies before `end` is dropped."""
        rows = []
        for span, features in self._ready:
            low, high = max(start, span.start), min(end, span.end)
            if low < high:
                rows.append(features[low - span.start : high - span.start])
        while self._ready and self._ready[0][0].end <= end:
            self._ready.popleft()
        return np.concatenate(rows) if rows else None

    def _make_next(self) -> None:
        """Those of a picture, or of several pairs of a clip."""
        first = self._waiting.popleft()
        known = self._saved.features(first) if self._saved else None
        if known is not None:
            self._add(first, known)
            return
        batch = [first]
        span = self._prompt.media[first]
        while (
            span.clip
            and self._waiting
            and self._prompt.media[self._waiting[0]].clip is span.clip
            and (len(batch) + 1) * _num_patches(span) <= PATCHES_AT_ONCE
        ):
            batch.append(self._waiting.popleft())
        made = self._backend.encode_pictures(self._patches_of(batch), [span.grid] * len(batch))
        for number, index in enumerate(batch):
            features = made[number * span.length : (number + 1) * span.length]
            if self._saved:
                self._saved.keep_features(index, features)
            self._add(index, features)

    def _add(self, index: int, features: np.ndarray) -> None:
        span = self._prompt.media[index]
        self._ready.append((span, features))
        self.done += span.length

    def _patches_of(self, batch: Sequence[int]) -> np.ndarray:
        """Patches (P, values), one after the other."""
        first = self._patches(batch[0])
        if len(batch) == 1:
            return first
        patches = np.empty((len(batch), *first.shape), first.dtype)
        patches[0] = first
        for number, index in enumerate(batch[1:], 1):
            patches[number] = self._patches(index)
        return patches.reshape(-1, first.shape[1])

    def _patches(self, index: int) -> np.ndarray:
        """Of a picture, or of a pair; where pairs follow each other, decoding goes on where it was."""
        span = self._prompt.media[index]
        if span.clip is None:
            assert self._prompt.pixel_values is not None
            first = self._first_patches[index]
            return self._prompt.pixel_values[first : first + _num_patches(span)]
        if self._clip is not span.clip or self._next_pair != span.pair:
            self._clip, self._pairs = span.clip, span.clip.patches(span.pair)
        self._next_pair = span.pair + 1
        return next(self._pairs)


def _num_patches(span: MediaSpan) -> int:
    return span.grid[0] * span.grid[1] * span.grid[2]
