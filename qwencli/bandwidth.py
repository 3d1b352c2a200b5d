"""What decoding runs against: how fast memory is read, and how much of it one token reads."""

import mmap
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from qwen35.config import ModelConfig, TextConfig
from qwen35.memory import allocate, available_memory
from qwen35.state import kv_bytes_per_token
from qwen35.weights.manifest import Manifest

PROBE_BYTES = 1 << 30  # far more than any cache holds
LEAST_PROBE_BYTES = 16 << 20
CACHE_BYTES = 64 << 20  # what reads less for a token is served by the caches: no share of memory's speed

_PASSES = 5
_PIECE = 4 << 20  # numbers that are read, or written, before Ctrl-C is looked for
_EMBEDDING = "language_model.embed_tokens.weight"


def read_bandwidth(num_threads: int, size_bytes: int | None = None) -> float:
    """Bytes per second that `num_threads` together read, each its part of one buffer from end to end.

    The median of a few passes. The buffer lies on huge pages where there are any, as weights do;
    `size_bytes` None takes PROBE_BYTES, or a quarter of the memory available where that is less, but not
    less than LEAST_PROBE_BYTES.
    """
    buffer = _buffer(size_bytes or max(LEAST_PROBE_BYTES, min(PROBE_BYTES, available_memory() // 4)))
    parts = np.array_split(buffer, num_threads)
    times = []
    stop = threading.Event()

    def read(part: NDArray[np.int32]) -> None:
        for start in range(0, part.size, _PIECE):
            if stop.is_set():
                return
            np.max(part[start : start + _PIECE])  # without the GIL, and faster than memory

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for _ in range(_PASSES):
                start = time.perf_counter()
                list(pool.map(read, parts))
                times.append(time.perf_counter() - start)
        finally:
            stop.set()  # after Ctrl-C the pool waits for pieces, not for parts
    return float(buffer.nbytes / statistics.median(times))


def _buffer(size_bytes: int) -> NDArray[np.int32]:
    buffer = np.frombuffer(allocate(size_bytes // mmap.PAGESIZE * mmap.PAGESIZE), np.int32)
    for start in range(0, buffer.size, _PIECE):
        buffer[start : start + _PIECE] = 1  # untouched pages would all be the same page of zeros
    return buffer


def decode_bytes(manifest: Manifest, config: ModelConfig, num_context: int, kv_dtype: str) -> int:
    """Bytes that pass through the processor to decode one token after `num_context` others.

    Weights of the text model, of the experts those that one token uses; keys and values; the recurrent
    states, read and written.
    """
    text = config.text
    total = sum(
        tensor.size_bytes
        for name, tensor in manifest.tensors.items()
        if not name.startswith(("visual.", "mtp.")) and (name != _EMBEDDING or config.tie_word_embeddings)
    )
    if text.moe:
        used = text.moe.num_experts_per_tok
        total += sum(
            used * experts.stride for layer, experts in manifest.experts.items() if "mtp." not in layer
        )
    return total + state_bytes(text, num_context, kv_dtype)


def state_bytes(text: TextConfig, num_context: int, kv_dtype: str) -> int:
    """Of these, all that are not weights."""
    state = 4 * text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
    num_linear = text.layer_types.count("linear_attention")
    return 2 * num_linear * state + num_context * kv_bytes_per_token(text, kv_dtype)
