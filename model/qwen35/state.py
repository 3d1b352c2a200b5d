"""What a sequence leaves in memory: the state of every layer, as numpy buffers, without torch.

One layout on every path. Linear layers hold a fixed-size matrix and the convolution's last inputs;
full-attention layers hold keys and values in blocks, so that snapshots, branches and files can share
them. A request owns its ModelState; `fork` gives a second owner at the cost of one block a layer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35.config import TextConfig

BLOCK_TOKENS = 256

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

    def append(self, k: np.ndarray, v: np.ndarray) -> None:
        """Add T tokens, each array (Hkv, T, Dh) in the storage dtype."""
        done, count = 0, k.shape[1]
        while done < count:
            at = self.num_tokens % BLOCK_TOKENS
            if at == 0:
                self.k.append(np.zeros(self.shape, self.dtype))
                self.v.append(np.zeros(self.shape, self.dtype))
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
    `is_shared` are replaced, never written in place.
    """

    conv: np.ndarray
    state: np.ndarray
    is_shared: bool = False

    def fork(self) -> "LinearMemory":
        self.is_shared = True
        return LinearMemory(self.conv, self.state, is_shared=True)

    def to_write(self) -> "LinearMemory":
        """Where the next state may go: here, or, beside another owner, into new arrays."""
        if self.is_shared:
            return LinearMemory(np.empty_like(self.conv), np.empty_like(self.state))
        return self

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
        self.layers: list[KVBlocks | LinearMemory] = []
        for kind in config.layer_types:
            if kind == "full_attention":
                self.layers.append(KVBlocks(config.num_key_value_heads, config.head_dim, storage))
            else:
                conv = np.zeros((config.linear_conv_kernel_dim - 1, config.conv_channels), storage)
                shape = (
                    config.linear_num_value_heads,
                    config.linear_key_head_dim,
                    config.linear_value_head_dim,
                )
                self.layers.append(LinearMemory(conv, np.zeros(shape, np.float32)))

    def fork(self) -> "ModelState":
        """A second owner of the same past: continuing one leaves the other as it is."""
        other = ModelState.__new__(ModelState)
        other.dtype, other.num_tokens, other.mrope_delta = self.dtype, self.num_tokens, self.mrope_delta
        other.layers = [layer.fork() for layer in self.layers]
        return other

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)


def kv_bytes_per_token(config: TextConfig, dtype: str) -> int:
    """Bytes that one more token costs, over all full-attention layers."""
    per_layer = 2 * config.num_key_value_heads * config.head_dim * STORAGE[dtype].itemsize
    return per_layer * config.layer_types.count("full_attention")
