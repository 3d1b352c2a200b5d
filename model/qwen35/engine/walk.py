"""A walk through a very long clip: attention sees one window of it, the recurrent state has seen all before.

Each window is a prompt of its own, as if the clip were no longer than that: what stands before the clip (the
head), the window's frame pairs with their time stamps, the question. The head's keys and values stay; those
of a window are dropped when the next one begins, whose positions begin anew behind the head. What goes on
from window to window is the state of the linear-attention layers. So neither memory nor positions grow with
the clip.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

import numpy as np

from qwen35.cache.keys import media_of, prefix_keys
from qwen35.engine.answer import Decode, Steps, next_of
from qwen35.engine.engine import Engine, Read, prepare
from qwen35.engine.request import Request
from qwen35.engine.windows import Windows
from qwen35.events import (
    Event,
    Finished,
    FinishReason,
    Note,
    PictureProgress,
    Prefilled,
    TextDelta,
    Timings,
    Usage,
    WindowAnswered,
)
from qwen35.messages import Clip
from qwen35.processing.processor import ModelInput
from qwen35.processing.video_plan import VideoPlan
from qwen35.state import KVBlocks, ModelState


def walk(engine: Engine, windows: Windows, *, in_each: bool = False, is_one_of_many: bool = False) -> Steps:
    """Answer once, in the last window, or `in_each` of them: then each answer is told with its seconds.

    As `Engine.steps`, for whoever runs it. The state at the end of a walk is kept, for another question about
    it, but for that of one of many.
    """
    experts, layers = engine.backend.expert_use, engine.backend.layer_use
    account = _Account(time.perf_counter(), windows.num_tokens)
    cache = None if in_each else engine.cache  # it would take a state of each window
    state, key, num_tokens = None, "", 0
    if cache:
        key, num_tokens, window = _trail(engine, windows, cache.model)
        state = cache.find_walked(key, window.end)
    if state:
        account.reuse(num_tokens)
        yield from window.notes()
    else:
        account.miss_reason = "this walk has not been made before" if cache else None
        state, window = yield from _through(engine, windows, account, in_each=in_each)
        if cache and not is_one_of_many:
            label = f"{len(windows.plans)} windows of {windows.clip.source}"
            cache.keep_walked(key, state, num_tokens, label)
    yield from account.answer(engine, window, state, tells_window=in_each)
    yield replace(
        account.finished(),
        experts=use.since(experts) if experts and (use := engine.backend.expert_use) else None,
        layers=use.since(layers) if layers and (use := engine.backend.layer_use) else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """One window's question. Its pairs and time stamps are the tokens [start, end) of the `prompt`."""

    request: Request
    prompt: ModelInput
    plan: VideoPlan
    start: int
    end: int

    @classmethod
    def of(cls, engine: Engine, windows: Windows, index: int, clip: Clip) -> "_Window":
        """Of the seconds of `clip`, which is that of the `windows`, or stands for it."""
        request, plan = windows.request_of(index, clip), windows.plans[index]
        prompt = prepare(engine.processor, request)
        pairs = [span for span in prompt.media if span.clip]
        place, end = pairs[0].start, pairs[-1].end
        start, stamp = place, plan.timestamp(0)
        decode = engine.processor.tokenizer.decode
        while start and stamp not in decode(prompt.ids[start:place].tolist(), skip_special=False):
            start -= 1
        end += int(prompt.ids[end] == engine.processor.config.vision_end_token_id)
        return cls(request, prompt, plan, start, end)

    def notes(self) -> Iterator[Note]:
        """But for that on the plan of the clip: the walk as a whole has been told."""
        plans = {clip.note for clip in self.prompt.clips}
        yield from (Note(note) for note in self.prompt.notes if note not in plans)


def _trail(engine: Engine, windows: Windows, model: str) -> tuple[str, int, _Window]:
    """The key of what a walk has seen at its end, how many tokens that is, and the last window.

    To a window, all that was seen before is a part of the model that sees it.
    """
    key, num_tokens = model, 0
    for index in range(len(windows.plans)):
        window = _Window.of(engine, windows, index, windows.clip)
        ids, end = window.prompt.ids, window.end
        key = prefix_keys(key, ids, media_of(window.prompt), [end])[end]
        num_tokens += end - window.start if index else end
    return key, num_tokens, window


def _through(
    engine: Engine, windows: Windows, account: "_Account", *, in_each: bool
) -> Generator[Event | Decode, np.ndarray | None, tuple[ModelState, _Window]]:
    """Move a state through all windows, and answer in those before the last where that is asked for."""
    heard = {*windows.clip.notes()}
    clip = _OnePass(windows.clip, windows.plans)
    head = state = None
    num_seen = 0
    for index, plan in enumerate(windows.plans):
        window = _Window.of(engine, windows, index, clip)
        start, end = window.start, window.end
        if head is None:
            yield from window.notes()
            head = state = account.take(start, (yield from engine.read(window.prompt, start)))
        assert state is not None
        state = _without_windows(state, head)
        assert state.num_tokens == start, "what stands before the clip is not the same in each window"
        before, total = (0, plan.num_tokens) if in_each else (num_seen, windows.num_tokens)
        reading = _as_part(engine.read(window.prompt, end, state), before, total)
        state = account.take(end - start, (yield from reading))
        num_seen += plan.num_tokens
        if in_each and index < len(windows.plans) - 1:
            yield from account.answer(engine, window, state, tells_window=True)
    assert state is not None
    yield from (Note(note) for note in windows.clip.notes() if note not in heard)
    return state, window


