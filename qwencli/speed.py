"""How fast an engine is: prompts of an exact length, answers of an exact length."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qwen35.config import ModelConfig
from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.events import Finished, PrefillProgress, ReasoningDelta, TextDelta
from qwen35.processing.positions import mrope_positions
from qwen35.processing.processor import ModelInput, Processor

OnProgress = Callable[[str, int, int], None]  # what is done, tokens done, tokens in all

_WORDS = (
    "the a of and to in is that it was for on with as by at from this which were are be has "
    "water light house stone number letter river table paper market winter garden question answer "
    "carries opens counts follows writes measures holds turns asks knows green small early exact"
)


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one request. `parts`: prompt tokens that were through after so many seconds."""

    prompt_tokens: int
    prefill_tokens_per_s: float
    first_token_s: float  # from the start of the request
    decode_tokens_per_s: float
    parts: tuple[tuple[int, float], ...]


def measure(
    engine: Engine, prompt: ModelInput, num_tokens: int, on_progress: OnProgress | None = None
) -> Speed:
    """Answer `prompt` with `num_tokens` tokens, sampled as the checkpoint asks and made text."""
    start = time.perf_counter()
    parts: list[tuple[int, float]] = []
    finished, num_heard = None, 0
    for event in endless(engine).generate(Request((), max_tokens=num_tokens), prompt):
        match event:
            case PrefillProgress(done, total):
                parts.append((done, time.perf_counter() - start))
                if on_progress:
                    on_progress("prefill", done, total)
            case TextDelta() | ReasoningDelta():
                num_heard += 1  # some tokens make no text, so this is a little behind
                if on_progress:
                    on_progress("decode", min(num_heard, num_tokens), num_tokens)
            case Finished():
                finished = event
    assert finished is not None
    times = finished.timings
    return Speed(
        finished.usage.prompt_tokens,
        times.prefill_tokens_per_s,
        times.first_token_s,
        times.decode_tokens_per_s,
        tuple(parts),
    )


def endless(engine: Engine) -> Engine:
    """The same engine without end tokens: an answer has as many tokens as are asked for."""
    return replace(engine, defaults=replace(engine.defaults, stop_ids=frozenset()))


def prompt_of_words(processor: Processor, num_tokens: int, seed: int) -> ModelInput:
    """Words in random order, cut to `num_tokens` tokens."""
    words = np.random.default_rng(seed).choice(_WORDS.split(), num_tokens)  # a word is a token or more
    ids = processor.tokenizer.encode(" ".join(words))
    return prompt_of(np.array(ids[:num_tokens], np.int64), processor.config)


def prompt_of(ids: np.ndarray, config: ModelConfig) -> ModelInput:
    """These tokens of text as a prompt, without a chat's marks around them."""
    positions, delta = mrope_positions(ids, config, [])
    return ModelInput(
        prompt="",
        ids=ids,
        position_ids=positions,
        mrope_delta=delta,
        pixel_values=None,
        grid_thw=np.empty((0, 3), np.int64),
        media=(),
        notes=(),
        starts_in_reasoning=False,
    )
