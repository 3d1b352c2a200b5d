"""The network behind numpy states: the invariants that the engine, the state cache and batches need."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from qwen35.backends.plain import PlainBackend
from qwen35.processing.positions import mrope_positions
from qwen35.state import ModelState
from tests.model.ours import logits_of
from tests.model.pair import Pair
from tests.model.reference import PROMPTS, Prompt, as_pieces, make_prompt, max_difference, reference_forward

TOLERANCE = 1e-4  # fp32, logits up to 2.8
each_prompt = pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)


@pytest.fixture
def backend(main_pair: Pair) -> PlainBackend:
    return PlainBackend(main_pair.ours)


def prefill(
    backend: PlainBackend, prompt: Prompt, sizes: Sequence[int] = (1000,)
) -> tuple[ModelState, np.ndarray]:
    """The state after the prompt, run in pieces of such sizes, and the next token's logits."""
    config = backend.model.config
    ids = prompt.input_ids[0].numpy()
    grids = [] if prompt.grid_thw is None else [tuple(grid) for grid in prompt.grid_thw.tolist()]
    positions, delta = mrope_positions(ids, config, grids)
    features = backend.encode_pictures(prompt.pixel_values.numpy(), grids) if grids else np.empty((0, 50))
    is_placeholder = ids == config.image_token_id
    state = backend.new_state()
    state.mrope_delta = delta
    for piece in as_pieces(len(ids), sizes):
        before, inside = is_placeholder[: piece.start].sum(), is_placeholder[piece].sum()
        part = features[before : before + inside] if inside else None
        logits = backend.prefill(state, ids[piece], positions[:, piece], part)
    return state, logits


def decode(backend: PlainBackend, state: ModelState, tokens: Sequence[int]) -> np.ndarray:
    """Logits (steps, vocab_size) after each of `tokens`."""
    return np.concatenate([backend.decode([state], np.array([token])) for token in tokens])


def close(ours: np.ndarray, expected: np.ndarray) -> bool:
    return max_difference(torch.from_numpy(ours), torch.from_numpy(expected)) <= TOLERANCE


@each_prompt
@pytest.mark.parametrize("sizes", [[1], [16], [30, 1]], ids=str)
def test_prefill_in_pieces_and_decode_match_one_pass_of_transformers(
    main_pair: Pair, prompt: Prompt, sizes: list[int]
) -> None:
    """The decode steps after a picture are right only with its rope delta."""
    backend, answer = PlainBackend(main_pair.ours), list(range(40, 52))
    ids = torch.cat([prompt.input_ids, torch.tensor([answer])], dim=1)
    whole = reference_forward(main_pair.reference, Prompt(ids, prompt.pixel_values, prompt.grid_thw)).logits
    expected = whole[0, prompt.length - 1 :].numpy()
    state, logits = prefill(backend, prompt, sizes)
    assert close(logits[None], expected[:1])
    assert close(decode(backend, state, answer), expected[1:])
    assert state.num_tokens == prompt.length + len(answer)


def test_decode_crosses_the_border_of_a_block(main_pair: Pair) -> None:
    backend, prompt = PlainBackend(main_pair.ours), make_prompt(262)
    expected = logits_of(main_pair.ours, prompt, main_pair.positions(prompt))[0].numpy()
    start = Prompt(prompt.input_ids[:, :250], None, None)
    state, _ = prefill(backend, start)
    assert close(decode(backend, state, prompt.input_ids[0, 250:].tolist()), expected[250:])


@each_prompt
def test_a_fork_continues_as_the_original_would_and_leaves_it_alone(
    backend: PlainBackend, prompt: Prompt
) -> None:
    """Bit for bit: a snapshot may not change an answer."""
    state, _ = prefill(backend, prompt)
    snapshot = state.fork()
    expected = decode(backend, state, [40, 41, 42, 43])
    other = snapshot.fork()
    decode(backend, other, [90, 91, 92, 93])
    assert np.array_equal(decode(backend, snapshot, [40, 41, 42, 43]), expected)


def test_a_batch_of_different_pasts_is_each_row_alone(backend: PlainBackend) -> None:
    states = [prefill(backend, prompt)[0] for prompt in (*PROMPTS.values(), make_prompt(1), make_prompt(256))]
    alone_states = [state.fork() for state in states]
    tokens = np.arange(len(states)) + 60
    for step in range(4):
        together = backend.decode(states, tokens + step)
        alone = [
            decode(backend, state, [token])[0]
            for state, token in zip(alone_states, (tokens + step).tolist(), strict=True)
        ]
        assert close(together, np.stack(alone))


def test_a_bf16_state_travels_through_numpy_unchanged(main_pair: Pair) -> None:
    """Decode after prefill is one pass up to bf16's own rounding, which the one pass shows too."""
    model = copy.deepcopy(main_pair.ours).bfloat16()
    backend, prompt = PlainBackend(model), PROMPTS["one image"]
    exact, _ = decode_after(PlainBackend(main_pair.ours), prompt)
    rounded, state = decode_after(backend, prompt)
    assert state.dtype == "bfloat16"
    assert np.abs(rounded - exact).mean() <= 0.1  # test_model.py compares it with transformers
    again, _ = decode_after(backend, prompt)
    assert np.array_equal(rounded, again)


def decode_after(backend: PlainBackend, prompt: Prompt) -> tuple[np.ndarray, ModelState]:
    state, _ = prefill(backend, prompt)
    return decode(backend, state, range(40, 52)), state
