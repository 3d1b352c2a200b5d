"""Whole tiny models on the native library: against the plain network, and the invariants of the engine."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.backends.plain import PlainBackend
from qwen35.network import attention
from qwen35.network.model import Qwen35
from qwen35.processing.positions import mrope_positions
from qwen35.state import KVBlocks, ModelState
from tests.model.backends.native.rounded import RoundedAttention, RoundedRotation, round_like_native
from tests.model.backends.native.weights import MemoryWeights
from tests.model.pair import Pair
from tests.model.reference import PROMPTS, Prompt, as_pieces, make_prompt

each_prompt = pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
LONG = make_prompt(200, (6, 10), 330)  # crosses two borders of KV blocks

Backend = NativeBackend | PlainBackend
MakeBackend = Callable[..., NativeBackend]


@pytest.fixture
def make_backend(library: Library, main_pair: Pair, weights_of: Callable[..., MemoryWeights]) -> MakeBackend:
    def make(format_name: str = "q4", **options: object) -> NativeBackend:
        return NativeBackend(library, weights_of(main_pair, format_name), **options)

    return make


@pytest.fixture
def rounded_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Qwen35], PlainBackend]]:
    """The plain backend on a copy of the model that rounds where the native one does."""
    monkeypatch.setattr(attention, "rotate", RoundedRotation())
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", RoundedAttention())

    def make(model: Qwen35) -> PlainBackend:
        return PlainBackend(round_like_native(copy.deepcopy(model)))

    return make


def prefill(
    backend: Backend, prompt: Prompt, sizes: Sequence[int] = (10_000,), encoder: Backend | None = None
) -> tuple[ModelState, NDArray[np.float32]]:
    """The state after the prompt, run in pieces of such sizes, and the next token's logits.

    Pictures are encoded by `encoder` where it is another.
    """
    config = backend.model.config if isinstance(backend, PlainBackend) else backend.config
    ids = prompt.input_ids[0].numpy()
    grids = [] if prompt.grid_thw is None else [tuple(grid) for grid in prompt.grid_thw.tolist()]
    positions, delta = mrope_positions(ids, config, grids)
    features = np.empty((0, 50), np.float32)
    if grids:
        features = (encoder or backend).encode_pictures(prompt.pixel_values.numpy(), grids)
    is_placeholder = np.isin(ids, (config.image_token_id, config.video_token_id))
    state = backend.new_state()
    state.mrope_delta = delta
    for piece in as_pieces(len(ids), sizes):
        before, inside = is_placeholder[: piece.start].sum(), is_placeholder[piece].sum()
        part = features[before : before + inside] if inside else None
        logits = backend.prefill(state, ids[piece], positions[:, piece], part)
    return state, logits


def decode(backend: Backend, state: ModelState, tokens: Sequence[int]) -> NDArray[np.float32]:
    return np.concatenate([backend.decode([state], np.array([token])) for token in tokens])


def arrays_of(state: ModelState) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for layer in state.layers:
        arrays += layer.gather() if isinstance(layer, KVBlocks) else (layer.conv, layer.state)
    return arrays


def same(one: ModelState, other: ModelState) -> bool:
    return one.num_tokens == other.num_tokens and all(
        np.array_equal(a, b) for a, b in zip(arrays_of(one), arrays_of(other), strict=True)
    )


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


@each_prompt
@pytest.mark.parametrize("format_name", ["q4", "q8"])
def test_logits_are_the_plain_networks_with_the_same_roundings(
    library: Library,
    pair: Pair,
    weights_of: Callable[..., MemoryWeights],
    rounded_keys: Callable[[Qwen35], PlainBackend],
    prompt: Prompt,
    format_name: str,
) -> None:
    """Mostly within 1e-6. Where float32 rounding sends an activation to the next int8, such a model
    of 50 channels answers with up to 3 % of its logits; a wrong formula with 20 % and more."""
    weights = weights_of(pair, format_name)
    native, plain = NativeBackend(library, weights), rounded_keys(weights.meaning)
    state, logits = prefill(native, prompt)
    plain_state, expected = prefill(plain, prompt, encoder=native)
    later = decode(native, state, [40, 41, 42])
    expected_later = decode(plain, plain_state, [40, 41, 42])
    expected = np.concatenate([expected[None], expected_later])
    assert rms(np.concatenate([logits[None], later]) - expected) <= 0.032 * rms(expected)


def test_the_first_layers_state_is_the_plain_networks(
    library: Library,
    pair: Pair,
    weights_of: Callable[..., MemoryWeights],
    rounded_keys: Callable[..., PlainBackend],
) -> None:
    """No int8 rounding lies between the embedding and the first state but that of its own input."""
    weights = weights_of(pair, "q8")
    native, _ = prefill(NativeBackend(library, weights), PROMPTS["text"])
    plain, _ = prefill(rounded_keys(weights.meaning), PROMPTS["text"])
    assert np.abs(native.layers[0].state - plain.layers[0].state).max() <= 2e-6
    rounded = torch.from_numpy(plain.layers[0].conv).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(native.layers[0].conv, rounded)


def test_int8_activations_and_a_bf16_state_cost_little(
    main_pair: Pair, make_backend: MakeBackend, weights_of: Callable[..., MemoryWeights]
) -> None:
    """Against the plain network in float32: 5 % of the logits on a model of 50 channels."""
    native, plain = make_backend("q8"), PlainBackend(weights_of(main_pair, "q8").meaning)
    logits, expected = (
        decode(backend, prefill(backend, PROMPTS["one image"])[0], range(40, 72))
        for backend in (native, plain)
    )
    assert rms(logits - expected) <= 0.08 * rms(expected)


def test_features_of_pictures_are_the_plain_networks(
    main_pair: Pair,
    make_backend: MakeBackend,
    weights_of: Callable[..., MemoryWeights],
    rounded_keys: Callable[[Qwen35], PlainBackend],
) -> None:
    """Frames of several sizes, one of them longer than a block of keys, and a clip."""
    grids = [(1, 6, 10), (2, 4, 4), (1, 20, 16)]
    generator = torch.Generator().manual_seed(3)
    patches = torch.randn(60 + 32 + 320, 1536, generator=generator).numpy()
    meaning = weights_of(main_pair, "q8").meaning
    features = make_backend("q8").encode_pictures(patches, grids)
    expected = rounded_keys(meaning).encode_pictures(patches, grids)
    assert rms(features - expected) <= 0.005 * rms(expected)  # int8 roundings that fell the other way
    exact = PlainBackend(meaning).encode_pictures(patches, grids)
    assert rms(features - exact) <= 0.02 * rms(exact)


@pytest.mark.parametrize("sizes", [[1], [16], [30, 1], [255, 2]], ids=str)
def test_prefill_in_pieces_is_one_pass_bit_for_bit(make_backend: MakeBackend, sizes: list[int]) -> None:
    backend = make_backend()
    prompt = LONG if sizes[0] > 20 else PROMPTS["one image"]
    whole, logits = prefill(backend, prompt)
    pieces, again = prefill(backend, prompt, sizes)
    assert np.array_equal(logits, again)
    assert same(whole, pieces)


def test_decode_is_prefill_bit_for_bit(make_backend: MakeBackend) -> None:
    """Over the border of a KV block."""
    backend, prompt = make_backend(), make_prompt(262)
    _, expected = prefill(backend, prompt)
    state, _ = prefill(backend, Prompt(prompt.input_ids[:, :250], None, None))
    assert np.array_equal(decode(backend, state, prompt.input_ids[0, 250:].tolist())[-1], expected)


def test_a_batch_of_different_pasts_is_each_row_alone_bit_for_bit(make_backend: MakeBackend) -> None:
    backend = make_backend()
    prompts = (*PROMPTS.values(), make_prompt(1), make_prompt(256), make_prompt(300))
    states = [prefill(backend, prompt)[0] for prompt in prompts]
    alone_states = [state.fork() for state in states]
    for step in range(3):
        tokens = np.arange(len(states)) + 60 + step
        together = backend.decode(states, tokens)
        for row, (state, token) in enumerate(zip(alone_states, tokens.tolist(), strict=True)):
            assert np.array_equal(together[row], decode(backend, state, [token])[0])
    assert all(same(a, b) for a, b in zip(states, alone_states, strict=True))


@each_prompt
def test_a_fork_continues_as_the_original_would_and_leaves_it_alone(
    make_backend: MakeBackend, prompt: Prompt
) -> None:
    backend = make_backend()
    state, _ = prefill(backend, prompt)
    snapshot = state.fork()
    expected = decode(backend, state, [40, 41, 42, 43])
    decode(backend, snapshot.fork(), [90, 91, 92, 93])
    assert np.array_equal(decode(backend, snapshot, [40, 41, 42, 43]), expected)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_no_bit(make_backend: MakeBackend, num_threads: int) -> None:
    answers = []
    for backend in (make_backend(), make_backend(num_threads=num_threads)):
        state, logits = prefill(backend, LONG)
        answers.append(np.concatenate([logits[None], decode(backend, state, range(40, 50))]))
    assert np.array_equal(*answers)


def test_instruction_sets_agree_bit_for_bit(make_backend: MakeBackend) -> None:
    """The best one here and the scalar one: every kernel of text and pictures."""
    answers = []
    for backend in (make_backend(), make_backend(isa="scalar")):
        state, logits = prefill(backend, PROMPTS["one image"])
        answers.append(np.concatenate([logits[None], decode(backend, state, [40])]))
    assert np.array_equal(*answers)


def test_the_environment_chooses_the_kernels(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_CPU", "scalar")
    assert make_backend().name == "native (scalar, 1 threads)"


def test_pairs_of_frames_are_encoded_together_as_each_alone(make_backend: MakeBackend) -> None:
    backend = make_backend("q8")
    patches = make_prompt((4, 6), (4, 6), (4, 6)).pixel_values.numpy()
    together = backend.encode_pictures(patches, [(3, 4, 6)])
    np.testing.assert_array_equal(backend.encode_pictures(patches, [(1, 4, 6)] * 3), together)
    alone = [backend.encode_pictures(patches[n : n + 24], [(1, 4, 6)]) for n in (0, 24, 48)]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_features_take_the_place_of_video_tokens_too(make_backend: MakeBackend) -> None:
    backend, prompt = make_backend("q8"), PROMPTS["several images of odd sizes"]
    ids = prompt.input_ids.clone()
    ids[ids == backend.config.image_token_id] = backend.config.video_token_id
    state, logits = prefill(backend, prompt)
    as_clip, of_clip = prefill(backend, replace(prompt, input_ids=ids))
    assert same(state, as_clip)
    np.testing.assert_array_equal(logits, of_clip)
