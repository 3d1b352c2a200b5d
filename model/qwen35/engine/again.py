"""One more try for an answer that is not what was asked for, with what is wrong with it."""

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qwen35.engine.answer import Steps, next_of
from qwen35.engine.request import Request
from qwen35.errors import DoesNotFit
from qwen35.events import Finished, Note, Prefilled
from qwen35.messages import Message, TextPart

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine


def asked_again(engine: "Engine", request: Request, first: Steps, *, is_one_of_many: bool) -> Steps:
    """The steps of a `first` answer; where the request finds a fault in it, a note and a second one.

    Of an answer without a second chance (it was cut, or the context holds no more) nothing is said here.
    """
    assert request.fault is not None
    sent: np.ndarray | None = None
    with closing(first):
        while (step := next_of(first, sent)) is not None:
            fault = (
                request.fault(step.answer) if isinstance(step, Finished) and step.reason == "stop" else None
            )
            if fault is not None:
                assert isinstance(step, Finished)
                yield Note(f"asked again, as the answer was not right: {fault}")
                second = _corrected(request, step, fault)
                yield from _second(engine.steps(second, is_one_of_many=is_one_of_many), step)
                return
            sent = yield step


def _corrected(request: Request, first: Finished, fault: str) -> Request:
    said = Message("assistant", (TextPart(first.answer),), first.reasoning or None, first.token_ids)
    told = Message.of_text("user", f"That is not right: {fault}. Answer again, corrected, in the same form.")
    return replace(request, messages=(*request.messages, said, told), fault=None)


def _second(second: Steps, first: Finished) -> Steps:
    sent: np.ndarray | None = None
    with closing(second):
        try:
            step = next_of(second, None)
        except DoesNotFit:
            yield first
            return
        while step is not None:
            sent = None
            if isinstance(step, Finished):
                yield _with_both(step, first)
            elif not isinstance(step, Note | Prefilled):  # the same pictures again
                sent = yield step
            step = next_of(second, sent)


def _with_both(second: Finished, first: Finished) -> Finished:
    """The `second` answer, with the tokens that both have taken."""
    usage = replace(
        second.usage,
        completion_tokens=first.usage.completion_tokens + second.usage.completion_tokens,
        reasoning_tokens=first.usage.reasoning_tokens + second.usage.reasoning_tokens,
    )
    return replace(second, usage=usage)
