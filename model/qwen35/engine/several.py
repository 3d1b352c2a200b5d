"""Several answers to one request: the prompt is read once, and they are written together, a row each."""

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from qwen35.cache.cache import Found
from qwen35.engine.answer import Decode, Steps
from qwen35.engine.engine import Engine, decode, prepare
from qwen35.engine.request import Request
from qwen35.events import Event, Finished, Note, Prefilled
from qwen35.processing.processor import ModelInput


def answer_several(
    engine: Engine, request: Request, prompt: ModelInput | None, num_answers: int
) -> Generator[Event]:
    """The events of a first answer; its Finished comes when all have ended, and holds the `others`.

    They are those that `num_answers` requests of their own would get, with seeds one after another.
    """
    prompt = prompt or prepare(engine.processor, request)
    saved = engine.cache.open(prompt) if engine.cache else None
    found = saved.found if saved else Found(None, 0, None)
    read = yield from engine.read(prompt, len(prompt.ids) - 1, found.state, saved)
    if saved:
        saved.keep_prompt()
    rows = []
    for number in range(num_answers):
        own = request if request.seed is None else replace(request, seed=request.seed + number)
        rows.append(_Row(engine.steps(own, prompt, state=read.state.fork(), is_one_of_many=True)))
    try:
        while any(row.finished is None for row in rows):
            wishes = [row.wish for row in rows if row.wish]
            logits = iter(decode(engine.backend, wishes) if wishes else ())
            for row in rows:
                if row.finished is None:
                    has_begun = row.wish is not None  # what is said before is said of all
                    for event in row.go_on(next(logits) if row.wish else None):
                        if row is not rows[0] and not (has_begun and isinstance(event, Note)):
                            continue
                        if isinstance(event, Prefilled):
                            event = replace(event, cached_tokens=found.num_tokens, miss_reason=found.reason)
                        yield event
    finally:
        for row in rows:
            row.steps.close()
    first, *others = (row.finished for row in rows if row.finished)
    timings = replace(
        first.timings,
        media_s=read.media_s,
        prefill_s=read.prefill_s + first.timings.prefill_s,
        prefill_tokens_per_s=(len(prompt.ids) - found.num_tokens) / read.prefill_s if read.prefill_s else 0.0,
        first_token_s=first.timings.first_token_s + read.media_s + read.prefill_s,
    )
    usage = replace(first.usage, cached_tokens=found.num_tokens)
    yield replace(first, usage=usage, timings=timings, others=tuple(others))


class _Row:
    """One answer's run. Mutable."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.wish: Decode | None = None
        self.finished: Finished | None = None

    def go_on(self, logits: np.ndarray | None) -> list[Event]:
        """What happens until logits are wanted again, or all is over."""
        events: list[Event] = []
        self.wish = None
        while True:
            step = self.steps.send(logits)
            logits = None
            if isinstance(step, Decode):
                self.wish = step
                return events
            if isinstance(step, Finished):
                self.finished = step
                return events
            events.append(step)
