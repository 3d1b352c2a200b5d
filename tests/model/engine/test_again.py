"""A second chance for an answer in which its request finds a fault: alone, in a batch, with drafts."""

from dataclasses import replace

import numpy as np
import pytest

from qwen35.engine.again import asked_again
from qwen35.engine.batching import Item, answer_all
from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.engine.several import answer_several
from qwen35.events import Event, Finished, Note, Prefilled, TextDelta
from qwen35.messages import ImagePart, Message, TextPart
from tests.model.engine.scripted import MINI


@pytest.fixture(params=["plain", "with states", "with drafts"])
def engine(request: pytest.FixtureRequest, tmp_path) -> Engine:  # type: ignore[no-untyped-def]
    states = States(tmp_path, 10**9, 10**9) if request.param == "with states" else None
    return load_engine(
        MINI, device="cpu", states=states, speculate=2 if request.param == "with drafts" else 0
    )


def question(**options: object) -> Request:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    message = Message("user", (ImagePart(pixels, "test.png"), TextPart("describe")))
    wanted = {"sampling": SamplingOverrides(temperature=2.0), "seed": 5, "fault": lambda answer: "too short"}
    return Request((message,), **(wanted | options))


def answer(engine: Engine, wanted: Request) -> Finished:
    *_, finished = engine.generate(wanted)
    assert isinstance(finished, Finished)
    return finished


def corrected(engine: Engine, wanted: Request) -> tuple[Finished, Finished]:
    """A first answer, and the one to a conversation that goes on with what is wrong with it."""
    first = answer(engine, replace(wanted, fault=None))
    said = Message("assistant", (TextPart(first.answer),), None, first.token_ids)
    told = Message.of_text("user", "That is not right: too short. Answer again, corrected, in the same form.")
    return first, answer(engine, replace(wanted, messages=(*wanted.messages, said, told), fault=None))


def check(events: list[Event], first: Finished, second: Finished) -> None:
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes.count("asked again, as the answer was not right: too short") == 1
    assert len([event for event in events if isinstance(event, Prefilled)]) == 1
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.answer, finished.token_ids) == (second.answer, second.token_ids)
    assert second.answer != first.answer
    both = first.usage.completion_tokens + second.usage.completion_tokens
    assert finished.usage.completion_tokens == both


def test_a_faulty_answer_is_followed_by_another(engine: Engine) -> None:
    wanted = question()
    first, second = corrected(engine, wanted)
    events = [*engine.generate(wanted)]
    check(events, first, second)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == first.answer + second.answer


def test_so_it_is_in_a_batch(engine: Engine) -> None:
    requests = [question(seed=seed) for seed in (5, 6, 7)]
    pairs = [corrected(engine, wanted) for wanted in requests]
    found: dict[str, list[Event]] = {str(number): [] for number in range(3)}
    for key, event in answer_all(engine, [Item(str(n), r) for n, r in enumerate(requests)], 2):
        assert isinstance(event, Event)
        found[key].append(event)
    for number, (first, second) in enumerate(pairs):
        check(found[str(number)], first, second)


def test_so_it_is_with_several_answers(engine: Engine) -> None:
    pairs = [corrected(engine, question(seed=5 + number)) for number in range(3)]
    *events, finished = answer_several(engine, question(), None, 3)
    assert isinstance(finished, Finished)
    assert [each.answer for each in (finished, *finished.others)] == [second.answer for _, second in pairs]
    assert sum(isinstance(e, Note) and e.text.startswith("asked again") for e in events) == 3


def test_what_is_right_is_not_asked_again(engine: Engine) -> None:
    asked: list[str] = []
    wanted = question(fault=asked.append)  # which finds nothing
    first = answer(engine, replace(wanted, fault=None))
    assert answer(engine, wanted).answer == first.answer
    assert asked == [first.answer]


def test_an_answer_that_was_cut_has_no_second_chance(engine: Engine) -> None:
    finished = answer(engine, question(max_tokens=3))
    assert (finished.reason, finished.usage.completion_tokens) == ("length", 3)


def test_where_the_context_holds_no_more_the_first_answer_stays(engine: Engine) -> None:
    first, _ = corrected(engine, question())
    taken = first.usage.prompt_tokens + first.usage.completion_tokens
    assert answer(engine, question(max_context=taken + 2)).answer == first.answer


def test_to_stop_ends_both(engine: Engine) -> None:
    steps = asked_again(engine, question(), engine.steps(question(fault=None)), is_one_of_many=False)
    next(steps)
    steps.close()
    assert answer(engine, question()).reason == "stop"
