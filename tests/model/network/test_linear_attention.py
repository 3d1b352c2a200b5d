from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from qwen35.network.linear_attention import GatedDeltaNet, LinearState
from tests.model.pair import Pair
from tests.model.reference import as_pieces, max_difference

D = 50
TOLERANCE = 2e-5  # of outputs around 1; the decays of the chunked form are the cause (test_delta_rule.py)
LAYER = 1


def linear_layer(pair: Pair) -> GatedDeltaNet:
    return pair.ours.language_model.layers[LAYER].linear_attn


def random_input(T: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, T, D, generator=torch.Generator().manual_seed(0))


def reference_run(pair: Pair, x: Tensor) -> tuple[Tensor, LinearState]:
    """The reference layer's output, and its state in our form."""
    text = pair.reference.model.language_model
    cache = DynamicCache(config=text.config)
    y = text.layers[LAYER].linear_attn(x, cache_params=cache)
    conv, state = cache.get_conv_state(LAYER, state_idx=0), cache.get_recurrent_state(LAYER, state_idx=0)
    return y, LinearState(conv[..., -3:], state)  # it keeps a fourth column that is never read


def run_in_pieces(pair: Pair, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, LinearState]:
    outputs, past = [], None
    for piece in as_pieces(x.shape[1], sizes):
        y, past = linear_layer(pair)(x[:, piece], past, None)
        outputs.append(y)
    return torch.cat(outputs, dim=1), past


def assert_same(ours: tuple[Tensor, LinearState], expected: tuple[Tensor, LinearState]) -> None:
    assert max_difference(ours[0], expected[0]) <= TOLERANCE
    assert max_difference(ours[1].conv, expected[1].conv) <= TOLERANCE
    assert max_difference(ours[1].state, expected[1].state) <= TOLERANCE


@pytest.mark.parametrize("T", [1, 2, 3, 4, 20, 150])
def test_layer_and_the_state_it_leaves_match_transformers(pair: Pair, T: int) -> None:
    x = random_input(T, rows=2)
    assert_same(linear_layer(pair)(x, None, None), reference_run(pair, x))


@pytest.mark.parametrize("sizes", [[1], [2, 1], [64], [5, 1, 1, 70]], ids=str)
def test_pieces_of_any_size_continue_as_if_whole(main_pair: Pair, sizes: list[int]) -> None:
    x = random_input(140)
    assert_same(run_in_pieces(main_pair, x, sizes), linear_layer(main_pair)(x, None, None))


@pytest.mark.parametrize("after", [0, 6])
def test_padding_on_the_right_leaves_no_trace(main_pair: Pair, after: int) -> None:
    """Also in the state: it is the one after a row's last real token, even where that is token 1."""
    layer, lengths = linear_layer(main_pair), torch.tensor([9, 1, 2, 4])
    start, x = random_input(6, rows=4), random_input(9, rows=4) + 1
    past = layer(start, None, None)[1] if after else None
    y, left = layer(x, past, lengths)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        own_past = LinearState(*(t[one] for t in past)) if past else None
        own_left = LinearState(*(t[one] for t in left))
        assert_same((y[one, :length], own_left), layer(x[one, :length], own_past, None))


def test_the_state_stays_float32_in_a_bf16_run(main_pair: Pair) -> None:
    layer = GatedDeltaNet(main_pair.ours.config.text)
    layer.load_state_dict(linear_layer(main_pair).state_dict())
    y, left = layer.bfloat16()(random_input(70).bfloat16(), None, None)
    assert (y.dtype, left.conv.dtype, left.state.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    exact = linear_layer(main_pair)(random_input(70), None, None)[1].state
    assert max_difference(left.state, exact) <= 0.02 * exact.abs().max()
