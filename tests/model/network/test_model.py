"""The whole network against `transformers`, and its invariants: however a row is cut, stepped or
padded, it gives the same logits."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from qwen35.network.attention import KeyValues
from qwen35.network.linear_attention import LinearState
from qwen35.network.text import LayerPast, Past
from tests.model.ours import features_of, grown, logits_in_pieces, logits_of
from tests.model.pair import Pair, write_and_read
from tests.model.reference import (
    DENSE,
    PROMPTS,
    Prompt,
    as_pieces,
    build_model,
    make_prompt,
    max_difference,
    reference_forward,
    reference_model,
)

TOLERANCE = 1e-4  # fp32, logits up to 2.8
CLEAR_LEAD = 1e-3  # a greedy choice is certain where the best logit leads by so much
GREEDY_STEPS = 64
each_prompt = pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)


@each_prompt
def test_logits_match_transformers(pair: Pair, prompt: Prompt) -> None:
    expected = reference_forward(pair.reference, prompt).logits
    assert max_difference(logits_of(pair.ours, prompt, pair.positions(prompt)), expected) <= TOLERANCE


def test_yarn_logits_match_transformers(tmp_path: Path) -> None:
    """A prompt longer than the original context, through config.json and the whole model."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}
    reference = build_model(DENSE, **yarn).requires_grad_(False)
    pair, prompt = write_and_read(DENSE, tmp_path, reference), make_prompt(70, (4, 6), 30)
    ours = logits_of(pair.ours, prompt, pair.positions(prompt))
    assert max_difference(ours, reference_forward(reference, prompt).logits) <= TOLERANCE
    plain = reference_forward(reference_model(DENSE), prompt).logits
    assert max_difference(ours, plain) > 100 * TOLERANCE


def test_64_greedy_steps_after_images_match_transformers(pair: Pair) -> None:
    check_greedy_steps(pair, PROMPTS["several images of odd sizes"])


@pytest.mark.parametrize("name", ["text", "one image"])
def test_64_greedy_steps_after_other_prompts_match_transformers(main_pair: Pair, name: str) -> None:
    check_greedy_steps(main_pair, PROMPTS[name])


def check_greedy_steps(pair: Pair, prompt: Prompt) -> None:
    """Teacher-forced: both see the reference's choice, so that one tie cannot part their ways."""
    cache = DynamicCache(config=pair.reference.model.language_model.config)
    expected = reference_forward(pair.reference, prompt, past_key_values=cache).logits[:, -1]
    positions = pair.positions(prompt)
    logits, past = logits_in_pieces(pair.ours, prompt, positions, [slice(0, prompt.length)])
    ours, num_certain = logits[:, -1], 0
    for step in range(GREEDY_STEPS):
        assert max_difference(ours, expected) <= TOLERANCE, step
        best, second = expected[0].topk(2).values.tolist()
        choice = expected.argmax(-1, keepdim=True)
        if best - second >= CLEAR_LEAD:
            num_certain += 1
            assert torch.equal(ours.argmax(-1, keepdim=True), choice), step
        expected = pair.reference(input_ids=choice, past_key_values=cache).logits[:, -1]
        next_position = (positions.max() + 1 + step).expand(3, 1, 1)
        hidden, left = pair.ours(choice, next_position, past=past)
        ours, past = pair.ours.logits(hidden[:, -1]), grown(past, left)
    assert num_certain > 0.9 * GREEDY_STEPS


