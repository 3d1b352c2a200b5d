"""Plans and patches of clips: the official processor's where nothing is asked for, and what may be asked for.

Its torchvision backend resizes, and is no part of this: `tests/golden` has its pixels. Everything
else of it is run here.
"""

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize

from benchmarks.synthetic import SIZES, config_json
from qwen35.config import ModelConfig, VisionConfig
from qwen35.errors import CheckpointError, InputError
from qwen35.messages import Sampling
from qwen35.processing.processor import Processor
from qwen35.processing.video import DEFAULTS, VideoProcessor, clip_size
from tests.model.cache.saved import MINI
from tests.model.clips import ArrayClip, LongClip, clip
from tests.model.reference import PATCH_VALUES

MEAN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
PATCH = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}


@pytest.fixture(scope="module")
def vision() -> VisionConfig:
    found = ModelConfig.from_dict(config_json(SIZES["0.8b"]), "config.json").vision
    assert found is not None
    return found


@pytest.fixture(scope="module")
def processor(vision: VisionConfig) -> VideoProcessor:
    return VideoProcessor({**DEFAULTS, **PATCH, **MEAN}, vision, "settings")


def processor_with(vision: VisionConfig, **settings: object) -> VideoProcessor:
    return VideoProcessor({**DEFAULTS, **PATCH, **MEAN, **settings}, vision, "settings")


def official_indices(num_frames: int, fps: float, wanted: int | None = None) -> list[int]:
    settings = SimpleNamespace(fps=2, min_frames=4, max_frames=768)
    about = SimpleNamespace(total_num_frames=num_frames, fps=fps)
    found = Qwen3VLVideoProcessor.sample_frames(settings, about, num_frames=wanted)
    return [int(index) for index in found]


@pytest.mark.parametrize("fps", [1.0, 7.5, 24.0, 25.0, float(Fraction(30000, 1001)), 60.0, 240.0])
@pytest.mark.parametrize("num_frames", [2, 3, 5, 49, 50, 51, 1000, 12_345, 100_000])
def test_without_wishes_the_frames_are_the_official_ones(
    processor: VideoProcessor, num_frames: int, fps: float
) -> None:
    indices = official_indices(num_frames, fps)
    plan = processor.plan(LongClip(num_frames, 64, 64, fps))
    assert plan.times == tuple(index / fps for index in indices)
    stamps = Qwen3VLProcessor._calculate_timestamps(None, indices, fps)
    assert [plan.timestamp(pair) for pair in range(plan.num_pairs)] == [f"<{t:.1f} seconds>" for t in stamps]


@pytest.mark.parametrize("wanted", [1, 2, 5, 16, 300])
def test_a_number_of_frames_is_spread_as_the_official_processor_does(
    processor: VideoProcessor, wanted: int
) -> None:
    plan = processor.plan(LongClip(301, 64, 64, 25.0), Sampling(num_frames=wanted))
    assert plan.times == tuple(index / 25.0 for index in official_indices(301, 25.0, wanted))


def test_a_clip_of_few_frames_shows_each_once(processor: VideoProcessor) -> None:
    assert processor.plan(clip(3), Sampling(num_frames=100)).times == (0, 1 / 25, 2 / 25)
    assert processor.plan(clip(1)).times == (0,)


SHAPES = [(1080, 1920), (720, 1280), (64, 96), (33, 47), (17, 400), (8, 8), (1, 150), (2000, 31)]


@pytest.mark.parametrize("max_pixels", [25_165_824, 200_000, 5000])
@pytest.mark.parametrize("num_frames", [2, 3, 4, 5, 7, 100, 768])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_frames_get_the_official_size(num_frames: int, height: int, width: int, max_pixels: int) -> None:
    expected = smart_resize(num_frames, height, width, 2, 32, 4096, max_pixels)
    assert clip_size(num_frames, height, width, 32, 4096, max_pixels) == expected


def test_sizes_are_those_of_the_reference_document(processor: VideoProcessor) -> None:
    for num_frames, (height, width), expected in (
        (4, (1080, 1920), (1088, 1920)),
        (768, (1080, 1920), (128, 224)),
        (100, (720, 1280), (352, 640)),
    ):
        assert clip_size(num_frames, height, width, 32, 4096, 25_165_824) == expected


def test_a_cap_for_each_frame_is_the_official_one(vision: VisionConfig) -> None:
    capped = processor_with(vision, cap_pixels_per_frame=True)
    plan = capped.plan(LongClip(50, 1080, 1920, 25.0))
    assert plan.size == (640, 1152)
    assert plan.num_tokens == 1440
    for num_frames in (1, 2, 3):  # a single frame, and an odd last one, stand twice
        short = capped.plan(LongClip(num_frames, 1080, 1920, 1.0))
        assert short.size == (640, 1152)
        assert short.num_tokens <= short.max_tokens == 768 * short.num_pairs


