"""What a sequence leaves in memory: the state of every layer, as numpy buffers, without torch.

One layout on every path. Linear layers hold a fixed-size matrix and the convolution's last inputs;
full-attention layers hold keys and values in blocks, so that snapshots, branches and files can share
them. A request owns its ModelState; `fork` gives a second owner at the cost of one block a layer.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35.config import TextConfig
from qwen35.memory import zeroed

BLOCK_TOKENS = 256
_ALIGNMENT = 64  # bytes

# numpy knows no bfloat16: its bits travel as uint16.
STORAGE: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}


class KVBlocks:
    """Keys and values of one full-attention layer, in blocks (Hkv, BLOCK_TOKENS, Dh).

    Full blocks are never written again and may be shared; only the last one grows, by its owner.
    """

    def __init__(self, num_heads: int, head_dim: int, dtype: np.dtype) -> None:
        self.shape = (num_heads, BLOCK_TOKENS, head_dim)
        self.dtype = dtype
        self.num_tokens = 0
        self.k: list[np.ndarray] = []
        self.v: list[np.ndarray] = []

    def add_block(self) -> None:
        """Room for BLOCK_TOKENS more. Raises MemoryError."""
        # Both in memory of their own: between what is freed again they would lie in holes too large for them.
        num_bytes = 2 * math.prod(self.shape) * self.dtype.itemsize
        keys, values = np.frombuffer(zeroed(num_bytes), self.dtype).reshape(2, *self.shape)
        self.k.append(keys)
        self.v.append(values)

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Add T tokens, each array (Hkv, T, Dh) in the storage dtype."""
        done, count = 0, k.shape[1]
        while done < count:
            at = self.num_tokens % BLOCK_TOKENS
            if at == 0:
                self.add_block()
            step = min(BLOCK_TOKENS - at, count - done)
            self.k[-1][:, at : at + step] = k[:, done : done + step]
            self.v[-1][:, at : at + step] = v[:, done : done + step]
            self.num_tokens += step
            done += step

    def gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values as (Hkv, num_tokens, Dh), copied together. Not for an empty layer."""
        k, v = np.concatenate(self.k, axis=1), np.concatenate(self.v, axis=1)
        return k[:, : self.num_tokens], v[:, : self.num_tokens]

    def fork(self) -> "KVBlocks":
        """The same tokens under a second owner: full blocks are shared, a growing one is copied."""
        other = KVBlocks(self.shape[0], self.shape[2], self.dtype)
        other.num_tokens = self.num_tokens
        other.k, other.v = list(self.k), list(self.v)
        if self.num_tokens % BLOCK_TOKENS:
            other.k[-1], other.v[-1] = self.k[-1].copy(), self.v[-1].copy()
        return other

    @property
    def size_bytes(self) -> int:
        return sum(block.nbytes for block in (*self.k, *self.v))


@dataclass(slots=True)
class LinearMemory:
    """State of one linear-attention layer.

    `conv` (W - 1, C) in the storage dtype, `state` (Hv, K, V) float32. Owners share arrays: those that
    `is_shared` are replaced, never written in place (`ModelState.to_write`).
    """

    conv: np.ndarray
    state: np.ndarray
    is_shared: bool = False

    def fork(self) -> "LinearMemory":
        self.is_shared = True
        return LinearMemory(self.conv, self.state, is_shared=True)

    @property
    def size_bytes(self) -> int:
        return self.conv.nbytes + self.state.nbytes


class ModelState:
    """Mutable, one owner: everything that a sequence of `num_tokens` tokens leaves behind.

    `mrope_delta` added to a token's index gives its position on all three axes (see
    `processing.positions`).
    """

    def __init__(self, config: TextConfig, dtype: str) -> None:
        self.dtype = dtype  # of keys, values and conv inputs, a key of STORAGE
        self.num_tokens = 0
        self.mrope_delta = 0
        storage = STORAGE[dtype]
        heads = config.linear_num_value_heads
        linear = _linear_memories(
            config.layer_types.count("linear_attention"),
            (config.linear_conv_kernel_dim - 1, config.conv_channels),
            storage,
            (heads, config.linear_key_head_dim, config.linear_value_head_dim),
        )
        self.layers: list[KVBlocks | LinearMemory] = [
            KVBlocks(config.num_key_value_heads, config.head_dim, storage)
            if kind == "full_attention"
            else linear.pop()
            for kind in config.layer_types
        ]
        self._spare: list[LinearMemory] = []  # that the linear layers which are shared may go to

    def fork(self) -> "ModelState":
        """A second owner of the same past: continuing one leaves the other as it is."""
        other = ModelState.__new__(ModelState)
        other.dtype, other.num_tokens, other.mrope_delta = self.dtype, self.num_tokens, self.mrope_delta
        other.layers = [layer.fork() for layer in self.layers]
        other._spare = []
        return other

    def to_write(self, index: int) -> LinearMemory:
        """Where the next state of linear layer `index` may go: where it is, or, beside another owner, into
        new arrays. The layer's place in `layers` is the caller's to set."""
        memory = self.layers[index]
        assert isinstance(memory, LinearMemory)
        if not memory.is_shared:
            return memory
        if not self._spare:  # all layers will go in this step
            count = sum(isinstance(layer, LinearMemory) and layer.is_shared for layer in self.layers)
            shapes = memory.conv.shape, memory.conv.dtype, memory.state.shape
            self._spare = _linear_memories(count, *shapes)
        return self._spare.pop()

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)


def _linear_memories(
    count: int, conv_shape: tuple[int, ...], storage: np.dtype, state_shape: tuple[int, ...]
) -> list[LinearMemory]:
    """Zeroed ones for `count` layers, side by side. Raises MemoryError."""
    if not count:
        return []
    conv_bytes = _round_up(math.prod(conv_shape) * storage.itemsize)
    state_bytes = _round_up(math.prod(state_shape) * 4)
    size_bytes = count * (conv_bytes + state_bytes)
    bytes_of_all = np.frombuffer(zeroed(size_bytes), np.uint8).reshape(count, conv_bytes + state_bytes)
    return [
        LinearMemory(
            row[: math.prod(conv_shape) * storage.itemsize].view(storage).reshape(conv_shape),
            row[conv_bytes : conv_bytes + math.prod(state_shape) * 4].view(np.float32).reshape(state_shape),
        )
        for row in bytes_of_all
    ]


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def kv_bytes_per_token(config: TextConfig, dtype: str) -> int:
    """Bytes that one more token costs, over all full-attention layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * STORAGE[dtype].itemsize
    return per_layer * config.layer_types.count("full_attention")
