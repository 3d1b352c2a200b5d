import mmap
import sys

import numpy as np
import pytest

from benchmarks.synthetic import SIZES, config_json
from qwen35.config import ModelConfig, TextConfig
from qwen35.state import BLOCK_TOKENS, STORAGE, KVBlocks, LinearMemory, ModelState, kv_bytes_per_token

# Section 3 of the reference document: fixed state in MB, bytes of keys and values a token; bf16.
PRINTED = {
    "0.8b": ("19.5", 12288),
    "2b": ("19.5", 12288),
    "4b": ("51.5", 32768),
    "9b": ("51.5", 32768),
    "27b": ("153.9", 65536),
    "35b-a3b": ("64.4", 20480),
    "122b-a10b": ("153.6", 24576),  # printed as 153.7, the sum of two rounded numbers
    "397b-a17b": ("192.1", 30720),
}


def text_config(name: str = "0.8b") -> TextConfig:
    return ModelConfig.from_dict(config_json(SIZES[name]), "config.json").text


def random_keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, count, 5), np.float32)


def filled(*counts: int) -> KVBlocks:
    """Blocks that took so many tokens one append after another, values the negative of keys."""
    blocks = KVBlocks(2, 5, np.dtype(np.float32))
    keys = random_keys(sum(counts))
    for piece in np.split(keys, np.cumsum(counts)[:-1], axis=1):
        blocks.append(piece, -piece)
    return blocks


@pytest.mark.parametrize("counts", [(1,), (255, 1), (256,), (257,), (3, 253, 1), (100, 600, 1, 1)], ids=str)
def test_tokens_come_back_as_they_went_in_over_any_block_border(counts: tuple[int, ...]) -> None:
    k, v = filled(*counts).gather()
    assert np.array_equal(k, random_keys(sum(counts)))
    assert np.array_equal(v, -k)


@pytest.mark.skipif(sys.platform == "win32", reason="no private mappings there")
def test_blocks_lie_in_memory_of_their_own_where_they_are_large() -> None:
    """In the heap, between what is freed again, they would leave holes."""
    blocks = KVBlocks(2, 256, np.dtype(np.uint16))
    for _ in range(3):
        blocks.add_block()
    for keys, values in zip(blocks.k, blocks.v, strict=True):
        assert keys.ctypes.data % mmap.PAGESIZE == 0
        assert values.ctypes.data == keys.ctypes.data + keys.nbytes
        assert keys.flags.writeable
        assert not keys.any()


@pytest.mark.parametrize("count", [BLOCK_TOKENS - 6, BLOCK_TOKENS, 2 * BLOCK_TOKENS + 9])
def test_a_fork_shares_full_blocks_and_grows_apart(count: int) -> None:
    original = filled(count)
    fork = original.fork()
    full = count // BLOCK_TOKENS
    assert all(a is b for a, b in zip(original.k[:full], fork.k[:full], strict=True))
    first, second = random_keys(10, seed=1), random_keys(10, seed=2)
    original.append(first, first)
    fork.append(second, second)
    past = random_keys(count)
    assert np.array_equal(original.gather()[0], np.concatenate([past, first], axis=1))
    assert np.array_equal(fork.gather()[0], np.concatenate([past, second], axis=1))


def test_a_new_state_is_empty_and_a_fork_of_it_is_its_own() -> None:
    state = ModelState(text_config(), "bfloat16")
    fork = state.fork()
    fork.num_tokens, fork.mrope_delta = 5, -3
    index = next(i for i, layer in enumerate(fork.layers) if isinstance(layer, LinearMemory))
    fork.layers[index] = LinearMemory(fork.layers[index].conv + 1, fork.layers[index].state + 1)
    assert (state.num_tokens, state.mrope_delta) == (0, 0)
    assert not state.layers[index].state.any()


def test_linear_memory_is_written_in_place_by_its_only_owner() -> None:
    state = ModelState(text_config(), "bfloat16")
    linear = [index for index, layer in enumerate(state.layers) if isinstance(layer, LinearMemory)]
    assert all(state.to_write(index) is state.layers[index] for index in linear)
    taken: list[LinearMemory] = []
    for owner in (state, state.fork(), state.fork()):
        for index in linear:
            before = owner.layers[index]
            after = owner.to_write(index)
            assert isinstance(before, LinearMemory)
            assert (after.conv.shape, after.conv.dtype) == (before.conv.shape, before.conv.dtype)
            assert (after.state.shape, after.state.dtype) == (before.state.shape, before.state.dtype)
            for other in (before, *taken):
                assert not np.shares_memory(after.conv, other.conv)
                assert not np.shares_memory(after.state, other.state)
            owner.layers[index] = after
            assert owner.to_write(index) is after
            taken.append(after)


def test_a_pass_that_ends_early_and_another_fork_find_room() -> None:
    state = ModelState(text_config(), "bfloat16")
    linear = [index for index, layer in enumerate(state.layers) if isinstance(layer, LinearMemory)]
    kept = state.fork()
    state.layers[linear[0]] = state.to_write(linear[0])  # and then came Ctrl-C
    again = state.fork()
    for index in linear:
        state.layers[index] = state.to_write(index)
    layers = [layer for owner in (state, kept, again) for layer in owner.layers]
    of_state = [layer for layer in layers[: len(state.layers)] if isinstance(layer, LinearMemory)]
    others = [layer for layer in layers[len(state.layers) :] if isinstance(layer, LinearMemory)]
    for number, own in enumerate(of_state):
        for other in (*of_state[:number], *others):
            assert not np.shares_memory(own.state, other.state)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_reference(name: str) -> None:
    fixed, per_token = PRINTED[name]
    state = ModelState(text_config(name), "bfloat16")
    assert f"{state.size_bytes / 1e6:.1f}" == fixed
    assert kv_bytes_per_token(text_config(name), "bfloat16") == per_token


@pytest.mark.parametrize("dtype", STORAGE)
def test_the_recurrent_state_is_float32_whatever_the_run(dtype: str) -> None:
    linear = [layer for layer in ModelState(text_config(), dtype).layers if isinstance(layer, LinearMemory)]
    assert {layer.state.dtype for layer in linear} == {np.dtype(np.float32)}
    assert {layer.conv.dtype for layer in linear} == {STORAGE[dtype]}
