"""One request from messages to events: prepare, prefill in chunks, then draw, tell, decode."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from qwen35.backends.base import Backend
from qwen35.cache.cache import Found, StateCache
from qwen35.cache.prompt import PromptCache
from qwen35.engine.again import asked_again
from qwen35.engine.answer import Answer, Decode, Steps, next_of
from qwen35.engine.features import Features
from qwen35.engine.grammar import Grammars
from qwen35.engine.request import GenerationDefaults, Request
from qwen35.engine.speculation import Speculating, Speculation
from qwen35.errors import DoesNotFit
from qwen35.events import (
    Event,
    Finished,
    Note,
    Prefilled,
    PrefillProgress,
    Timings,
    Usage,
)
from qwen35.messages import Message
from qwen35.processing.processor import ModelInput, Processor
from qwen35.state import ModelState

# Of a prompt's end, what drafts look back at: all of a long prompt would cost another layer's attention.
HEARD_TOKENS = 1024


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
    grammars: Grammars
    cache: StateCache | None = None
    speculating: Speculating | None = None

    @property
    def backend_name(self) -> str:
        """What it runs on, for people."""
        return self.backend.name

    def close(self, *, abandon: bool = False) -> list[str]:
        """Wait until what was computed is saved (or not: `abandon`), and let go of the weights.

        Returns notes on what went wrong. To close twice is nothing.
        """
        notes = self.cache.close(abandon=abandon) if self.cache else []
        self.backend.close()
        return notes

    def generate(
        self, request: Request, prompt: ModelInput | None = None, *, state: ModelState | None = None
    ) -> Generator[Event]:
        """Answer one request, whose `prompt` the caller may have prepared already; `state` as `steps` has it.

        Closing the iterator ends the work and frees its state.
        """
        return self.run(self.steps(request, prompt, state=state))

    def run(self, steps: Steps) -> Generator[Event]:
        """The events of one request's `steps`, which runs alone."""
        with closing(steps), ExitStack() as ending:
            logits: np.ndarray | None = None
            speculation: Speculation | None = None
            while (step := next_of(steps, logits)) is not None:
                if not isinstance(step, Decode):
                    if isinstance(step, Finished) and speculation:
                        step = replace(step, speculated=speculation.use)
                    yield step
                    logits = None
                    continue
                if speculation and not speculation.is_of(step.state):  # of an answer before: this is another
                    ending.close()
                    speculation = None
                if speculation is None and self.speculating and self.speculating.may_pay:
                    speculation = self.speculating.begin(self.backend, step.state)
                    ending.callback(speculation.close)
                if speculation:
                    logits = speculation.decode((*step.before, step.token))
                else:
                    logits = decode(self.backend, [step])[0]

    def steps(
        self,
        request: Request,
        prompt: ModelInput | None = None,
        *,
        state: ModelState | None = None,
        is_one_of_many: bool = False,
    ) -> Steps:
        """A request from its prompt to its end, for whoever runs it, alone or beside others.

        It yields events, and `Decode` where it needs the logits of a next token, which are to be sent. Of
        `is_one_of_many`, states are kept as `StateCache.open` says. It goes on from a `state` of the prompt's
        first tokens where one is given, which it then owns, and keeps none. An answer in which the request
        finds a fault is asked for once more.
        """
        first = self._answer(request, prompt, state, is_one_of_many)
        if request.fault is None:
            return first
        return asked_again(self, request, first, is_one_of_many=is_one_of_many)

    def _answer(
        self, request: Request, prompt: ModelInput | None, state: ModelState | None, is_one_of_many: bool
    ) -> Steps:
        start = time.perf_counter()
        if request.grammar:
            self.grammars.begin()  # beside the reading of the prompt
        experts, layers = self.backend.expert_use, self.backend.layer_use
        prompt = prompt or prepare(self.processor, request)
        for note in prompt.notes:
            yield Note(note)
        num_prompt = len(prompt.ids)
        room = context_limit(self.processor, request) - num_prompt
        limit = room if request.max_tokens is None else min(request.max_tokens, room)

        saved = None
        if self.cache and state is None:
            saved = self.cache.open(prompt, is_one_of_many=is_one_of_many)
        found = saved.found if saved else Found(state, state.num_tokens if state else 0, None)
        heard = {note for clip in prompt.clips for note in clip.clip.notes()}
        drafts = self.speculating is not None and self.speculating.may_pay and not is_one_of_many
        read = yield from self.read(prompt, num_prompt, found.state, saved, is_heard=drafts)
        for clip in prompt.clips:
            for note in clip.clip.notes():
                if note not in heard:  # a clip may be asked about again
                    yield Note(note)
        prefilled = time.perf_counter()
        yield Prefilled(num_prompt, found.num_tokens, prefilled - start, found.reason)
        if saved:
            saved.keep_prompt()

        constraint = self.grammars.constraint(request.grammar) if request.grammar else None
        answer = Answer(request, prompt, self.processor.tokenizer, self.defaults, limit, constraint)
        if answer.goes_on:
            yield from answer.take(read.logits)
        while answer.goes_on:
            logits = yield Decode(read.state, answer.token, answer.before)
            assert logits is not None
            yield from answer.take(logits)
        yield from answer.finish()
        now = time.perf_counter()
        if saved and self.processor.is_kept(
            request.messages, answer.message, enable_thinking=request.thinking
        ):
            saved.keep_written(read.state, answer.written)
        for note in self.cache.take_notes() if self.cache else []:
            yield Note(note)
        speech = answer.speech
        yield Finished(
            answer.reason,
            speech.answer,
            speech.reasoning,
            Usage(
                prompt_tokens=num_prompt,
                cached_tokens=found.num_tokens,
                image_tokens=prompt.image_tokens,
                video_tokens=prompt.video_tokens,
                completion_tokens=answer.count,
                reasoning_tokens=speech.num_reasoning_tokens,
            ),
            _rates(
                Timings(
                    media_s=read.media_s,
                    prefill_s=read.prefill_s,
                    first_token_s=answer.first_token_at - start if answer.count else 0.0,
                    decode_s=now - prefilled,
                ),
                num_prompt - found.num_tokens,
                answer.count,
            ),
            tuple(answer.written),
            use.since(experts) if experts and (use := self.backend.expert_use) else None,
            use.since(layers) if layers and (use := self.backend.layer_use) else None,
            None if answer.logprobs is None else tuple(answer.logprobs),
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
            self._warm_up(prompt)
            return 0
        reading = self.read(prompt, end, saved.found.state, saved)
        while is_wanted():
            try:
                next(reading)
            except StopIteration as stop:
                saved.keep(stop.value.state)
                return end - first
        return 0

    def _warm_up(self, prompt: ModelInput) -> None:
        """Run a token through a model that may not have run yet: a first pass builds what the others find.

        Not where that would read experts or layers from the disk, in the place of those that are there.
        """
        if self.backend.expert_use is None and self.backend.layer_use is None:
            self.backend.prefill(self.backend.new_state(), prompt.ids[:1], prompt.position_ids[:, :1], None)

    def read(
        self,
        prompt: ModelInput,
        num_tokens: int,
        state: ModelState | None = None,
        saved: PromptCache | None = None,
        *,
        is_heard: bool = False,
    ) -> Generator[Event, None, Read]:
        """Bring a state to the first `num_tokens` tokens of the prompt, from where `state` is.

        What drafts later hears of the last of them where `is_heard`.
        """
        with self.cache.held_back() if self.cache else nullcontext():
            seconds = 0.0
            state = state or self.backend.new_state()
            first = state.num_tokens
            features = Features(self.backend, prompt, first, saved)
            state.mrope_delta = prompt.mrope_delta
            logits = np.empty(0, np.float32)
            boundaries = saved.boundaries if saved else ()
            for end in _chunk_ends(self.backend.prefill_chunk, first, num_tokens, boundaries):
                yield from features.make(end)
                start, begin = time.perf_counter(), state.num_tokens
                if is_heard and end > num_tokens - HEARD_TOKENS:
                    self.backend.look_ahead(state)
                rows = features.take(begin, end)
                ids, position_ids = prompt.ids[begin:end], prompt.position_ids[:, begin:end]
                logits = self.backend.prefill(state, ids, position_ids, rows)
                if saved and end in boundaries:
                    saved.keep(state)
                seconds += time.perf_counter() - start  # not what runs between the pieces
                if not features.is_under_way:  # else that is what takes the time, and what tells of it
                    yield PrefillProgress(end, num_tokens)
        return Read(state, logits, features.seconds, seconds)


def decode(backend: Backend, wishes: Sequence[Decode]) -> list[np.ndarray]:
    """The logits (vocab_size,) that `wishes` want: one token of each in one step, forced ones in one of their
    own. Which way a token goes changes none of its bits."""
    single = [wish for wish in wishes if not wish.before]
    tokens = np.array([wish.token for wish in single])
    rows = iter(backend.decode([wish.state for wish in single], tokens) if single else ())
    return [next(rows) if not wish.before else _decode_forced(backend, wish) for wish in wishes]


def _decode_forced(backend: Backend, wish: Decode) -> np.ndarray:
    ids = np.array([*wish.before, wish.token])
    first = wish.state.num_tokens + wish.state.mrope_delta
    position_ids = np.tile(np.arange(first, first + len(ids)), (3, 1))
    return backend.prefill(wish.state, ids, position_ids, None)


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
