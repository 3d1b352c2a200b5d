"""This project's engine in a process of its own: the Engine that `qwen ask` calls, sampler and text included.

Prompts come prepared, as ids: so that all engines get the same number of tokens.
"""

import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job import (
    LOAD_PROMPT_TOKENS,
    WARM_UP_SEED,
    WARM_UP_TOKENS,
    Job,
    memory,
    prompt_ids,
    reset_peak,
    serve,
)
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request
from qwen35.events import PictureProgress
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.processing.processor import ModelInput
from qwencli.speed import measure, prompt_of


def load(job: Job) -> Engine:
    return load_engine(Path(job.model), device="cpu", load=job.load, num_threads=job.num_threads)


def prompt(job: Job, engine: Engine, num_tokens: int, seed: int) -> ModelInput:
    return prompt_of(prompt_ids(job, num_tokens, seed), engine.processor.config)


def warm_up(job: Job, engine: Engine) -> None:
    measure(engine, prompt(job, engine, WARM_UP_TOKENS, WARM_UP_SEED), 4)


def about(engine: Engine) -> dict[str, Any]:
    return {"version": version("qwen"), "settings": engine.backend.name}


def decode(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm_up(job, engine)
    speed = measure(engine, prompt(job, engine, job.prompts[0], 0), job.num_tokens)
    return {"tokens_per_s": speed.decode_tokens_per_s, "about": about(engine)}


def prefill(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm_up(job, engine)
    measured = []
    for seed, num_tokens in enumerate(job.prompts):
        speed = measure(engine, prompt(job, engine, num_tokens, seed), 1)
        measured.append(
            {"tokens": num_tokens, "tokens_per_s": speed.prefill_tokens_per_s, "parts": speed.parts}
        )
    return {"prompts": measured, "about": about(engine)}


def load_task(job: Job) -> dict[str, Any]:
    """From after the imports to a loaded model, and on to the first token of a short question."""
    start = time.perf_counter()
    engine = load(job)
    loaded_s = time.perf_counter() - start
    measure(engine, prompt(job, engine, LOAD_PROMPT_TOKENS, 0), 1)
    first_token_s = time.perf_counter() - start
    return {
        "loaded_s": loaded_s,
        "first_token_s": first_token_s,
        "memory": memory(),
        "about": about(engine),
    }


def vision(job: Job) -> dict[str, Any]:
    engine = load(job)
    warm = ImagePart(np.zeros((64, 64, 3), np.uint8), "warm-up")
    encode(engine, warm)
    height, width = job.picture
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reset_peak()
    before = memory()["resident"]
    figures = encode(engine, ImagePart(pixels, "noise"))
    return figures | {"added_bytes": memory()["peak"] - before, "about": about(engine)}


def encode(engine: Engine, picture: ImagePart) -> dict[str, Any]:
    """A question about a picture up to where its features are there."""
    start = time.perf_counter()
    request = Request((Message("user", (picture, TextPart("?"))),), max_tokens=1)
    prepared = prepare(engine.processor, request)
    begun = time.perf_counter()
    with closing(engine.generate(request, prepared)) as events:
        next(event for event in events if isinstance(event, PictureProgress))
        encoded = time.perf_counter()
    return {
        "prepare_s": begun - start,
        "encode_s": encoded - begun,
        "patches": len(prepared.pixel_values),
        "tokens": prepared.media[0].length,
    }


if __name__ == "__main__":
    serve({"decode": decode, "prefill": prefill, "load": load_task, "vision": vision})
