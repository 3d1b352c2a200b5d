"""How fast a CUDA device runs a checkpoint of a true shape: `python -m tests.gpu.speed`, within a minute.

It writes a synthetic checkpoint below the folder of temporary files, loads it as `qwen` would, and measures
the engine as a user meets it; then a decode step by its parts, which tells what states cost that travel
between the card and memory at every step.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.synthetic import SIZES, TINY_SIZES, write_checkpoint
from qwen35.backends.plain import PlainBackend
from qwen35.engine.engine import Engine
from qwen35.engine.load import load_engine
from qwen35.network.model import Qwen35
from qwen35.state import ModelState
from qwencli.speed import measure, prompt_of_words

BANDWIDTH = 3.0e12  # bytes a second, of an H100's own memory
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", default="0.8b", choices=[*SIZES, *TINY_SIZES])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--prompt", type=int, default=2048, metavar="N", help="tokens")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="that are decoded")
    parser.add_argument("--bandwidth", type=float, default=BANDWIDTH, metavar="BYTES", help="a second")
    options = parser.parse_args()
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="qwen-speed-"))
    try:
        write_checkpoint((SIZES | TINY_SIZES)[options.size], folder)
        written = time.perf_counter()
        engine = load_engine(folder, device=options.device)
        synchronise(options.device)
        loaded = time.perf_counter()
        figures = {
            "device": torch.cuda.get_device_name(0) if options.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "size": options.size,
            "write_s": round(written - started, 1),
            "load_s": round(loaded - written, 1),
        }
        figures |= measured(engine, options)
    finally:
        shutil.rmtree(folder)
    figures["all_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(figures, indent=1))


def measured(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    backend, processor = engine.backend, engine.processor
    assert isinstance(backend, PlainBackend)
    synchronise(options.device)
    on_card = options.device == "cuda"
    weights = torch.cuda.memory_allocated() if on_card else 0
    measure(engine, prompt_of_words(processor, 600, 99), 4)  # kernels are loaded, pools filled
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    num_bytes = bytes_per_token(backend.model)
    long, short = (
        [
            measure(engine, prompt_of_words(processor, num_tokens, seed), options.tokens)
            for seed in range(ROUNDS)
        ]
        for num_tokens in (options.prompt, 32)
    )
    rate = median(speed.decode_tokens_per_s for speed in short)
    far = median(speed.decode_tokens_per_s for speed in long)
    parts = step_parts(backend, options)
    return {
        "prompt_tokens": long[0].prompt_tokens,
        "prefill_tokens_per_s": round(median(speed.prefill_tokens_per_s for speed in long), 1),
        "decode_tokens_per_s": round(rate, 1),
        "decode_tokens_per_s_after_prompt": round(far, 1),
        "weight_bytes_per_token": num_bytes,
        "bandwidth_share": round(rate * num_bytes / options.bandwidth, 4),
        "bandwidth_share_after_prompt": round(far * num_bytes / options.bandwidth, 4),
        "step_ms_after_prompt": {name: round(1e3 * seconds, 3) for name, seconds in parts.items()},
        "bandwidth_share_of_network": round(num_bytes / parts["network"] / options.bandwidth, 4),
        "weights_gb": round(weights / 1e9, 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_card else None,
    }


def bytes_per_token(model: Qwen35) -> int:
    """Of the weights that one decode step reads: no pictures, no drafts, the chosen experts alone."""
    found, moe = 0.0, model.config.text.moe
    for name, parameter in model.named_parameters():
        if name.startswith(("visual.", "mtp.")):
            continue
        if name.startswith("language_model.embed_tokens") and model.lm_head is not None:
            continue  # one row
        part = moe.num_experts_per_tok / moe.num_experts if moe and ".experts." in name else 1.0
        found += part * parameter.nbytes
    return round(found)


@torch.inference_mode()
def step_parts(backend: PlainBackend, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a decode step after the prompt, part by part; and of eight rows at once."""
    count, device = options.prompt, backend.device
    rows: list[ModelState] = []
    for _ in range(8):
        state = backend.new_state()
        ids = np.random.default_rng(0).integers(0, 500, count)
        if not rows:
            for first in range(0, count, 512):
                piece = slice(first, min(first + 512, count))
                backend.prefill(state, ids[piece], np.tile(np.arange(count)[piece], (3, 1)), None)
        else:
            state = rows[0].fork()
        rows.append(state)
    past = backend._gather(rows[:1])
    ids = torch.tensor([[7]], device=device)
    positions = torch.full((3, 1, 1), count, device=device)

    def network() -> Any:
        hidden, left = backend.model(ids, positions, None, past)
        return backend.model.logits(hidden[:, 0]), left

    logits, left = network()
    tokens = np.full(8, 7)
    return {
        "states to the device": seconds(lambda: backend._gather(rows[:1]), options),
        "network": seconds(network, options),
        "states from the device": seconds(lambda: backend._scatter([rows[0].fork()], left), options),
        "logits from the device": seconds(lambda: logits.float().cpu().numpy(), options),
        "whole step": seconds(lambda: backend.decode([rows[0].fork()], tokens[:1]), options),
        "whole step of 8 rows": seconds(
            lambda: backend.decode([row.fork() for row in rows], tokens), options
        ),
    }


def seconds(act: Callable[[], object], options: argparse.Namespace) -> float:
    """The median of ten times, what the device has been given included."""
    act()
    times = []
    for _ in range(10):
        synchronise(options.device)
        start = time.perf_counter()
        act()
        synchronise(options.device)
        times.append(time.perf_counter() - start)
    return median(times)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
