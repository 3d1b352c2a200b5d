"""transformers in a process of its own, bfloat16 on the CPU."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.job import (
    LOAD_PROMPT_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    WARM_UP_SEED,
    WARM_UP_TOKENS,
    Job,
    memory,
    prompt_ids,
    reset_peak,
    serve,
)


def load(job: Job) -> torch.nn.Module:
    torch.set_num_threads(job.num_threads)
    kind = transformers.AutoModelForImageTextToText
    return kind.from_pretrained(job.model, dtype=torch.bfloat16).eval()


def ids(job: Job, num_tokens: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(prompt_ids(job, num_tokens, seed))[None]


def sample(logits: torch.Tensor) -> torch.Tensor:
    """One token (1, 1) from logits (1, 1, vocab_size), as generation_config.json asks."""
    best, tokens = (logits[0, -1].float() / TEMPERATURE).topk(TOP_K)
    weights = best.softmax(-1)
    weights[weights.cumsum(-1) - weights >= TOP_P] = 0
    return tokens[weights.multinomial(1)][None]


@torch.inference_mode()
def answer(model: torch.nn.Module, prompt: torch.Tensor, num_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from it to the last."""
    start = time.perf_counter()
    out = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    token = sample(out.logits)
    first = time.perf_counter()
    for _ in range(num_tokens - 1):
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        token = sample(out.logits)
    return first - start, time.perf_counter() - first


def warm_up(job: Job, model: torch.nn.Module) -> None:
    answer(model, ids(job, WARM_UP_TOKENS, WARM_UP_SEED), 4)


def about() -> dict[str, Any]:
    return {
        "version": transformers.__version__,
        "settings": f"torch {torch.__version__}, bfloat16, {torch.get_num_threads()} threads",
    }


def decode(job: Job) -> dict[str, Any]:
    model = load(job)
    warm_up(job, model)
    _, decode_s = answer(model, ids(job, job.prompts[0], 0), job.num_tokens)
    return {"tokens_per_s": (job.num_tokens - 1) / decode_s, "about": about()}


def prefill(job: Job) -> dict[str, Any]:
    model = load(job)
    warm_up(job, model)
    measured = []
    for seed, num_tokens in enumerate(job.prompts):
        seconds, _ = answer(model, ids(job, num_tokens, seed), 1)
        measured.append({"tokens": num_tokens, "tokens_per_s": num_tokens / seconds, "parts": []})
    return {"prompts": measured, "about": about()}


def load_task(job: Job) -> dict[str, Any]:
    """From after the imports to a loaded model, and on to the first token of a short question."""
    start = time.perf_counter()
    model = load(job)
    loaded_s = time.perf_counter() - start
    answer(model, ids(job, LOAD_PROMPT_TOKENS, 0), 1)
    first_token_s = time.perf_counter() - start
    return {"loaded_s": loaded_s, "first_token_s": first_token_s, "memory": memory(), "about": about()}


@torch.inference_mode()
def vision(job: Job) -> dict[str, Any]:
    """The tower alone, with random weights of its own: nothing of the text model is read."""
    torch.set_num_threads(job.num_threads)
    config = transformers.AutoConfig.from_pretrained(Path(job.model)).vision_config
    tower = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    encode(tower, config, (64, 64))
    reset_peak()
    before = memory()["resident"]
    figures = encode(tower, config, job.picture)
    return figures | {"added_bytes": memory()["peak"] - before, "about": about()}


def encode(tower: torch.nn.Module, config: Any, picture: tuple[int, int]) -> dict[str, Any]:
    """Random patches of a picture of that size, its sides rounded to whole tokens."""
    side = config.patch_size * config.spatial_merge_size
    height, width = (round(length / side) * config.spatial_merge_size for length in picture)
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    generator = np.random.default_rng(0)
    patches = torch.from_numpy(generator.standard_normal((height * width, values), np.float32))
    grid = torch.tensor([[1, height, width]])
    start = time.perf_counter()
    tower(patches.to(torch.bfloat16), grid_thw=grid)
    encode_s = time.perf_counter() - start
    return {
        "encode_s": encode_s,
        "patches": height * width,
        "tokens": height * width // config.spatial_merge_size**2,
    }


if __name__ == "__main__":
    serve({"decode": decode, "prefill": prefill, "load": load_task, "vision": vision})
