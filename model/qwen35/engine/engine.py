"""One request from messages to events: prepare, prefill in chunks, then draw, tell, decode."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from qwen35.backends.base import Backend
from qwen35.cache.cache import Found, PromptCache, StateCache
from qwen35.engine.features import Features
from qwen35.engine.request import GenerationDefaults, Request
from qwen35.engine.sampler import Sampler
from qwen35.engine.speech import Speech
from qwen35.errors import DoesNotFit
from qwen35.events import (
    Event,
    Finished,
    FinishReason,
    Note,
    Prefilled,
    PrefillProgress,
    Timings,
    Usage,
)
from qwen35.messages import Message, TextPart
from qwen35.processing.processor import ModelInput, Processor
from qwen35.processing.token_log import THINK_END
from qwen35.state import ModelState


def prepare(processor: Processor, request: Request) -> ModelInput:
    """The prompt as the model will get it; needs no model, so that what cannot be asked is said early.

    Raises InputError, and DoesNotFit beyond the context.
    """
    prompt = processor.prepare(
        request.messages, enable_thinking=request.thinking, image_bounds=request.image_bounds
    )
    limit = context_limit(processor, request)
    if len(prompt.ids) >= limit:
        raise DoesNotFit(
            f"The prompt has {len(prompt.ids):,} tokens, the context holds {limit:,}. Shorten it, "
            "use smaller pictures (--image-tokens), less of a clip (--video-tokens) or fewer pages, or raise "
            "--ctx if the model allows."
        )
    return prompt


def context_limit(processor: Processor, request: Request) -> int:
    """Tokens of prompt and answer together."""
    limit = processor.config.text.max_position_embeddings
    return limit if request.max_context is None else min(limit, request.max_context)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A prompt that went through the model: its state, the logits after its last token, seconds."""

    state: ModelState
    logits: np.ndarray
    media_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """Owns the model (through its backend) and what turns words into tokens. Holds no conversation."""

    backend: Backend
    processor: Processor
    defaults: GenerationDefaults
    cache: StateCache | None = None

    def close(self, *, abandon: bool = False) -> list[str]:
        """Wait until what was computed is saved (or not: `abandon`). Returns notes on what went wrong."""
        notes = self.cache.close(abandon=abandon) if self.cache else []
        self.backend.close()
        return notes

    def generate(self, request: Request, prompt: ModelInput | None = None) -> Generator[Event]:
        """Answer one request, whose `prompt` the caller may have prepared already.

        Closing the iterator ends the work and frees its state.
        """
        start = time.perf_counter()
        experts, layers = self.backend.expert_use, self.backend.layer_use
        prompt = prompt or prepare(self.processor, request)
        for note in prompt.notes:
            yield Note(note)
        num_prompt = len(prompt.ids)
        room = context_limit(self.processor, request) - num_prompt
        limit = room if request.max_tokens is None else min(request.max_tokens, room)

        saved = self.cache.open(prompt) if self.cache else None
        found = saved.found if saved else Found(None, 0, None)
        heard = {note for clip in prompt.clips for note in clip.clip.notes()}
        read = yield from self._read(prompt, saved, num_prompt)
        state, logits = read.state, read.logits
        for clip in prompt.clips:
            for note in clip.clip.notes():
                if note not in heard:  # a clip may be asked about again
                    yield Note(note)
        prefilled = time.perf_counter()
        yield Prefilled(num_prompt, found.num_tokens, prefilled - start, found.reason)
        if saved:
            saved.keep_prompt()

        speech = Speech(
            self.processor.tokenizer, starts_in_reasoning=prompt.starts_in_reasoning, stop=request.stop
        )
        params = request.sampling.over(self.defaults.sampling)
        sampler = Sampler(params, self.processor.tokenizer.size, prompt.ids, request.seed)
        forced: list[int] = []
        written: list[int] = []
        count, first_token_s = 0, 0.0
        reason: FinishReason = "length"
        while count < limit:
            if not forced and self._is_budget_spent(request, speech):
                forced = self.processor.tokenizer.encode(f"\n{THINK_END}\n\n")
            token = forced.pop(0) if forced else sampler.draw(logits)
            count += 1
            first_token_s = first_token_s or time.perf_counter() - start
            if token in self.defaults.stop_ids:
                reason = "stop"
                break
            written.append(token)
            yield from speech.push(token)
            if speech.is_stopped:
                reason = "stop"
                break
            if count < limit:
                logits = self.backend.decode([state], np.array([token]))[0]
        yield from speech.finish()
        now = time.perf_counter()
        answer = Message("assistant", (TextPart(speech.answer),), speech.reasoning or None, tuple(written))
        if saved and self.processor.is_kept(request.messages, answer, enable_thinking=request.thinking):
            saved.keep_written(state, written)
        for note in self.cache.take_notes() if self.cache else []:
            yield Note(note)
        yield Finished(
            reason,
            speech.answer,
            speech.reasoning,
            Usage(
                prompt_tokens=num_prompt,
                cached_tokens=found.num_tokens,
                image_tokens=prompt.image_tokens,
                video_tokens=prompt.video_tokens,
                completion_tokens=count,
                reasoning_tokens=speech.num_reasoning_tokens,
            ),
            _rates(
                Timings(
                    media_s=read.media_s,
                    prefill_s=read.prefill_s,
                    first_token_s=first_token_s,
                    decode_s=now - prefilled,
                ),
                num_prompt - found.num_tokens,
                count,
            ),
            tuple(written),
            use.since(experts) if experts and (use := self.backend.expert_use) else None,
            use.since(layers) if layers and (use := self.backend.layer_use) else None,
        )

    def read_ahead(self, request: Request, is_wanted: Callable[[], bool]) -> int:
        """Bring the saved state of a conversation to its end, where the user's next message will begin.

        A template may show a past answer otherwise than it was written (without its reasoning): what that
        leaves to compute is computed here, while the user reads and types. It stops between two steps when
        it `is_wanted` no more. Returns the tokens computed. Without a cache nothing is done.
        """
        if self.cache is None:
            return 0
        to_come = Message.of_text("user", "-")  # whatever it will say: the state ends before it
        prompt = prepare(self.processor, replace(request, messages=(*request.messages, to_come)))
        starts = [n for n in prompt.boundaries if n not in prompt.document_ends]
        saved = self.cache.open(prompt)
        first = saved.found.num_tokens
        if len(starts) < 2 or (end := starts[-2]) <= first:  # the last one is that of the answer
            return 0
        reading = self._read(prompt, saved, end)
        while is_wanted():
            try:
                next(reading)
            except StopIteration as stop:
                saved.keep(stop.value.state)
                return end - first
        return 0

    def _read(
        self, prompt: ModelInput, saved: PromptCache | None, num_tokens: int
    ) -> Generator[Event, None, Read]:
        """Bring a state to the first `num_tokens` tokens of the prompt, from where a saved one is."""
        found = saved.found if saved else Found(None, 0, None)
        with self.cache.held_back() if self.cache else nullcontext():
            start = time.perf_counter()
            features = Features(self.backend, prompt, found.num_tokens, saved)
            state = found.state or self.backend.new_state()
            state.mrope_delta = prompt.mrope_delta
            logits = np.empty(0, np.float32)
            boundaries = saved.boundaries if saved else ()
            for end in _chunk_ends(self.backend.prefill_chunk, found.num_tokens, num_tokens, boundaries):
                yield from features.make(end)
                begin = state.num_tokens
                rows = features.take(begin, end)
                ids, position_ids = prompt.ids[begin:end], prompt.position_ids[:, begin:end]
                logits = self.backend.prefill(state, ids, position_ids, rows)
                if saved and end in boundaries:
                    saved.keep(state)
                if not features.is_under_way:  # else that is what takes the time, and what tells of it
                    yield PrefillProgress(end, num_tokens)
        return Read(state, logits, features.seconds, time.perf_counter() - start - features.seconds)

    def _is_budget_spent(self, request: Request, speech: Speech) -> bool:
        budget = request.thinking_budget
        return budget is not None and speech.is_reasoning and speech.num_reasoning_tokens >= budget


def _chunk_ends(chunk: int, start: int, num_tokens: int, boundaries: Sequence[int]) -> list[int]:
    """Where prefill pauses: at absolute multiples of the chunk, and where states are kept."""
    ends = {*range(chunk, num_tokens, chunk), *boundaries, num_tokens}
    return sorted(end for end in ends if start < end <= num_tokens)


def _rates(timings: Timings, num_prompt: int, num_generated: int) -> Timings:
    # The first token comes out of the prefill: decoding made one fewer.
    return replace(
        timings,
        prefill_tokens_per_s=num_prompt / timings.prefill_s if timings.prefill_s else 0.0,
        decode_tokens_per_s=(num_generated - 1) / timings.decode_s
        if num_generated > 1 and timings.decode_s
        else 0.0,
    )
