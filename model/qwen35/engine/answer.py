"""One answer, token by token: what is drawn, what is said of it, and when it is over.

It runs no model. Whoever does (one request alone, a batch, a speculation) gives it logits and asks it which
token to decode next; so an answer is the same whatever runs beside it.
"""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from qwen35.engine.grammar import Constraint
from qwen35.engine.loops import LoopDetector
from qwen35.engine.request import GenerationDefaults, Request
from qwen35.engine.sampler import Sampler, log_probability
from qwen35.engine.speech import Speech
from qwen35.events import Event, FinishReason, Note, ReasoningDelta, TextDelta, TokenLogprob
from qwen35.messages import Message, TextPart
from qwen35.processing.processor import ModelInput
from qwen35.processing.token_log import THINK_END
from qwen35.processing.tokenizer import Tokenizer
from qwen35.state import ModelState

ANSWER_RESERVE = 1024  # tokens that thinking leaves to the answer, where so many are a quarter of all


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """A request's wish, to whoever runs the model: move `state` past `before` and then `token`, and send back
    the logits (vocab_size,) of what follows."""

    state: ModelState
    token: int
    before: tuple[int, ...] = ()  # that were forced, whose logits nobody needs


# What a request yields to whoever runs it, and is sent: logits (vocab_size,) after a Decode, else nothing.
Steps = Generator[Event | Decode, np.ndarray | None, None]


def next_of(steps: Steps, sent: np.ndarray | None) -> Event | Decode | None:
    """None at the end."""
    try:
        return steps.send(sent)
    except StopIteration:
        return None


class Answer:
    """Mutable, for one request: from the logits after its prompt to its end.

    While it `goes_on` it `take`s logits, and `token` is what they became, to be decoded next, after those
    `before` it. A `constraint` counts from where the answer begins: after `</think>` where there is thinking.
    """

    def __init__(
        self,
        request: Request,
        prompt: ModelInput,
        tokenizer: Tokenizer,
        defaults: GenerationDefaults,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> None:
        self.written: list[int] = []  # without the token that ended it
        self.count = 0  # tokens, with it
        self.token = -1
        self.before: tuple[int, ...] = ()
        self.goes_on = max_tokens > 0
        self.reason: FinishReason = "length"
        self.first_token_at = 0.0  # on the clock of time.perf_counter
        self.speech = Speech(tokenizer, starts_in_reasoning=prompt.starts_in_reasoning, stop=request.stop)
        self._tokenizer, self._stop_ids = tokenizer, defaults.stop_ids
        self._max_tokens = max_tokens
        most = max_tokens - min(ANSWER_RESERVE, max_tokens // 4)
        self._thinking_budget = (
            most if request.thinking_budget is None else min(most, request.thinking_budget)
        )
        self._constraint, self._is_armed = constraint, False
        self._loops = LoopDetector(tokenizer.decode) if request.ends_loops else None
        self._is_circular = False
        self.logprobs: list[TokenLogprob] | None = [] if request.logprobs else None
        self._logprob: float | None = None  # of what was drawn last; None of what was forced
        params = request.sampling.over(defaults.sampling)
        self._sampler = Sampler(params, tokenizer.size, prompt.ids, request.seed)

    def take(self, logits: np.ndarray) -> Iterator[ReasoningDelta | TextDelta | Note]:
        """Let logits (vocab_size,) float32 become the next token, and what is forced to follow it come at
        once; what there is to say of them."""
        assert self.goes_on
        first = self.count
        tokens = self._forced() or self._drawn(logits)
        while tokens and self.goes_on:
            for token in tokens:
                yield from self._add(token)
                if not self.goes_on:
                    break
            else:
                tokens = self._forced()
        self.token = self.written[-1] if self.written else -1
        self.before = tuple(self.written[first:-1])
        if not self.goes_on and self._constraint and (fault := self._constraint.error):
            yield Note(f"the grammar is too much for its parser, and the answer ends here: {fault}")

    def finish(self) -> Iterator[ReasoningDelta | TextDelta]:
        """What was held back until it was clear that nothing follows."""
        return self.speech.finish()

    @property
    def message(self) -> Message:
        """The answer as a conversation keeps it."""
        speech = self.speech
        return Message("assistant", (TextPart(speech.answer),), speech.reasoning or None, tuple(self.written))

    def _drawn(self, logits: np.ndarray) -> list[int]:
        """The one place where the model's word becomes a token: what restricts an answer does it here."""
        allowed = self._constraint.allowed() if self._constraint and self._is_armed else None
        if allowed is not None and not allowed.any():
            self._end("schema")
            return []
        token = self._sampler.draw(logits, allowed)
        if self.logprobs is not None:
            self._logprob = log_probability(logits[: self._tokenizer.size], token)
        if self.speech.is_reasoning and token in self._stop_ids:
            return self._close_thinking()  # an end within thoughts would be an end without an answer
        return [token]

    def _forced(self) -> list[int]:
        """What comes next whatever the model says; nothing where it has the word."""
        if self.speech.is_reasoning:
            is_spent = self.speech.num_reasoning_tokens >= self._thinking_budget
            return self._close_thinking() if is_spent or self._is_circular else []
        if self._constraint is None:
            return []
        if not self._is_armed:
            if self.written and self.written[-1] == self.speech.think_end_id:
                return self._tokenizer.encode("\n\n")  # as templates write it; no part of the answer
            self._is_armed = True
        return self._constraint.forced()

    def _close_thinking(self) -> list[int]:
        return self._tokenizer.encode(f"\n{THINK_END}\n\n")

    def _add(self, token: int) -> Iterator[ReasoningDelta | TextDelta | Note]:
        self.count += 1
        self.first_token_at = self.first_token_at or time.perf_counter()
        if token in self._stop_ids:
            self._end("stop")
            return
        self.written.append(token)
        was_reasoning = self.speech.is_reasoning
        if self.logprobs is not None and not was_reasoning:
            self.logprobs.append(TokenLogprob(self._tokenizer.decode([token]), self._logprob))
        self._logprob = None
        yield from self.speech.push(token)
        is_loop = self._loops is not None and self._loops.push(token)
        if was_reasoning and is_loop and not self._is_circular:
            self._is_circular = True  # of thoughts in a circle an answer may still come
            yield Note("the thinking went round in circles and was ended; the answer follows")
        if was_reasoning and not self.speech.is_reasoning and self._loops:
            self._loops.forget()
        constraint = self._constraint if self._is_armed else None
        if constraint:
            constraint.push(token)
        if self.speech.is_stopped or (constraint and constraint.is_over):
            self._end("stop")
        elif is_loop and not was_reasoning:
            self._end("loop")
        elif self.count == self._max_tokens:
            self.goes_on = False

    def _end(self, reason: FinishReason) -> None:
        self.goes_on = False
        is_whole = self._constraint is None or self._constraint.is_complete
        self.reason = reason if is_whole or reason != "stop" else "schema"
