"""Our frames and patches of clips beside those of the official video processor, computed once.

Which frames are shown, how large, and their patches are equal. Where frames are resized, the filters of
Pillow and torchvision round differently: the clip here is lines of one pixel, the worst there is.
"""

import numpy as np
import pytest

from benchmarks.synthetic import SIZES, config_json
from qwen35.config import ModelConfig
from qwen35.processing.video import DEFAULTS, VideoProcessor
from tests.golden.make_torchvision_golden import CLIP_SETTINGS, CLIPS, GOLDEN_CLIPS, clips
from tests.model.clips import ArrayClip

# The largest and the mean difference, of 255 levels.
BOUNDS = {"smooth, as it is": (0, 0), "sharp, reduced": (2, 0.01)}


@pytest.mark.parametrize("name", CLIPS)
def test_frames_lie_near_those_of_the_torchvision_backend(name: str) -> None:
    vision = ModelConfig.from_dict(config_json(SIZES["0.8b"]), "config.json").vision
    assert vision is not None
    with np.load(GOLDEN_CLIPS) as golden:
        theirs, grid, indices = (golden[f"{name}: {key}"] for key in ("levels", "grid", "indices"))
    clip = ArrayClip(clips()[name], CLIPS[name][1])
    processor = VideoProcessor({**DEFAULTS, **CLIP_SETTINGS}, vision, "settings")
    plan = processor.plan(clip)
    ours = np.concatenate(list(processor.patches(clip, plan)))
    assert clip.shown == indices.tolist()
    assert [plan.num_pairs, *processor.grid(plan)[1:]] == grid.tolist()
    differences = np.abs((ours * 0.5 + 0.5).reshape(-1, 3, 2, 16, 16) * 255 - theirs)
    largest, mean = BOUNDS[name]
    assert differences.max() <= largest + 1e-3
    assert differences.mean() <= mean + 1e-3
