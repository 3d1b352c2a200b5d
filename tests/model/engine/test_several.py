"""`--n`: several answers that share one reading of the prompt; and the probabilities of what is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Grammar, Request, SamplingOverrides
from qwen35.engine.sampler import log_probability
from qwen35.engine.several import answer_several
from qwen35.events import Finished, Prefilled, TextDelta
from qwen35.messages import ImagePart, Message, TextPart

MINI = Path(__file__).parents[3] / "model/qwen35/builtin/mini"


@pytest.fixture(params=["without states", "with states"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    states = States(tmp_path, 10**9, 10**9) if request.param == "with states" else None
    return load_engine(MINI, device="cpu", states=states)


def question(**options: object) -> Request:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    message = Message("user", (ImagePart(pixels, "test.png"), TextPart("describe")))
    wanted = {"sampling": SamplingOverrides(temperature=3.0), "seed": 5, "max_tokens": 30}
    return Request((message,), **(wanted | options))


def answer(engine: Engine, wanted: Request) -> Finished:
    *_, finished = engine.generate(wanted)
    assert isinstance(finished, Finished)
    return finished


@pytest.mark.parametrize("grammar", [None, Grammar("regex", "[a-z]{5}( [a-z]{3})*")], ids=["free", "grammar"])
def test_each_answer_is_the_one_of_its_seed(
    engine: Engine, grammar: Grammar | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = question(grammar=grammar)
    alone = [answer(engine, replace(wanted, seed=5 + number)) for number in range(3)]
    num_encoded = []
    encode = engine.backend.encode_pictures
    monkeypatch.setattr(
        engine.backend, "encode_pictures", lambda *given: num_encoded.append(1) or encode(*given)
    )
    *events, finished = answer_several(engine, wanted, None, 3)
    engine.close()
    assert isinstance(finished, Finished)
    assert [each.answer for each in (finished, *finished.others)] == [each.answer for each in alone]
    assert len({each.answer for each in alone}) == 3
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == finished.answer
    assert sum(num_encoded) == (0 if engine.cache else 1)
    assert finished.usage.prompt_tokens == alone[0].usage.prompt_tokens
    [prefilled] = [event for event in events if isinstance(event, Prefilled)]
    assert (prefilled.cached_tokens > 0) == (engine.cache is not None)
    assert finished.usage.cached_tokens == prefilled.cached_tokens


def test_probabilities_are_those_of_the_answers_tokens(engine: Engine) -> None:
    finished = answer(engine, question(logprobs=True, grammar=Grammar("regex", "abc[a-z]{3}")))
    assert finished.logprobs is not None
    assert "".join(each.token for each in finished.logprobs) == finished.answer
    forced = [each.logprob is None for each in finished.logprobs]
    assert forced[0]
    assert not forced[-1]
    assert all(each.logprob is None or each.logprob < 0 for each in finished.logprobs)
    assert answer(engine, question()).logprobs is None
    engine.close()


def test_log_probabilities_add_up_to_one() -> None:
    logits = np.array([500.0, 499.0, -500.0], np.float32)
    assert sum(np.exp(log_probability(logits, token)) for token in range(3)) == pytest.approx(1)