@pytest.mark.parametrize(("max_tokens", "least"), [(240, 8), (200, 8), (120, 8), (60, 4), (30, 2)])
def test_a_cap_leaves_the_frames_that_the_checkpoint_makes_small(max_tokens: int, least: int) -> None:
    processor = Processor.from_folder(MINI)
    assert processor.video is not None
    moves = LongClip(40, 240, 320, 10.0)
    own = processor.video.plan(moves)
    assert (len(own.times), own.num_tokens) == (8, 120)
    plan = processor.video.plan(moves, Sampling(max_tokens=max_tokens))
    assert len(plan.times) >= least
    assert plan.num_tokens <= max_tokens


@pytest.mark.parametrize("num_frames", [2, 3, 4, 7, 1])
def test_patches_are_laid_out_as_the_official_processor_does(
    processor: VideoProcessor, num_frames: int
) -> None:
    moving = clip(num_frames, 64, 96)
    plan = processor.plan(moving, Sampling(num_frames=num_frames))
    assert plan.size == (64, 96)
    pixels = torch.from_numpy(moving.pixels).permute(0, 3, 1, 2).float() / 255  # (F, C, H, W)
    mean, std = (torch.tensor(MEAN[f"image_{name}"])[:, None, None] for name in ("mean", "std"))
    expected, *grid = Qwen3VLVideoProcessor.patchify(None, ((pixels - mean) / std)[None], 16, 2, 2)
    found = list(processor.patches(moving, plan))
    assert [plan.num_pairs, *processor.grid(plan)[1:]] == grid
    np.testing.assert_allclose(np.concatenate(found), expected[0].numpy(), atol=1e-6)
    assert moving.shown == list(range(num_frames))  # an odd last frame is decoded once


def test_patches_come_one_by_one_from_any_pair_on(processor: VideoProcessor) -> None:
    moving = clip(9, 70, 90)
    plan = processor.plan(moving, Sampling(num_frames=9))
    whole = list(processor.patches(moving, plan))
    moving.shown.clear()
    late = processor.patches(moving, plan, 3)
    np.testing.assert_array_equal(next(late), whole[3])
    assert moving.shown == [6, 7]
    np.testing.assert_array_equal(next(late), whole[4])
    assert next(late, None) is None
    assert whole[0].shape == (4 * 6, PATCH_VALUES)


def test_a_fixed_grid_begins_alike_whatever_the_end_is(processor: VideoProcessor) -> None:
    long = LongClip(2500, 64, 64)
    whole = processor.plan(long, Sampling(fps=2.0, start=3.0))
    cut = processor.plan(long, Sampling(fps=2.0, start=3.0, end=10.25))
    assert cut.times == tuple(3 + place / 2 for place in range(15))
    assert whole.times[: len(cut.times)] == cut.times
    assert whole.times[-1] == 99.5
    assert len(processor.plan(long, Sampling(fps=1000.0)).times) == 2500  # none is shown twice


def test_a_range_takes_its_share_of_the_frames(processor: VideoProcessor) -> None:
    plan = processor.plan(LongClip(250, 64, 64), Sampling(start=2.0, end=6.0))
    first = [50 + index for index in official_indices(100, 25.0)]
    assert plan.times == tuple(index / 25 for index in first)
    between = processor.plan(LongClip(4, 64, 64, 0.5), Sampling(start=2.5, end=3.0))
    assert between.times == (2.5,)  # when the second frame is shown


def slides(*starts: float, duration: float) -> ArrayClip:
    """One whose frames begin then."""
    shown = clip(len(starts), 64, 64, fps=len(starts) / duration)
    shown.starts = np.array(starts)
    return shown


def test_frames_at_a_varying_rate_are_those_of_the_range_with_their_own_times(
    processor: VideoProcessor,
) -> None:
    shown = slides(0.0, 1.0, 2.0, 3.0, duration=30.0)
    assert processor.plan(shown).times == (0.0, 1.0, 2.0, 3.0)
    assert processor.plan(shown, Sampling(num_frames=2)).times == (0.0, 3.0)
    assert processor.plan(shown, Sampling(start=1.0, end=3.0)).times == (1.0, 2.0)
    assert processor.plan(shown, Sampling(start=10.0, end=12.0)).times == (10.0,)  # of the last picture
    # A picture that stands for long when the range begins is shown before those that begin in it.
    long = slides(0.0, 35.0, 36.0, duration=40.0)
    assert processor.plan(long, Sampling(start=10.0)).times == (10.0, 35.0, 36.0)


def test_a_rate_is_kept_where_frames_stand_longer(processor: VideoProcessor) -> None:
    shown = slides(0.0, 1.0, 2.0, 3.0, duration=30.0)
    assert processor.plan(shown, Sampling(fps=1.0)).times == tuple(range(30))
    assert len(processor.plan(shown, Sampling(fps=25.0)).times) == 30  # no frames come faster than these
    broken = slides(0.0, 0.04, 4.6e12, duration=4.6e12 + 1)
    assert processor.plan(broken).times == (0.0, 0.04, 4.6e12)
    with pytest.raises(InputError, match="too many frames; its time stamps may be damaged"):
        processor.plan(broken, Sampling(fps=2.0))


