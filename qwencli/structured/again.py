"""One more try for an answer that is not what was asked for, with what is wrong with it."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from qwen35.errors import DoesNotFit
from qwen35.events import Event, Finished, Note, Prefilled
from qwen35.messages import Message, TextPart

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwen35.engine.request import Request
    from qwencli.structured.form import Form


def asked_again(
    engine: "Engine", request: "Request", first: Generator[Event], form: "Form"
) -> Generator[Event]:
    """The events of a `first` answer; where a value in it is wrong, a note and a second one in its place."""
    with closing(first) as events:
        yield from _checked(engine, request, events, form)


def _checked(engine: "Engine", request: "Request", events: Iterator[Event], form: "Form") -> Iterator[Event]:
    for event in events:
        fault = form.fault(event.answer) if isinstance(event, Finished) and event.reason == "stop" else None
        if fault is None:
            yield event
            continue
        assert isinstance(event, Finished)
        yield Note(f"asked again, as the answer was not right: {fault}")
        yield from _second(engine, request, event, fault)


def _second(engine: "Engine", request: "Request", first: Finished, fault: str) -> Iterator[Event]:
    said = Message("assistant", (TextPart(first.answer),), first.reasoning or None, first.token_ids)
    told = Message.of_text("user", f"That is not right: {fault}. Answer again, corrected, in the same form.")
    try:
        for event in engine.generate(replace(request, messages=(*request.messages, said, told))):
            if isinstance(event, Finished):
                yield replace(
                    event,
                    usage=replace(
                        event.usage,
                        completion_tokens=first.usage.completion_tokens + event.usage.completion_tokens,
                        reasoning_tokens=first.usage.reasoning_tokens + event.usage.reasoning_tokens,
                    ),
                )
            elif not isinstance(event, Note | Prefilled):  # the same pictures again
                yield event
    except DoesNotFit:
        yield first
