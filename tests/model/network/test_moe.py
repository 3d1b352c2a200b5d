import pytest
import torch
from torch import Tensor

from qwen35.config import MoeConfig
from qwen35.network.moe import SparseMoE, make_mlp, route
from tests.model.reference import DENSE, MOE, max_difference, reference_model

TOLERANCE = 1e-6
D, E, TOP_K = 50, 7, 3


def random_input(tokens: int = 40) -> Tensor:
    return torch.randn(2, tokens, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def moe() -> SparseMoE:
    """Ours with the reference's weights, free to be changed."""
    layer = SparseMoE(D, MoeConfig(E, TOP_K, moe_intermediate_size=22, shared_expert_intermediate_size=35))
    layer.load_state_dict(reference_model(MOE).model.language_model.layers[0].mlp.state_dict())
    return layer


def reference_output(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The reference block with the weights `state`, put in for this call."""
    block = reference_model(MOE).model.language_model.layers[0].mlp
    return torch.func.functional_call(block, state, (x,))


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_block_matches_transformers(moe: SparseMoE, tokens: int) -> None:
    x = random_input(tokens)
    assert max_difference(moe(x), reference_output(x, moe.state_dict())) <= TOLERANCE


def test_dense_mlp_matches_transformers(make_pair) -> None:
    pair, x = make_pair(DENSE), random_input()
    theirs = pair.reference.model.language_model.layers[0].mlp(x)
    assert max_difference(pair.ours.language_model.layers[0].mlp(x), theirs) <= TOLERANCE


def test_a_tie_of_all_experts_is_a_plain_mean(moe: SparseMoE) -> None:
    torch.nn.init.zeros_(moe.gate.weight)
    chosen, weights = route(moe.gate(random_input()[0]), TOP_K)
    assert all(len(set(row)) == TOP_K for row in chosen.tolist())
    assert torch.allclose(weights, torch.full_like(weights, 1 / TOP_K))
    x = random_input()
    assert max_difference(moe(x), reference_output(x, moe.state_dict())) <= TOLERANCE


def test_experts_that_nobody_chose_are_passed_over(moe: SparseMoE) -> None:
    x = random_input().abs()
    with torch.no_grad():
        moe.gate.weight[2:4] = -1.0  # with positive inputs the lowest scores by far
        expected = moe(x)
        moe.experts.gate_up_proj[2:4] = torch.nan
        moe.experts.down_proj[2:4] = torch.nan
    chosen, _ = route(moe.gate(x.flatten(0, 1)), TOP_K)
    assert not torch.isin(chosen, torch.tensor([2, 3])).any()
    assert torch.equal(moe(x), expected)


def test_weights_are_a_softmax_over_the_chosen_logits() -> None:
    logits = torch.randn(20, E, generator=torch.Generator().manual_seed(0)) * 3
    chosen, weights = route(logits, TOP_K)
    best, order = logits.sort(dim=-1, descending=True)
    assert torch.equal(chosen, order[:, :TOP_K])
    assert max_difference(weights, best[:, :TOP_K].softmax(-1)) <= TOLERANCE


def test_the_shared_expert_answers_through_its_own_gate(moe: SparseMoE) -> None:
    x = random_input()
    with torch.no_grad():
        moe.experts.down_proj.zero_()
    expected = torch.sigmoid(x @ moe.shared_expert_gate.weight.T) * moe.shared_expert(x)
    assert max_difference(moe(x), expected) <= TOLERANCE


def test_a_token_is_computed_alike_alone_and_among_others(moe: SparseMoE) -> None:
    x = random_input()
    together = moe(x)
    alone = torch.cat([moe(x[:, t : t + 1]) for t in range(x.shape[1])], dim=1)
    assert max_difference(together, alone) <= TOLERANCE


def test_router_and_every_chosen_expert_receive_the_gradients_of_transformers(moe: SparseMoE) -> None:
    x = random_input()
    theirs = {name: p.detach().clone().requires_grad_() for name, p in moe.named_parameters()}
    moe(x).square().sum().backward()
    reference_output(x, theirs).square().sum().backward()
    for name, parameter in moe.named_parameters():
        scale = theirs[name].grad.abs().max()
        assert max_difference(parameter.grad, theirs[name].grad) <= 1e-5 * scale, name


def test_the_config_chooses_the_kind_of_mlp(make_pair) -> None:
    assert isinstance(make_mlp(make_pair(MOE).ours.config.text), SparseMoE)
    assert not isinstance(make_mlp(make_pair(DENSE).ours.config.text), SparseMoE)