def test_a_cap_makes_frames_smaller_and_then_fewer(processor: VideoProcessor) -> None:
    long = LongClip(61 * 25, 480, 640)
    free = processor.plan(long, Sampling(fps=2, max_tokens=20_000))
    assert free.line == "61 s at 2 fps: 122 frames of 640x480, 61 pairs x 300 = 18,300 tokens"
    smaller = processor.plan(long, Sampling(fps=2, max_tokens=9000))
    assert smaller.line == (
        "61 s at 2 fps: 122 frames of 640x480, 61 pairs x 300 = 18,300 tokens; "
        "capped at 9,000: frames of 448x320, 61 x 140 = 8,540 tokens"
    )
    fewer = processor.plan(long, Sampling(fps=2, max_tokens=2000))
    assert fewer.line == (
        "61 s at 2 fps: 122 frames of 640x480, 61 pairs x 300 = 18,300 tokens; "
        "capped at 2,000: frames of 416x288, 0.56 fps, 34 frames, 17 x 117 = 1,989 tokens"
    )
    assert fewer.times[:2] == (0, 61 / 34)


@pytest.mark.parametrize("sampling", [{}, {"fps": 3.0}, {"num_frames": 21}], ids=str)
@pytest.mark.parametrize("size", [(480, 640), (33, 47), (90, 1500)])
@pytest.mark.parametrize("max_tokens", [150, 151, 600, 5000])
def test_a_cap_is_kept(
    processor: VideoProcessor, size: tuple[int, int], max_tokens: int, sampling: dict
) -> None:
    plan = processor.plan(LongClip(500, *size), Sampling(**sampling, max_tokens=max_tokens))
    assert 0 < plan.num_tokens <= max_tokens
    assert list(plan.times) == sorted(set(plan.times))
    assert plan.times[-1] < 20


def test_a_plan_is_told_in_json(processor: VideoProcessor) -> None:
    told = processor.plan(LongClip(50, 720, 1280), Sampling(max_tokens=600)).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["times_s"] == [0.0, 0.64, 1.32, 1.96]
    assert told["frames"] == 4
    assert told["pairs"] * told["tokens_per_pair"] == told["tokens"] <= told["max_tokens"] == 600
    assert told["size"] == [736, 384]
    assert told["original_size"] == [1280, 720]
    assert told["is_capped"] is True


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (Sampling(start=2.0), "ends after 2.0 s"),
        (Sampling(start=-1.0), "no seconds from -1"),
        (Sampling(start=1.0, end=1.0), "no seconds from 1 to 1"),
        (Sampling(end=0.0), "no seconds from 0 to 0"),
        (Sampling(fps=2.0, num_frames=4), "Choose one"),
        (Sampling(fps=0.0), "fps is 0"),
        (Sampling(num_frames=0), "num_frames is 0"),
        (Sampling(max_tokens=0), "max_tokens is 0"),
        (Sampling(max_tokens=100), "takes 117 tokens at the least, and it may have 100"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    processor: VideoProcessor, sampling: Sampling, reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        processor.plan(LongClip(50, 480, 640), sampling)
    assert str(caught.value).startswith("clip.mp4: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 64, 64), (4, 64, 64 * 201)])
def test_unusable_clips_are_named(processor: VideoProcessor, shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"^clip\.mp4: "):
        processor.plan(ArrayClip(np.zeros((*shape, 3), np.uint8)))


def test_settings_come_from_the_checkpoint(folder: Path, vision: VisionConfig) -> None:
    own = {
        **PATCH,
        **MEAN,
        "size": {"shortest_edge": 4096, "longest_edge": 40_960},
        "fps": 5,
        "max_frames": 6,
    }
    nested = {**own, "fps": 1}
    (folder / "processor_config.json").write_text(json.dumps({"video_processor": nested}))
    assert len(VideoProcessor.from_folder(folder, vision).plan(LongClip(125, 64, 64)).times) == 5
    (folder / "video_preprocessor_config.json").write_text(json.dumps(own))
    found = VideoProcessor.from_folder(folder, vision)
    assert found.assumed is None
    plan = found.plan(LongClip(125, 640, 640))
    assert len(plan.times) == 6
    assert plan.size == (64, 64)
    assert plan.max_tokens == 20


def test_a_checkpoint_without_settings_gets_the_familys(folder: Path, vision: VisionConfig) -> None:
    found = VideoProcessor.from_folder(folder, vision)
    assert "video_preprocessor_config.json" in (found.assumed or "")
    plan = found.plan(LongClip(50, 1080, 1920))
    assert (len(plan.times), plan.size) == (4, (1088, 1920))  # not the bounds of its pictures


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fps": 0}, "'fps' is 0"),
        ({"min_frames": "four"}, "'min_frames' is 'four'"),
        ({"patch_size": 14}, "'patch_size' is 14"),
        ({"do_resize": False}, "'do_resize' is False"),
        ({"size": {"shortest_edge": 10}}, "longest_edge"),
    ],
)
def test_settings_that_are_not_this_models_are_named(vision: VisionConfig, change: dict, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"settings: .*{reason}"):
        processor_with(vision, **change)
