import pytest
import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm, Qwen3_5RMSNormGated

from qwen35.network.norm import GatedRMSNorm, RMSNorm
from tests.model.reference import max_difference

EPS = 1e-6
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}  # of the largest value


def random_weight(mean: float) -> torch.Tensor:
    return mean + 0.3 * torch.randn(18, generator=torch.Generator().manual_seed(1))


def random_input(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 5, 18, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rms_norm_matches_transformers(dtype: torch.dtype) -> None:
    ours, theirs = RMSNorm(18, EPS), Qwen3_5RMSNorm(18, EPS)
    for norm in (ours, theirs):
        norm.load_state_dict({"weight": random_weight(mean=0.0)})
    x = random_input(dtype)
    expected = theirs.to(dtype)(x)
    assert max_difference(ours.to(dtype)(x), expected) <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gated_norm_matches_transformers(dtype: torch.dtype) -> None:
    ours, theirs = GatedRMSNorm(18, EPS), Qwen3_5RMSNormGated(18, EPS)
    for norm in (ours, theirs):
        norm.load_state_dict({"weight": random_weight(mean=1.0)})
    x, gate = random_input(), random_input(dtype).flip(0)
    expected = theirs.to(dtype)(x.to(dtype), gate)
    difference = max_difference(ours.to(dtype)(x.to(dtype).float(), gate), expected)
    assert difference <= TOLERANCE[dtype] * expected.abs().max()


def test_the_two_norms_store_their_weight_differently() -> None:
    x = random_input()
    unit = x / x.square().mean(-1, keepdim=True).sqrt()
    assert max_difference(RMSNorm(18, EPS)(unit), unit) < 1e-5  # a weight of 0 changes nothing
    zeroed = GatedRMSNorm(18, EPS)
    torch.nn.init.zeros_(zeroed.weight)
    assert zeroed(unit, unit).abs().max() == 0  # here a weight of 0 silences


def test_squares_of_half_precision_values_do_not_overflow() -> None:
    x = torch.full((1, 18), 1000.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(18, EPS).half()(x), torch.ones(1, 18, dtype=torch.float16))
