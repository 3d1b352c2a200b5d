"""Speculation changes no token of an answer: greedy, sampled, restored, with experts on the disk."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen35.backends.native.backend import NativeBackend
from qwen35.engine.engine import HEARD_TOKENS, Engine, prepare
from qwen35.engine.request import Grammar, Request, SamplingOverrides
from qwen35.engine.speculation import MOST_DRAFTS, Costs, Speculate, Speculating
from qwen35.events import Finished, Prefilled
from tests.model.cache.asking import GREEDY, engine_of, picture, system, user, words
from tests.model.cache.saved import MINI
from tests.model.engine.test_batching import engine_in_parts

WARM = SamplingOverrides(temperature=0.8, top_k=20, top_p=0.95, presence_penalty=0.3)
QUESTIONS = (
    [user("What is 2 + 2?")],
    [system("Answer in one short sentence."), user(picture(), "What do you see?")],
    [user(words(900), "What does it say?")],
)


def finished(engine: Engine, request: Request) -> Finished:
    *_, last = engine.generate(request)
    assert isinstance(last, Finished)
    return last


def with_drafts(engine: Engine, speculate: Speculate) -> Engine:
    return replace(engine, speculating=Speculating(speculate))


@pytest.mark.parametrize("kind", ["in memory", "cache", "offloaded experts"])
def test_answers_are_the_same_token_by_token(tmp_path: Path, kind: str) -> None:
    engine = engine_of(MINI)
    other = {
        "in memory": engine_of,
        "cache": lambda model: engine_of(model, tmp_path),
        "offloaded experts": lambda model: engine_in_parts(None),
    }[kind](MINI)
    accepted = 0
    for number, (messages, sampling) in enumerate((m, s) for m in QUESTIONS for s in (GREEDY, WARM)):
        request = Request(tuple(messages), sampling=sampling, max_tokens=40, seed=number)
        expected = finished(engine, request)
        for speculate in (1, 3, "auto") if kind == "in memory" else (3,):
            got = finished(with_drafts(other, speculate), request)
            assert (got.token_ids, got.reason) == (expected.token_ids, expected.reason)
            assert got.answer == expected.answer
            if got.speculated:
                accepted += got.speculated.accepted
                assert 0 <= got.speculated.accepted <= got.speculated.drafted
    assert accepted > 0
    other.close()


def test_what_is_drawn_with_drafts_follows_the_models_own_law() -> None:
    """Pearson's test of many answers' first three tokens, against the products of their probabilities."""
    temperature, top_k, count = 6.0, 3, 600
    engine = with_drafts(engine_of(MINI), 2)
    sampling = SamplingOverrides(temperature=temperature, top_k=top_k, top_p=1.0, presence_penalty=0.0)
    asked = Request((user("What is 2 + 2?"),), sampling=sampling, max_tokens=3)
    prompt = prepare(engine.processor, asked)

    def law(logits: np.ndarray) -> dict[int, float]:
        best = np.argsort(-logits)[:top_k].tolist()
        weights = np.exp((logits[best] - logits[best[0]]).astype(float) / temperature)
        return dict(zip(best, (weights / weights.sum()).tolist(), strict=True))

    stops = engine.defaults.stop_ids  # which end an answer, and are no part of it
    expected: dict[tuple[int, ...], float] = defaultdict(float)
    state = engine.backend.new_state()
    logits = engine.backend.prefill(state, prompt.ids, prompt.position_ids, None)
    for first, p in law(logits).items():
        after_first = state.fork()
        for second, q in law(engine.backend.decode([after_first], np.array([first]))[0]).items():
            if second in stops:
                expected[first,] += p * q
                continue
            after_second = after_first.fork()
            scores = engine.backend.decode([after_second], np.array([second]))[0]
            for third, r in law(scores).items():
                expected[(first, second) if third in stops else (first, second, third)] += p * q * r

    answers = [finished(engine, replace(asked, seed=seed)) for seed in range(count)]

    assert sum(answer.speculated.accepted for answer in answers if answer.speculated) > count / 10
    seen = Counter(answer.token_ids for answer in answers)
    assert {*seen} <= {*expected}
    often = {tokens: count * p for tokens, p in expected.items() if count * p >= 5}
    rare = count - sum(often.values())
    squares = [(seen[tokens] - number) ** 2 / number for tokens, number in often.items()]
    if rare >= 5:
        squares.append((count - sum(seen[tokens] for tokens in often) - rare) ** 2 / rare)
    freedom = len(squares) - 1
    assert freedom >= 8
    # Wilson and Hilferty: the cube root of chi-square over its degrees of freedom is nearly normal.
    score = ((sum(squares) / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5
    assert score < 4


def test_the_saved_state_of_a_speculated_answer_is_continued(tmp_path: Path) -> None:
    question, then = user("What is 2 + 2?"), user("And twice that?")
    engine = with_drafts(engine_of(MINI, tmp_path), 3)
    first = finished(engine, Request((question,), sampling=GREEDY, max_tokens=60))
    engine.close()
    said = replace(user(first.answer), role="assistant", token_ids=first.token_ids)
    request = Request((question, said, then), sampling=GREEDY, max_tokens=20)
    again = finished(with_drafts(engine_of(MINI, tmp_path), 3), request)
    assert again.token_ids == finished(engine_of(MINI), request).token_ids


def test_forced_tokens_of_a_thinking_budget_end_what_was_drafted() -> None:
    engine = engine_of(MINI)
    request = Request((user("Why?"),), thinking=True, thinking_budget=6, sampling=GREEDY, max_tokens=30)
    assert finished(with_drafts(engine, 3), request).token_ids == finished(engine, request).token_ids


def test_a_grammar_and_drafts_go_together() -> None:
    """Tokens that the grammar forces come between those that are drafted."""
    engine = engine_of(MINI)
    schema = {
        "type": "object",
        "properties": {"colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 6}},
        "required": ["colours"],
        "additionalProperties": False,
    }
    accepted = 0
    for number, sampling in enumerate((GREEDY, WARM)):
        grammar = Grammar("json_schema", json.dumps(schema))
        question = user(picture(number), "Which colours are there?")
        request = Request((question,), sampling=sampling, max_tokens=60, seed=number, grammar=grammar)
        expected, got = finished(engine, request), finished(with_drafts(engine, 2), request)
        assert (got.token_ids, got.reason) == (expected.token_ids, expected.reason)
        assert set(json.loads(got.answer)["colours"]) <= {"red", "blue"}
        assert got.speculated is not None
        accepted += got.speculated.accepted
    assert accepted > 0


def test_of_a_long_prompt_the_end_is_heard() -> None:
    backend = engine_of(MINI).backend
    assert isinstance(backend, NativeBackend)
    backend.prefill_chunk = 128
    engine = with_drafts(replace(engine_of(MINI), backend=backend), 1)
    events = engine.generate(
        Request((user(words(3 * HEARD_TOKENS), "Well?"),), sampling=GREEDY, max_tokens=4)
    )
    assert next(event.prompt_tokens for event in events if isinstance(event, Prefilled)) > 2 * HEARD_TOKENS
    (heard,) = (lookahead._memory.num_tokens for lookahead in backend._lookaheads.values())
    assert HEARD_TOKENS - 1 <= heard < HEARD_TOKENS + 128
    events.close()


def costs_of(check_s: dict[int, float], draft_s: float) -> Costs:
    """Seconds of checks by their drafts, and of each draft, as measured three times."""
    costs = Costs()
    for count, seconds in check_s.items():
        for _ in range(3):
            costs.add(count, draft_s * count, seconds)
    return costs


def test_it_drafts_as_much_as_pays() -> None:
    costs = costs_of({count: 1 + 0.1 * count for count in range(MOST_DRAFTS + 1)}, 0.1)
    assert costs.choose(0.0) == 0
    assert 0 < costs.choose(0.5) < MOST_DRAFTS
    assert costs.choose(0.95) == MOST_DRAFTS
    assert not costs.are_too_high


def test_what_is_not_known_is_tried_as_long_as_it_could_pay() -> None:
    assert Costs().choose(0.9) == 0
    assert costs_of({0: 1.0}, 0.0).choose(0.9) == 1
    assert costs_of({0: 1.0, 1: 1.9}, 0.05).choose(0.0) == 2
    hopeless = costs_of({0: 1.0, 1: 1.9}, 0.2)
    assert hopeless.choose(1.0) == 0
    assert hopeless.are_too_high


def test_an_answer_that_drafts_do_not_pay_for_goes_on_without() -> None:
    engine = engine_of(MINI)
    costs = costs_of({count: 1e6 * (1 + 0.9 * count) for count in range(MOST_DRAFTS + 1)}, 1e4)
    assert not costs.are_too_high  # they would pay, if nearly all of them came
    request = Request((user("Hello"),), sampling=GREEDY, max_tokens=20)
    got = finished(replace(engine, speculating=Speculating("auto", costs)), request)
    assert got.speculated is None
    assert got.token_ids == finished(engine, request).token_ids


def test_drafts_of_the_built_in_model_often_come() -> None:
    """Its MTP module was trained: what it drafts first is right more often than not."""
    engine = with_drafts(engine_of(MINI), 1)
    used = [
        finished(
            engine, Request((user(picture(seed), "Describe the picture."),), sampling=GREEDY, max_tokens=60)
        )
        for seed in range(3)
    ]
    drafted = sum(each.speculated.drafted for each in used if each.speculated)
    accepted = sum(each.speculated.accepted for each in used if each.speculated)
    assert drafted > 20
    assert accepted > 0.5 * drafted
    assert np.isclose(used[0].speculated.acceptance, used[0].speculated.accepted / used[0].speculated.drafted)
