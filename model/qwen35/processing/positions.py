"""Rotary positions of a prompt: text walks one line, a picture spreads over height and width.

See interleaved mrope in `network/rope.py`, which turns these into angles.
"""

from collections.abc import Sequence

import numpy as np

from qwen35.config import ModelConfig


def mrope_positions(
    ids: np.ndarray, config: ModelConfig, grids: Sequence[tuple[int, int, int]]
) -> tuple[np.ndarray, int]:
    """Positions (3, T) int64 of `ids` (T,) on the axes time, height, width, and their mrope delta.

    `grids` are the (time, height, width) in patches of the pictures and clips, in prompt order. A
    clip of several frames lies in the prompt as that many separate blocks: time is told by the text
    between them, not by the positions. Token n after the prompt has the position n + delta on all axes.
    """
    positions = np.empty((3, len(ids)), np.int64)
    if config.vision is None:
        positions[:] = np.arange(len(ids))
        return positions, 0
    assert config.image_token_id is not None
    assert config.video_token_id is not None
    merge = config.vision.spatial_merge_size
    frames = [(h // merge, w // merge) for t, h, w in grids for _ in range(t)]
    is_media = np.isin(ids, (config.image_token_id, config.video_token_id))
    assert is_media.sum() == sum(h * w for h, w in frames), "placeholders and grids disagree"

    token, position = 0, 0  # next to be placed; its position where it is text
    media_indices = np.flatnonzero(is_media)
    num_seen = 0
    for height, width in frames:
        start = int(media_indices[num_seen])
        num_seen += height * width
        positions[:, token:start] = np.arange(position, position + start - token)
        position += start - token
        token = start + height * width
        assert is_media[start:token].all(), "a block of placeholders is interrupted"
        rows, columns = np.divmod(np.arange(height * width), width)
        positions[:, start:token] = position + np.stack([np.zeros_like(rows), rows, columns])
        position += max(height, width)
    positions[:, token:] = np.arange(position, position + len(ids) - token)
    return positions, position - token
