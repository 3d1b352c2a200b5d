"""The plain path against transformers: `python benchmarks/plain_against_transformers.py FOLDER`.

FOLDER is a checkpoint of a true shape from `synthetic.py`, in bfloat16. Each engine runs alone in a
process of its own, in turns on the same cores; medians and ratios are printed. Ours goes through
the Engine's own backend and sampler; transformers through its forward pass with its cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ENGINES = ("qwen", "transformers")


def prompt_ids(num_tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100_000, num_tokens)


def run_qwen(folder: Path, num_prompt: int, num_decoded: int) -> dict[str, float]:
    from qwen35.backends.base import PREFILL_CHUNK
    from qwen35.engine.load import load_engine
    from qwen35.engine.sampler import Sampler, SamplingParams

    start = time.perf_counter()
    engine = load_engine(folder, device="cpu")
    loaded = time.perf_counter()
    ids = prompt_ids(num_prompt)
    state = engine.backend.new_state()
    positions = np.broadcast_to(np.arange(num_prompt), (3, num_prompt)).copy()
    logits = np.empty(0)
    for begin in range(0, num_prompt, PREFILL_CHUNK):
        part = slice(begin, begin + PREFILL_CHUNK)
        logits = engine.backend.prefill(state, ids[part], positions[:, part], None)
    prefilled = time.perf_counter()
    sampler = Sampler(SamplingParams(temperature=0), engine.processor.tokenizer.size, ids, None)
    for _ in range(num_decoded):
        logits = engine.backend.decode([state], np.array([sampler.draw(logits)]))[0]
    return figures((start, loaded, prefilled, time.perf_counter()), num_prompt, num_decoded)


def run_transformers(folder: Path, num_prompt: int, num_decoded: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForImageTextToText

    start = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    loaded = time.perf_counter()
    with torch.inference_mode():
        out = model(
            input_ids=torch.from_numpy(prompt_ids(num_prompt))[None], use_cache=True, logits_to_keep=1
        )
        prefilled = time.perf_counter()
        for _ in range(num_decoded):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return figures((start, loaded, prefilled, time.perf_counter()), num_prompt, num_decoded)


def figures(times: tuple[float, float, float, float], num_prompt: int, num_decoded: int) -> dict[str, float]:
    """From the clock at start, when loaded, when prefilled, and at the end."""
    start, loaded, prefilled, end = times
    return {
        "load s": loaded - start,
        "prefill tok/s": num_prompt / (prefilled - loaded),
        "decode tok/s": num_decoded / (end - prefilled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--decode", type=int, default=32, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        run = run_qwen if args.engine == "qwen" else run_transformers
        print(json.dumps(run(args.folder, args.prompt, args.decode)))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    for _ in range(args.rounds):
        for name in ENGINES:
            options = ["--prompt", str(args.prompt), "--decode", str(args.decode), "--engine", name]
            command = [sys.executable, __file__, str(args.folder), *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':14} {'qwen':>9} {'transf.':>9} {'ratio':>7}   (medians of {args.rounds}, in turns)")
    for figure in results["qwen"][0]:
        ours, theirs = (statistics.median(r[figure] for r in results[name]) for name in ENGINES)
        print(f"{figure:14} {ours:9.2f} {theirs:9.2f} {ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
