import pytest
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids

from qwen35.network.vision import VisionEncoder, interpolate_positions, patch_coordinates
from tests.model.pair import Pair
from tests.model.reference import DENSE, PATCH_VALUES, max_difference

TOLERANCE = 5e-6
GRIDS = {
    "the smallest picture": [(1, 2, 2)],
    "one picture": [(1, 6, 10)],
    "larger than the table of positions": [(1, 14, 18)],
    "several pictures of odd sizes": [(1, 2, 6), (1, 10, 2), (1, 6, 6), (1, 6, 6)],
    "pictures of one area and different sides": [(1, 2, 6), (1, 6, 2), (1, 2, 6)],
    "a clip": [(3, 4, 6)],
    "a clip between pictures": [(1, 4, 6), (2, 6, 4), (1, 2, 10)],
}


@pytest.fixture
def pair(make_pair) -> Pair:
    return make_pair(DENSE)


def random_patches(grids: list[tuple[int, int, int]]) -> Tensor:
    total = sum(t * h * w for t, h, w in grids)
    return torch.randn(total, PATCH_VALUES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_features_match_transformers(pair: Pair, grids: list[tuple[int, int, int]]) -> None:
    patches = random_patches(grids)
    expected = pair.reference.model.visual(patches, grid_thw=torch.tensor(grids)).pooler_output
    assert max_difference(pair.ours.visual(patches, grids), expected) <= TOLERANCE


@pytest.mark.parametrize("grid", [(4, 6), (10, 2)])
def test_patches_are_numbered_in_merge_order(grid: tuple[int, int]) -> None:
    assert torch.equal(patch_coordinates(*grid, 2), get_vision_position_ids(torch.tensor([(1, *grid)]), 2))
    assert patch_coordinates(2, 4, 2).tolist()[:5] == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]


def test_learned_positions_reach_the_corners_of_their_table() -> None:
    table = torch.randn(49, 5, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[0, 0], [0, 5], [3, 0], [3, 5]])
    assert torch.equal(interpolate_positions(table, corners, 4, 6), table[[0, 6, 42, 48]])
    as_large_as_the_table = patch_coordinates(7, 7, 1)
    assert torch.allclose(interpolate_positions(table, as_large_as_the_table, 7, 7), table, atol=1e-5)


def test_pictures_and_frames_never_see_each_other(pair: Pair) -> None:
    grids = [(1, 4, 6), (2, 4, 6)]
    patches = random_patches(grids)
    before = pair.ours.visual(patches, grids).split(6)  # six tokens each: a picture, two frames
    patches[24:48] += 1  # the clip's first frame
    after = pair.ours.visual(patches, grids).split(6)
    assert torch.equal(before[0], after[0])
    assert max_difference(before[1], after[1]) > 1e-2
    assert torch.equal(before[2], after[2])


def test_a_picture_among_others_is_the_picture_alone(pair: Pair) -> None:
    grids = GRIDS["several pictures of odd sizes"]
    patches = random_patches(grids)
    together = pair.ours.visual(patches, grids)
    sizes = [t * h * w for t, h, w in grids]
    alone = [pair.ours.visual(part, [grid]) for part, grid in zip(patches.split(sizes), grids, strict=True)]
    assert max_difference(together, torch.cat(alone)) <= TOLERANCE


def test_both_temporal_slices_and_the_bias_count(pair: Pair) -> None:
    embed = pair.ours.visual.patch_embed
    patch = random_patches([(1, 1, 1)])
    by_slice = patch.view(1, 3, 2, 256)
    without_second = (by_slice * torch.tensor([1.0, 0.0])[:, None]).view(1, -1)
    assert max_difference(embed(patch), embed(without_second)) > 0.1
    assert torch.equal(embed(torch.zeros_like(patch))[0], embed.proj.bias)


def test_a_bf16_encoder_stays_close_to_float32(pair: Pair) -> None:
    grids = GRIDS["one picture"]
    patches = random_patches(grids)
    encoder = VisionEncoder(pair.ours.config.vision)
    encoder.load_state_dict(pair.ours.visual.state_dict())
    exact = pair.ours.visual(patches, grids)
    error = (encoder.bfloat16()(patches, grids).float() - exact).abs().mean()
    assert error <= 0.02 * exact.abs().mean()
