from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from qwen35.backends.base import Backend
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.errors import DoesNotFit
from qwen35.events import Event, Finished, Prefilled, PrefillProgress, ReasoningDelta, TextDelta
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.state import ModelState

GREEDY = SamplingOverrides(temperature=0.0)
QUESTION = "What do you see?"


@pytest.fixture
def engine(talkative: tuple[Path, PreTrainedModel]) -> Engine:
    return load_engine(talkative[0], device="cpu")


def picture(height: int = 100, width: int = 130) -> ImagePart:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImagePart(pixels, "test.png")


def request(*pictures: ImagePart, **options: object) -> Request:
    message = Message("user", (*pictures, TextPart(QUESTION)))
    return Request((message,), **({"sampling": GREEDY, "max_tokens": 24} | options))


def run(engine: Engine, wanted: Request) -> tuple[list[Event], Finished]:
    *events, finished = engine.generate(wanted)
    assert isinstance(finished, Finished)
    return events, finished


def test_events_tell_the_prefill_then_the_text_then_the_end(engine: Engine) -> None:
    events, finished = run(engine, request(picture()))
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    prefilled = next(i for i, event in enumerate(events) if isinstance(event, Prefilled))
    assert progress[-1].done == progress[-1].total == finished.usage.prompt_tokens
    assert all(isinstance(event, TextDelta) for event in events[prefilled + 1 :])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == finished.answer
    assert (finished.reason, finished.usage.completion_tokens) == ("length", 24)
    assert finished.usage.image_tokens == 12  # 96 x 128 pixels


class Recorder:
    """A backend that keeps the logits of every step."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.logits: list[np.ndarray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        self.logits.append(self._backend.decode(states, ids))
        return self.logits[-1]


def test_a_request_leaves_nothing_behind_for_the_next(engine: Engine) -> None:
    """Above all no rope delta: a picture's would shift what follows a later text, by so little that
    the greedy answer may stay the same. So the logits are compared, bit for bit."""

    def logits(wanted: Request) -> np.ndarray:
        recorder = Recorder(engine.backend)
        run(replace(engine, backend=recorder), wanted)
        return np.concatenate(recorder.logits)

    after_one, after_other = [
        (logits(request(shown)), logits(request()), logits(request(picture())))
        for shown in (picture(64, 250), picture(200, 70))
    ]
    assert np.array_equal(after_one[1], after_other[1])
    assert np.array_equal(after_one[2], after_other[2])


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_the_answer_does_not_depend_on_the_chunks_of_the_prefill(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    wanted = request(picture(), picture(40, 200))
    whole = run(engine, wanted)[1].answer
    monkeypatch.setattr(engine.backend, "prefill_chunk", chunk)
    assert run(engine, wanted)[1].answer == whole


def test_requests_that_take_turns_do_not_disturb_each_other(engine: Engine) -> None:
    wanted = [request(), request(picture())]
    alone = [run(engine, one)[1].answer for one in wanted]
    generators = [engine.generate(one) for one in wanted]
    answers: list[str | None] = [None, None]
    while None in answers:
        for i, generator in enumerate(generators):
            event = next(generator, None)
            if isinstance(event, Finished):
                answers[i] = event.answer
    assert answers == alone


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    whole = run(engine, request())[1].answer
    stop = whole[5:8]
    finished = run(engine, request(stop=(stop,)))[1]
    assert (finished.answer, finished.reason) == (whole[: whole.index(stop)], "stop")


def test_a_stop_token_ends_the_answer(engine: Engine) -> None:
    whole = run(engine, request())[1].answer
    stop_id = ord(whole[6])
    defaults = replace(engine.defaults, stop_ids=frozenset({stop_id}))
    finished = run(replace(engine, defaults=defaults), request())[1]
    assert finished.answer == whole[: whole.index(whole[6])]
    assert finished.reason == "stop"


def test_a_seed_repeats_a_draw_and_another_seed_gives_another(engine: Engine) -> None:
    warm = SamplingOverrides(temperature=2.0, top_p=1.0, top_k=0)

    def answer(seed: int) -> str:
        return run(engine, request(sampling=warm, seed=seed))[1].answer

    assert answer(1) == answer(1) != answer(2)


def test_a_spent_thinking_budget_closes_the_block_and_leaves_an_answer(engine: Engine) -> None:
    events, finished = run(engine, request(thinking=True, thinking_budget=5, max_tokens=20))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert reasoning == finished.reasoning
    assert len(finished.reasoning) == 5
    assert finished.answer
    assert finished.usage.reasoning_tokens == 5 + len("\n") + 1  # a newline and the closing tag


def test_a_prompt_beyond_the_context_is_refused_and_an_answer_ends_with_it(engine: Engine) -> None:
    num_prompt = len(prepare(engine.processor, request()).ids)
    with pytest.raises(DoesNotFit, match=f"{num_prompt}"):
        run(engine, request(max_context=num_prompt))
    finished = run(engine, request(max_context=num_prompt + 3, max_tokens=None))[1]
    assert (finished.reason, finished.usage.completion_tokens) == ("length", 3)
