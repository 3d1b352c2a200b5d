"""States that are saved without a model: random ones of the built-in model's shape."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qwen35
from qwen35.cache import blobs
from qwen35.cache.store import Snapshot, Store
from qwen35.config import ModelConfig
from qwen35.state import BLOCK_TOKENS, KVBlocks, LinearMemory, ModelState

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"
CONFIG = ModelConfig.from_folder(MINI).text
MODEL = "model"
PLENTY = 10**9  # bytes


def new_state() -> ModelState:
    return ModelState(CONFIG, "bfloat16")


def random_state(num_tokens: int, seed: int = 0) -> ModelState:
    """A state whose first tokens are those of a longer one of the same seed."""
    state = new_state()
    for index, layer in enumerate(state.layers):
        rng = np.random.default_rng([seed, index])
        if isinstance(layer, KVBlocks):
            heads, _, size = layer.shape
            values = rng.integers(0, 1 << 14, (num_tokens, 2, heads, size)).astype(np.uint16)
            layer.append(*values.transpose(1, 2, 0, 3))
        else:
            rng = np.random.default_rng([seed, index, num_tokens])
            state.layers[index] = LinearMemory(
                rng.integers(0, 1 << 14, layer.conv.shape).astype(np.uint16),
                rng.standard_normal(layer.state.shape, np.float32),
            )
    state.num_tokens = num_tokens
    return state


def snapshot_of(num_tokens: int, seed: int = 0, branch: str = "", saved_tokens: int = 100) -> Snapshot:
    """Its blocks are those of every snapshot of this seed."""
    return Snapshot(
        f"{seed}{branch}-{num_tokens}", MODEL, num_tokens, block_keys(num_tokens, seed), saved_tokens, "end"
    )


def block_keys(num_tokens: int, seed: int = 0) -> tuple[str, ...]:
    return tuple(f"{seed}-b{number}" for number in range(num_tokens // BLOCK_TOKENS))


def save(store: Store, num_tokens: int, seed: int = 0, branch: str = "", saved_tokens: int = 100) -> None:
    store.save(snapshot_of(num_tokens, seed, branch, saved_tokens), random_state(num_tokens, seed))


def find(store: Store, num_tokens: int, seed: int = 0, branch: str = "") -> ModelState | None:
    """What the store gives for it, compared with what it should be. Raises BadBlob."""
    snapshot, _ = store.deepest({num_tokens: snapshot_of(num_tokens, seed, branch).key})
    if snapshot is None:
        return None
    state = new_state()
    store.load(snapshot, block_keys(num_tokens, seed), state)
    assert_same(state, random_state(num_tokens, seed))
    return state


def assert_same(a: ModelState, b: ModelState) -> None:
    assert a.num_tokens == b.num_tokens
    for one, other in zip(a.layers, b.layers, strict=True):
        if isinstance(one, KVBlocks):
            assert isinstance(other, KVBlocks)
            for ours, theirs in zip(one.gather(), other.gather(), strict=True):
                assert np.array_equal(ours, theirs)
        else:
            assert isinstance(other, LinearMemory)
            assert np.array_equal(one.conv, other.conv)
            assert np.array_equal(one.state, other.state)


def restarted(store: Store) -> Store:
    """As another process has it, after some time."""
    return Store(store.folder, store.budget_bytes)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(data)


def at_each_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Do something while a file is being written."""
    write = blobs.write

    def hooked(path: Path, *rest: object) -> int:
        size = write(path, *rest)  # type: ignore[arg-type]
        with monkeypatch.context() as inner:
            inner.setattr(blobs, "write", write)
            act(path)
        return size

    monkeypatch.setattr(blobs, "write", hooked)