@each_prompt
@pytest.mark.parametrize("sizes", [[1], [2, 3], [16], [30, 1, 1]], ids=str)
def test_prefill_in_any_pieces_is_one_pass(main_pair: Pair, prompt: Prompt, sizes: Sequence[int]) -> None:
    """Pieces of one token are decode steps. Some borders lie inside a picture."""
    positions = main_pair.positions(prompt)
    pieces = as_pieces(prompt.length, sizes)
    in_pieces, past = logits_in_pieces(main_pair.ours, prompt, positions, pieces)
    whole, whole_past = logits_in_pieces(main_pair.ours, prompt, positions, [slice(0, prompt.length)])
    assert max_difference(in_pieces, whole) <= TOLERANCE
    for ours, expected in zip(past.layers, whole_past.layers, strict=True):
        for part, expected_part in zip(ours, expected, strict=True):
            assert max_difference(part, expected_part) <= TOLERANCE


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Stack rows whose second dimension differs, the shorter ones filled up on the right."""
    longest = max(row.shape[1] for row in rows)
    return torch.cat(
        [F.pad(row, (0, 0) * (row.ndim - 2) + (0, longest - row.shape[1]), value=value) for row in rows]
    )


def test_a_row_of_a_padded_batch_is_the_row_alone(main_pair: Pair) -> None:
    """Through prefill and five decode steps; padding ids and positions are arbitrary."""
    model = main_pair.ours
    prompts = [make_prompt(70), make_prompt(5, (6, 10), 7), make_prompt(1), make_prompt(3, (2, 6), 4, (4, 4))]
    positions = [main_pair.positions(prompt) for prompt in prompts]
    lengths = torch.tensor([prompt.length for prompt in prompts])
    ids = padded([prompt.input_ids for prompt in prompts], value=9)
    batch_positions = padded([p.permute(1, 2, 0) for p in positions], value=77).permute(2, 0, 1)
    features = torch.cat([f for prompt in prompts if (f := features_of(model, prompt)) is not None])
    hidden, left = model(ids, batch_positions, features, lengths=lengths)
    past = Past(left, lengths)

    alone_pasts = []
    for row, prompt in enumerate(prompts):
        alone, alone_past = logits_in_pieces(model, prompt, positions[row], [slice(0, prompt.length)])
        assert max_difference(model.logits(hidden[row : row + 1, : prompt.length]), alone) <= TOLERANCE
        alone_pasts.append(alone_past)

    next_ids = torch.arange(20, 25).expand(len(prompts), 5)
    for step in range(5):
        at = torch.stack([p.max() + 1 + step for p in positions])
        new, left = model(next_ids[:, step : step + 1], at.expand(3, 1, -1).transpose(1, 2), past=past)
        past = grown_ragged(past, left)
        for row in range(len(prompts)):
            alone, left = model(
                next_ids[row : row + 1, step : step + 1],
                at[row].expand(3, 1, 1),
                past=alone_pasts[row],
            )
            alone_pasts[row] = grown(alone_pasts[row], left)
            assert max_difference(model.logits(new[row : row + 1]), model.logits(alone)) <= TOLERANCE


def grown_ragged(past: Past, left: Sequence[LayerPast]) -> Past:
    """Put one new token of each row right after the row's own real tokens."""
    layers = []
    for old, new in zip(past.layers, left, strict=True):
        if isinstance(new, LinearState):
            layers.append(new)
            continue
        grown_parts = []
        for old_part, new_part in zip(old, new, strict=True):
            longer = F.pad(old_part, (0, 0, 0, 1), value=1e3)
            for row, length in enumerate(past.lengths.tolist()):
                longer[row, :, length] = new_part[row, :, 0]
            grown_parts.append(longer)
        layers.append(KeyValues(*grown_parts))
    return Past(layers, past.lengths + 1)


@each_prompt
def test_a_bf16_run_errs_no_more_than_that_of_transformers(main_pair: Pair, prompt: Prompt) -> None:
    """Both against float32: mean error of the logits, and how often the best token is the same."""
    exact = logits_of(main_pair.ours, prompt, main_pair.positions(prompt))
    ours = logits_of(copy.deepcopy(main_pair.ours).bfloat16(), prompt, main_pair.positions(prompt))
    theirs = reference_forward(copy.deepcopy(main_pair.reference).bfloat16(), prompt).logits
    assert ours.dtype == torch.bfloat16
    our_error, their_error = ((logits.float() - exact).abs().mean() for logits in (ours, theirs))
    our_hits, their_hits = (
        (logits.argmax(-1) == exact.argmax(-1)).float().mean() for logits in (ours, theirs)
    )
    assert our_error <= 1.5 * their_error
    assert our_hits >= their_hits - 0.1


def test_features_land_on_placeholders_in_order_row_by_row(main_pair: Pair) -> None:
    model = main_pair.ours
    image, video = model.config.image_token_id, model.config.video_token_id
    ids = torch.tensor([[1, image, image, 2], [video, 3, 4, image]])
    features = torch.arange(4.0)[:, None].expand(4, 50) + 100
    x = model.embed(ids, features)
    assert torch.equal(x[ids >= image], features)
    assert torch.equal(x[ids < image], model.language_model.embed_tokens(ids[ids < image]))


def trainable(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_()


@each_prompt
def test_gradients_match_those_of_transformers_in_every_parameter(main_pair: Pair, prompt: Prompt) -> None:
    """Everything that the logits depend on receives its gradient; the MTP module has a test of its own."""
    ours, theirs = trainable(main_pair.ours), trainable(main_pair.reference)
    weights = torch.randn(1, prompt.length, 271, generator=torch.Generator().manual_seed(0))
    (logits_of(ours, prompt, main_pair.positions(prompt)) * weights).sum().backward()
    (reference_forward(theirs, prompt).logits * weights).sum().backward()
    expected = {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        is_unused = name.startswith("mtp.") or (prompt.grid_thw is None and name.startswith("visual."))
        if is_unused:
            assert parameter.grad is None, name
        else:
            assert max_difference(parameter.grad, expected[name]) <= 1e-3 * expected[name].abs().max(), name


def test_gradients_of_a_draft_reach_every_parameter_of_the_mtp_module(main_pair: Pair) -> None:
    model = trainable(main_pair.ours)
    prompt = make_prompt(40)
    positions = main_pair.positions(prompt)
    hidden, _ = model(prompt.input_ids, positions)
    drafts, _ = model.mtp(model.embed(prompt.input_ids[:, 1:]), hidden[:, :-1], positions[..., 1:])
    F.cross_entropy(model.logits(drafts)[0, :-1], prompt.input_ids[0, 2:]).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("visual."):
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