def _without_windows(state: ModelState, head: ModelState) -> ModelState:
    """Keys and values of the `head` alone, and what linear attention remembers of all in `state`."""
    left = head.fork()
    for index, memory in enumerate(state.layers):
        if not isinstance(memory, KVBlocks):
            left.layers[index] = memory
    return left


def _as_part(
    reading: Generator[Event, None, Read], before: int, total: int
) -> Generator[PictureProgress, None, Read]:
    """How far a window is, told as a part of the whole."""
    while True:
        try:
            event = next(reading)
        except StopIteration as stop:
            read: Read = stop.value
            return read
        if isinstance(event, PictureProgress):
            yield PictureProgress(min(before + event.done, total), total)


class _OnePass:
    """A `messages.Clip` whose windows are read one after the other, by one decoder. Mutable."""

    def __init__(self, clip: Clip, plans: Sequence[VideoPlan]) -> None:
        self.source, self.sha256 = clip.source, clip.sha256
        self.height, self.width = clip.height, clip.width
        self.duration, self.fps = clip.duration, clip.fps
        self.num_frames, self.starts = clip.num_frames, clip.starts
        self.notes = clip.notes
        self._clip, self._ahead = clip, [*plans]
        self._size = (0, 0)
        self._frames: Iterator[np.ndarray] = iter(())

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Those of the next window."""
        assert (self._ahead[0].times, self._ahead[0].size) == (tuple(times), size)
        if size != self._size:
            alike = takewhile(lambda plan: plan.size == size, self._ahead)
            self._frames = self._clip.frames([time for plan in alike for time in plan.times], size)
            self._size = size
        del self._ahead[0]
        return islice(self._frames, len(times))


@dataclass(slots=True)
class _Account:
    """What a walk has said and cost so far. Mutable."""

    began: float  # on the clock of time.perf_counter
    video_tokens: int
    text: str = ""
    reasoning: str = ""
    reason: FinishReason = "stop"  # the first one that is not that
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    num_answers: int = 0
    last: Finished | None = None  # of the answers
    miss_reason: str | None = None

    def reuse(self, num_tokens: int) -> None:
        """So many tokens need not be read."""
        self.usage = replace(self.usage, prompt_tokens=num_tokens, cached_tokens=num_tokens)

    def take(self, num_tokens: int, read: Read) -> ModelState:
        """Add what the reading of so many tokens took."""
        self.usage = replace(self.usage, prompt_tokens=self.usage.prompt_tokens + num_tokens)
        self._spend(read.media_s, read.prefill_s, 0.0)
        return read.state

    def answer(self, engine: Engine, window: _Window, state: ModelState, *, tells_window: bool) -> Steps:
        """The steps of one answer, which leaves `state` as it is, as those of the walk."""
        asked_s = time.perf_counter() - self.began
        prompt, plan = window.prompt, window.plan
        self.usage = replace(
            self.usage,
            prompt_tokens=self.usage.prompt_tokens + len(prompt.ids) - window.end,
            image_tokens=prompt.image_tokens,
        )
        is_begun = not tells_window
        # A second answer would have to see the window again, and that has gone by.
        request = replace(window.request, fault=None)
        logits = None
        with closing(engine.steps(request, prompt, state=state.fork())) as steps:
            while (event := next_of(steps, logits)) is not None:
                logits = None
                if not is_begun and isinstance(event, TextDelta | Finished):
                    line = "\n" if self.text else ""
                    yield self._say(f"{line}- {plan.range}: ")
                    is_begun = True
                match event:
                    case Decode():
                        logits = yield event
                    case Note(text) if text in prompt.notes:
                        pass
                    case Prefilled():
                        seconds = time.perf_counter() - self.began
                        total, cached = self.usage.prompt_tokens, self.usage.cached_tokens
                        yield Prefilled(total, cached, seconds, self.miss_reason)
                    case TextDelta(text):
                        yield self._say(text)
                    case Finished():
                        self._end(event, asked_s)
                        if tells_window:
                            yield WindowAnswered(plan.start, plan.end, event.answer, event.reason)
                    case _:
                        yield event

    def finished(self) -> Finished:
        times, usage = self.timings, replace(self.usage, video_tokens=self.video_tokens)
        read = usage.prompt_tokens - usage.cached_tokens
        decoded = usage.completion_tokens - self.num_answers  # the first token of each came out of a prefill
        times = replace(
            times,
            prefill_tokens_per_s=read / times.prefill_s if times.prefill_s else 0.0,
            decode_tokens_per_s=decoded / times.decode_s if times.decode_s else 0.0,
        )
        assert self.last is not None
        return replace(
            self.last,
            reason=self.reason,
            answer=self.text,
            reasoning=self.reasoning,
            usage=usage,
            timings=times,
            token_ids=(),
        )

    def _say(self, text: str) -> TextDelta:
        self.text += text
        return TextDelta(text)

    def _end(self, event: Finished, asked_s: float) -> None:
        self.num_answers += 1
        self.last = event
        self.reasoning += event.reasoning
        self.reason = event.reason if self.reason == "stop" else self.reason
        self.usage = replace(
            self.usage,
            completion_tokens=self.usage.completion_tokens + event.usage.completion_tokens,
            reasoning_tokens=self.usage.reasoning_tokens + event.usage.reasoning_tokens,
        )
        self._spend(event.timings.media_s, event.timings.prefill_s, event.timings.decode_s)
        if self.num_answers == 1:
            self.timings = replace(self.timings, first_token_s=asked_s + event.timings.first_token_s)

    def _spend(self, media_s: float, prefill_s: float, decode_s: float) -> None:
        times = self.timings
        self.timings = replace(
            times,
            media_s=times.media_s + media_s,
            prefill_s=times.prefill_s + prefill_s,
            decode_s=times.decode_s + decode_s,
        )
