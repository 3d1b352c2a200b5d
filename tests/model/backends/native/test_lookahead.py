"""Drafts are the plain MTP module's; a pass that checks several tokens is as many steps, bit for bit."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.network.attention import KeyValues
from qwen35.network.model import Qwen35
from qwen35.state import BLOCK_TOKENS, ModelState
from tests.model.backends.native.test_backend import decode, prefill, same
from tests.model.backends.native.weights import MemoryWeights
from tests.model.pair import Pair
from tests.model.reference import PROMPTS, make_prompt

WeightsOf = Callable[[Pair, str], MemoryWeights]


def begun(
    backend: NativeBackend, ids: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[ModelState, NDArray[np.float32]]:
    """A state that is looked ahead of, after a text that was read in pieces of such sizes."""
    state = backend.new_state()
    backend.look_ahead(state)
    done = 0
    for size in sizes:
        if done == len(ids):
            break
        part = slice(done, min(done + size, len(ids)))
        positions = np.tile(np.arange(part.start, part.stop), (3, 1))
        logits = backend.prefill(state, ids[part], positions, None)
        done = part.stop
    assert done == len(ids)
    return state, logits


@pytest.mark.parametrize("num_prompt", [1, 40, BLOCK_TOKENS - 2, BLOCK_TOKENS])
def test_checked_rows_are_steps_bit_for_bit(
    library: Library,
    main_pair: Pair,
    weights_of: WeightsOf,
    num_prompt: int,
) -> None:
    """Whatever was accepted, with states that another owner holds, over the border of a block."""
    backend = NativeBackend(library, weights_of(main_pair, "q4"), num_threads=2)
    alone, _ = prefill(backend, make_prompt(num_prompt))
    state = alone.fork()
    lookahead = backend.look_ahead(state)
    assert lookahead is not None
    generator = np.random.default_rng(num_prompt)
    snapshots = []
    for number in range(12):
        ids = generator.integers(0, 200, min(1 + number % 5, lookahead.room(state))).tolist()
        num_accepted = 1 + generator.integers(0, len(ids))
        logits = lookahead.check(state, ids)
        for _ in range(num_accepted - 1):
            lookahead.accept()
        expected = decode(backend, alone, ids[:num_accepted])
        assert np.array_equal(logits[:num_accepted], expected)
        assert same(state, alone)
        if number % 3 == 0:
            snapshots.append((state.fork(), alone.fork()))
    assert all(same(*pair) for pair in snapshots)
    assert np.array_equal(decode(backend, state, [5, 6]), decode(backend, alone, [5, 6]))


def test_drafts_are_those_of_the_plain_module(library: Library, pair: Pair, weights_of: WeightsOf) -> None:
    """Where int8 roundings of such a small model decide which token is the likeliest, one that is nearly as
    likely may take its place; a wrong formula is off by a deviation and more, on the average."""
    weights = weights_of(pair, "q8")
    plain, backend = weights.meaning, NativeBackend(library, weights)
    missed = []
    for seed, length in enumerate((2, 7, 30, 64, 65, 100)):
        ids = np.random.default_rng(seed).integers(0, 200, length).tolist()
        state, _ = begun(backend, np.array(ids[:-1]), [5, 20, 100])
        lookahead = backend.look_ahead(state)
        assert lookahead is not None
        drafts = lookahead.draft(state, ids[-1], 3)
        missed += how_far_off(plain, ids, drafts)
        # Again after some were accepted: what a draft left in the module's memory is gone.
        lookahead.check(state, [ids[-1], *drafts])
        lookahead.accept()
        missed += how_far_off(plain, [*ids, drafts[0], 7], lookahead.draft(state, 7, 2))
    assert np.mean(missed) < 0.1
    assert max(missed) < 0.7


def how_far_off(model: Qwen35, ids: Sequence[int], drafts: Sequence[int]) -> list[float]:
    """By how many deviations the network's module finds another token likelier, at each of `drafts`."""
    with torch.no_grad():
        text = torch.tensor([ids])
        positions = torch.arange(len(ids)).expand(3, 1, -1)
        hidden, _ = model(text[:, :-1], positions[..., :-1])
        assert model.mtp is not None
        y, past = model.mtp(model.embed(text[:, 1:]), hidden, positions[..., 1:])
        found = []
        for number, draft in enumerate(drafts):
            logits = model.logits(y[0, -1])
            found.append(float((logits.max() - logits[draft]) / logits.std()))
            position = torch.full((3, 1, 1), len(ids) + number)
            y, left = model.mtp(model.embed(torch.tensor([[draft]])), y[:, -1:], position, past)
            past = KeyValues(torch.cat([past.k, left.k], 2), torch.cat([past.v, left.v], 2))
    return found


def test_pictures_are_heard_of_and_pieces_do_not_matter(
    library: Library,
    main_pair: Pair,
    weights_of: WeightsOf,
) -> None:
    backend = NativeBackend(library, weights_of(main_pair, "q8"))
    found = []
    for sizes in ([10_000], [16], [7, 1]):
        made = backend.new_state
        backend.new_state = lambda made=made: looked_ahead_of(backend, made())  # type: ignore[method-assign]
        state, _ = prefill(backend, PROMPTS["one image"], sizes)
        backend.new_state = made  # type: ignore[method-assign]
        lookahead = backend.look_ahead(state)
        assert lookahead is not None
        found.append(lookahead.draft(state, 40, 4))
    assert found[0] == found[1] == found[2]


def looked_ahead_of(backend: NativeBackend, state: ModelState) -> ModelState:
    backend.look_ahead(state)
    return state
