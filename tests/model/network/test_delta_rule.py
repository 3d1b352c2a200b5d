import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

from qwen35.network.delta_rule import (
    causal_conv,
    delta_rule_chunked,
    delta_rule_recurrent,
    delta_rule_step,
    l2_normalise,
)
from tests.model.reference import max_difference

B, H, K, V = 2, 3, 13, 18
DECAY_OF_HEAD = torch.tensor([0.01, 0.3, 5.0])  # slow, middling, forgetting almost everything
# Relative, per head. The log decays of a forgetful head add up to 400 in one chunk, where float32
# steps by 3e-5; the chunked form takes differences of such sums, here as in transformers.
TOLERANCE = (1e-6, 1e-6, 1e-5)
LENGTHS = (1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 200)
FORMS = pytest.mark.parametrize("form", [delta_rule_recurrent, delta_rule_chunked])
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # q, k, v, log_decay, beta, state


def random_inputs(T: int, with_state: bool = True, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    q = l2_normalise(noise(B, H, T, K)) * K**-0.5
    k = l2_normalise(noise(B, H, T, K))
    log_decay = -F.softplus(noise(B, H, T) * 3) * DECAY_OF_HEAD[:, None]
    state = noise(B, H, K, V) if with_state else torch.zeros(B, H, K, V)
    return q, k, noise(B, H, T, V), log_decay, torch.sigmoid(noise(B, H, T)), state


def exact(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple:
    """The recurrence in float64, one row, head and token at a time, as its equations stand."""
    q, k, v, log_decay, beta, state = (x.double() for x in (q, k, v, log_decay, beta, state.clone()))
    outputs = torch.zeros(B, H, q.shape[2], V, dtype=torch.float64)
    for b, h in torch.cartesian_prod(torch.arange(B), torch.arange(H)).tolist():
        S = state[b, h]
        for t in range(q.shape[2]):
            S = math.exp(log_decay[b, h, t]) * S
            u = beta[b, h, t] * (v[b, h, t] - S.T @ k[b, h, t])
            S = S + torch.outer(k[b, h, t], u)
            outputs[b, h, t] = S.T @ q[b, h, t]
        state[b, h] = S
    return outputs, state


def assert_close(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], slack: float = 1.0) -> None:
    """Outputs (B, H, T, V) and states (B, H, K, V), each head within its tolerance times `slack`."""
    for mine, theirs in zip(ours, expected, strict=True):
        for head, tolerance in enumerate(TOLERANCE):
            error = max_difference(mine[:, head], theirs[:, head]) / theirs.abs().max().item()
            assert error <= slack * tolerance


@FORMS
@pytest.mark.parametrize("T", LENGTHS)
def test_every_length_matches_the_float64_recurrence(form, T: int) -> None:
    inputs = random_inputs(T)
    assert_close(form(*inputs), exact(*inputs))


@FORMS
def test_nearly_collinear_keys_that_overwrite_each_other_stay_exact(form) -> None:
    q, k, v, _, beta, state = random_inputs(200)
    k = l2_normalise(k[:, :, :1] + 0.01 * k)
    inputs = (q, k, v, torch.full_like(beta, -1e-4), torch.full_like(beta, 0.99), state)
    assert_close(form(*inputs), exact(*inputs), slack=10)


@FORMS
def test_a_decay_that_forgets_everything_gives_no_nan(form) -> None:
    q, k, v, log_decay, beta, state = random_inputs(130)
    inputs = (q, k, v, torch.full_like(log_decay, -80.0), beta, state)  # exp(+80 * 63) overflows
    assert_close(form(*inputs), exact(*inputs))


@pytest.mark.parametrize("border", [1, 63, 64, 65, 100, 149])
def test_a_sequence_cut_anywhere_continues_as_if_whole(border: int) -> None:
    *sequences, state = random_inputs(150)
    whole, whole_state = delta_rule_chunked(*sequences, state)
    first, state = delta_rule_chunked(*(x[:, :, :border] for x in sequences), state)
    second, state = delta_rule_chunked(*(x[:, :, border:] for x in sequences), state)
    assert_close((torch.cat([first, second], dim=2), state), (whole, whole_state))


def test_a_step_is_the_recurrence_of_one_token() -> None:
    *sequences, state = random_inputs(1)
    y, new_state = delta_rule_step(*(x[:, :, 0] for x in sequences), state)
    assert_close((y[:, :, None], new_state), exact(*sequences, state))


@FORMS
def test_tokens_that_neither_decay_nor_write_leave_the_state(form) -> None:
    q, k, v, log_decay, beta, state = random_inputs(70)
    is_real = torch.arange(70) < 40
    padded, padded_state = form(q, k, v, log_decay * is_real, beta * is_real, state)
    alone = form(*(x[:, :, :40] for x in (q, k, v, log_decay, beta)), state)
    assert_close((padded[:, :, :40], padded_state), alone)


def test_the_chunked_form_matches_that_of_transformers() -> None:
    q, k, v, log_decay, beta, state = random_inputs(150)
    by_token = [x.transpose(1, 2) for x in (q * K**0.5, k, v, log_decay, beta)]
    theirs, their_state = torch_chunk_gated_delta_rule(
        *by_token, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=False
    )
    ours = delta_rule_chunked(q, k, v, log_decay, beta, state)
    assert_close(ours, (theirs.transpose(1, 2), their_state))


def test_both_forms_have_the_same_gradients() -> None:
    weights = torch.randn(B, H, 90, V, generator=torch.Generator().manual_seed(1))
    gradients = []
    for form in (delta_rule_recurrent, delta_rule_chunked):
        inputs = [x.requires_grad_() for x in random_inputs(90)]
        y, state = form(*inputs)
        gradients.append(torch.autograd.grad((y * weights).sum() + state.sum(), inputs))
    for recurrent, chunked in zip(*gradients, strict=True):
        assert max_difference(chunked, recurrent) <= 2e-5 * recurrent.abs().max()


@FORMS
def test_gradients_of_all_zero_keys_and_queries_are_finite(form) -> None:
    _, _, v, log_decay, beta, state = random_inputs(70)
    zeros = torch.zeros(B, H, 70, K, requires_grad=True)
    y, state = form(l2_normalise(zeros), l2_normalise(zeros), v, log_decay, beta, state)
    (gradient,) = torch.autograd.grad(y.sum() + state.sum(), zeros)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


def test_l2_norm_adds_its_eps_to_the_sum_of_squares() -> None:
    x = torch.tensor([3e-4, 4e-4])
    assert torch.allclose(l2_normalise(x), x / math.sqrt(25e-8 + 1e-6))


@pytest.mark.parametrize("T", [1, 2, 3, 4, 20])
def test_conv_matches_a_grouped_convolution_and_meets_its_past(T: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, past = torch.randn(B, 7, T, generator=generator), torch.randn(B, 7, 3, generator=generator)
    weight = torch.randn(7, 4, generator=generator)
    expected = F.silu(F.conv1d(torch.cat([past, x], dim=-1), weight[:, None], groups=7))
    assert max_difference(causal_conv(x, weight, past), expected) <= 2e-6
