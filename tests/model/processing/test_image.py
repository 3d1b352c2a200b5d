import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as official_smart_resize

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, InputError
from qwen35.processing.image import ImageProcessor, TokenBounds, smart_resize
from tests.model.checkpoint import PREPROCESSOR_CONFIG

SIZES = [(97, 213), (300, 500), (33, 1000), (32, 32), (640, 479), (1, 190), (256, 256)]


def random_pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def load(folder: Path) -> ImageProcessor:
    vision = ModelConfig.from_folder(folder).vision
    assert vision is not None
    return ImageProcessor.from_folder(folder, vision)


def change_settings(folder: Path, **changes: Any) -> None:
    """None removes a key."""
    settings = {k: v for k, v in (PREPROCESSOR_CONFIG | changes).items() if v is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},  # the official bounds
        {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "rescale_factor": 0.004},
        {"size": None, "min_pixels": 4096, "max_pixels": 40000},
    ],
    ids=["small", "official", "other values", "older keys"],
)
def test_patches_equal_those_of_the_official_processor(
    folder: Path, size: tuple[int, int], changes: dict[str, Any]
) -> None:
    change_settings(folder, **changes)
    pixels = random_pixels(*size)
    official = AutoImageProcessor.from_pretrained(folder, backend="pil")(
        images=[pixels], input_data_format="channels_last", return_tensors="np"
    )

    patches = load(folder).process(pixels)

    np.testing.assert_array_equal(patches.values, official["pixel_values"])
    assert patches.values.dtype == np.float32
    assert [list(patches.grid)] == official["image_grid_thw"].tolist()
    assert patches.resized == (patches.grid[1] * 16, patches.grid[2] * 16)


@settings(deadline=None)
@given(
    height=st.integers(1, 10000),
    width=st.integers(1, 10000),
    factor=st.sampled_from([16, 28, 32]),
    bounds=st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)).map(sorted),
)
def test_smart_resize_equals_the_official_one(
    height: int, width: int, factor: int, bounds: list[int]
) -> None:
    try:
        expected = official_smart_resize(height, width, factor, *bounds)
    except ValueError:
        with pytest.raises(InputError):
            smart_resize(height, width, factor, *bounds)
    else:
        assert smart_resize(height, width, factor, *bounds) == expected


def test_smart_resize_gives_the_reference_examples() -> None:
    examples = {(300, 500): (288, 512), (32, 32): (256, 256), (8000, 6000): (4704, 3520)}

    assert {size: smart_resize(*size, 32, 65536, 16777216) for size in examples} == examples


@pytest.mark.parametrize("size", [(1, 201), (2010, 10), (0, 5), (5, 0)])
def test_empty_and_extremely_long_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[1]}x{size[0]} pixels"):
        smart_resize(*size, 32, 65536, 16777216)


def test_bounds_in_tokens_replace_those_of_the_checkpoint(folder: Path) -> None:
    processor = load(folder)
    pixels = random_pixels(300, 500)

    assert processor.bounds == TokenBounds(4, 64)
    choices = (None, TokenBounds(100, 300), TokenBounds(1, 6))
    sizes = [processor.process(pixels, bounds).resized for bounds in choices]

    assert sizes == [(192, 320), (288, 512), (32, 96)]
    assert [processor.num_tokens(size) for size in sizes] == [60, 144, 3]


def test_a_token_bound_is_counted_in_tokens_of_any_patch_size(folder: Path) -> None:
    change_settings(folder, patch_size=8)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["patch_size"] = 8
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    patches = load(folder).process(random_pixels(160, 160), TokenBounds(1, 25))

    assert patches.resized == (80, 80)
    assert patches.values.shape == (100, 3 * 2 * 8 * 8)


@pytest.mark.parametrize("bounds", [(5, 4), (0, 4), (-1, -1)])
def test_bounds_that_no_picture_meets_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{bounds[0]}:{bounds[1]}"):
        TokenBounds(*bounds)


def test_patches_are_written_where_they_are_wanted(folder: Path) -> None:
    processor = load(folder)
    pixels = random_pixels(97, 213)
    expected = processor.process(pixels).values
    several = np.full((len(expected) + 2, expected.shape[1]), np.nan, np.float32)

    patches = processor.process(pixels, out=several[1:-1])

    assert np.shares_memory(patches.values, several)
    np.testing.assert_array_equal(several[1:-1], expected)
    assert np.isnan(several[[0, -1]]).all()


def test_pixels_need_not_lie_in_one_piece(folder: Path) -> None:
    processor = load(folder)
    mirrored = random_pixels(97, 213)[:, ::-1]

    np.testing.assert_array_equal(
        processor.process(mirrored).values, processor.process(np.ascontiguousarray(mirrored)).values
    )


def test_settings_are_also_read_from_processor_config(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    nested = {"image_processor": PREPROCESSOR_CONFIG | {"image_mean": [0.1, 0.2, 0.3]}}
    (folder / "processor_config.json").write_text(json.dumps(nested), encoding="utf-8")
    pixels = random_pixels(97, 213)
    official = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=[pixels], return_tensors="np")

    np.testing.assert_array_equal(load(folder).process(pixels).values, official["pixel_values"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patch_size": None}, "'patch_size' is missing"),
        ({"patch_size": 14}, "'patch_size' is 14 but config.json's vision_config has 16"),
        ({"merge_size": 3}, "'merge_size' is 3"),
        ({"temporal_patch_size": 1}, "'temporal_patch_size' is 1"),
        ({"image_mean": None}, "'image_mean' is missing"),
        ({"image_std": [0.5, 0.5]}, "'image_std' is .* expected 3 numbers"),
        ({"image_std": "0.5"}, "'image_std' is '0.5'"),
        ({"size": None}, "no usable 'shortest_edge'"),
        ({"size": {"shortest_edge": 4096}}, "no usable 'longest_edge'"),
        ({"size": {"shortest_edge": 4096, "longest_edge": 4095}}, "4096 is above the greatest 4095"),
        ({"resample": 2}, "'resample' is 2; supported: 3"),
        ({"do_normalize": False}, "'do_normalize' is False"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_be_obeyed_are_named(folder: Path, changes: dict[str, Any], reason: str) -> None:
    change_settings(folder, **changes)

    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json: .*{reason}"):
        load(folder)


def test_missing_settings_are_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()

    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: no such file"):
        load(folder)


def test_processor_config_without_an_image_part_is_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").rename(folder / "processor_config.json")

    with pytest.raises(CheckpointError, match=r"processor_config\.json: the key 'image_processor'"):
        load(folder)
