"""Keys of prompt prefixes: what a saved state is the state of.

Key(n) is a SHA-256 over the model, its numerics, and the first n ids, a picture's placeholders replaced by
the hash of the very patches that the encoder gets, those of a pair of a clip's frames by the hash of what
the patches are made from: the clip's bytes, the times, the size. So a state that is found is the right one,
whatever was asked before; where states were saved decides only how much is found.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qwen35.processing.processor import ModelInput

FORMAT = b"qwen-state-1"


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or a pair of frames among the ids: its placeholders are ids[start : end], `key` is what it
    shows (32 bytes)."""

    start: int
    end: int
    key: bytes


def media_of(prompt: ModelInput) -> tuple[Medium, ...]:
    """The prompt's pictures and pairs.

    The key of a picture covers the grid, and the patches as they are after all processing; that of a pair
    needs no frame to be decoded.
    """
    media, begin = [], 0
    for span in prompt.media:
        if span.clip:
            media.append(Medium(span.start, span.end, span.clip.pair_key(span.pair)))
            continue
        assert prompt.pixel_values is not None
        end = begin + span.grid[0] * span.grid[1] * span.grid[2]
        digest = hashlib.sha256(np.array(span.grid, "<i4").tobytes())
        digest.update(np.ascontiguousarray(prompt.pixel_values[begin:end]).data)
        media.append(Medium(span.start, span.end, digest.digest()))
        begin = end
    return tuple(media)


def prefix_keys(
    model: str, ids: np.ndarray, media: Sequence[Medium], lengths: Iterable[int]
) -> dict[int, str]:
    """Keys of the prefixes of `ids` (T,) of these lengths; one within a picture, or too long, has none.

    `model` names weights and numerics.
    """
    digest = hashlib.sha256(FORMAT + b"\0" + model.encode() + b"\0")
    ids = ids.astype("<i4")
    done, left, keys = 0, list(media), {}
    for length in sorted({n for n in lengths if 0 < n <= len(ids)}):
        while left and left[0].end <= length:
            medium = left.pop(0)
            digest.update(ids[done : medium.start].tobytes())
            mark = np.array([-1, medium.end - medium.start], "<i4")  # no id is negative
            digest.update(mark.tobytes() + medium.key)
            done = medium.end
        if left and left[0].start < length:
            continue
        digest.update(ids[done:length].tobytes())
        done = length
        keys[length] = digest.copy().hexdigest()
    return keys
