import copy

import pytest
import torch
from torch import Tensor
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding, apply_rotary_pos_emb

from qwen35.config import RopeConfig
from qwen35.network.rope import frequency_axes, inverse_frequencies, rotary_tables, rotate
from tests.model.reference import max_difference

OFFICIAL = {
    "rope_type": "default",
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "mrope_section": [11, 11, 10],
    "mrope_interleaved": True,
}
YARN = OFFICIAL | {"rope_type": "yarn", "original_max_position_embeddings": 262144}
VARIANTS = {
    "official": OFFICIAL,
    "yarn to 1M": YARN | {"factor": 4.0},
    "yarn to 512k": YARN | {"factor": 2.0},
    "yarn of a short model": YARN
    | {"factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4},
}


def theirs_of(parameters: dict) -> Qwen3_5TextRotaryEmbedding:
    config = Qwen3_5TextConfig(rope_parameters=copy.deepcopy(parameters), max_position_embeddings=262144)
    return Qwen3_5TextRotaryEmbedding(config)


def ours_of(parameters: dict) -> RopeConfig:
    return RopeConfig(
        theta=parameters["rope_theta"],
        partial_rotary_factor=parameters["partial_rotary_factor"],
        mrope_section=tuple(parameters["mrope_section"]),
        yarn_factor=parameters.get("factor"),
        yarn_original_context=parameters.get("original_max_position_embeddings"),
    )


def random_positions(largest: int) -> Tensor:
    return torch.randint(0, largest, (3, 2, 40), generator=torch.Generator().manual_seed(0))


def test_height_and_width_take_every_third_frequency() -> None:
    axes = frequency_axes((11, 11, 10))
    assert [i for i, axis in enumerate(axes) if axis == 1] == list(range(1, 32, 3))
    assert [i for i, axis in enumerate(axes) if axis == 2] == list(range(2, 30, 3))
    assert [i for i, axis in enumerate(axes) if axis == 0] == list(range(0, 31, 3))


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)
def test_frequencies_match_transformers(parameters: dict) -> None:
    expected = theirs_of(parameters).inv_freq
    ours = inverse_frequencies(ours_of(parameters), 64)
    assert max_difference(ours / expected, torch.ones(32)) <= 1e-6


@pytest.mark.parametrize("largest", [100, 300_000])
@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)
def test_tables_match_transformers_on_three_axes(parameters: dict, largest: int) -> None:
    positions = random_positions(largest)
    expected = theirs_of(parameters)(torch.zeros(()), positions)
    tables = rotary_tables(positions, ours_of(parameters), 64, torch.float32)
    for ours, theirs in zip(tables, expected, strict=True):
        assert max_difference(ours[:, 0], theirs[..., :32]) <= 1e-6


def test_rotation_matches_transformers_and_leaves_the_rest_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 40, 256, generator=generator), torch.randn(2, 2, 40, 256, generator=generator)
    positions = random_positions(5000)
    expected = apply_rotary_pos_emb(q, k, *theirs_of(OFFICIAL)(q, positions))
    tables = rotary_tables(positions, ours_of(OFFICIAL), 64, torch.float32)
    for x, theirs in zip((q, k), expected, strict=True):
        assert max_difference(rotate(x, *tables), theirs) <= 1e-5
        assert torch.equal(rotate(x, *tables)[..., 64:], x[..., 64:])


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 256, generator=generator)

    def score(query_at: int, key_at: int) -> Tensor:
        def rotated(x: Tensor, at: int) -> Tensor:
            return rotate(x, *rotary_tables(torch.full((3, 1, 1), at), ours_of(OFFICIAL), 64, torch.float32))

        return (rotated(q, query_at) * rotated(k, key_at)).sum()

    assert abs(score(17, 5) - score(1017, 1005)) < 1e-3
    assert abs(score(17, 5) - score(17, 6)) > 1e-2


def test_low_precision_tables_come_from_float32_angles() -> None:
    positions = random_positions(300_000)
    exact = rotary_tables(positions, ours_of(OFFICIAL), 64, torch.float32)[0]
    rounded = rotary_tables(positions, ours_of(OFFICIAL), 64, torch.bfloat16)[0]
    assert torch.equal(rounded, exact.bfloat16())
