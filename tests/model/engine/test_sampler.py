from collections import Counter

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qwen35.engine.sampler import Sampler, SamplingParams, greatest

NUM_TOKENS, NUM_PADDING, NUM_DRAWS = 20, 3, 4000
NO_PROMPT = np.empty(0, np.int64)
FILTERS = {
    "none": (SamplingParams(), []),
    "a low temperature": (SamplingParams(temperature=0.5), [TemperatureLogitsWarper(0.5)]),
    "a high temperature": (SamplingParams(temperature=2.0), [TemperatureLogitsWarper(2.0)]),
    "top k": (SamplingParams(top_k=5), [TopKLogitsWarper(5)]),
    "top k of all": (SamplingParams(top_k=100), [TopKLogitsWarper(100)]),
    "top p": (SamplingParams(top_p=0.8), [TopPLogitsWarper(0.8)]),
    "top p of one": (SamplingParams(top_p=0.01), [TopPLogitsWarper(0.01)]),
    "min p": (SamplingParams(min_p=0.1), [MinPLogitsWarper(0.1)]),
    "as the cards say": (
        SamplingParams(temperature=0.7, top_p=0.8, top_k=10),
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(10), TopPLogitsWarper(0.8)],
    ),
}


def random_logits(seed: int = 0) -> np.ndarray:
    """Two of the scores are equal; the padding rows have the highest."""
    logits = np.random.default_rng(seed).standard_normal(NUM_TOKENS + NUM_PADDING).astype(np.float32)
    logits[3] = logits[4]
    logits[NUM_TOKENS:] = 50
    return logits


def sampler(params: SamplingParams, prompt: np.ndarray = NO_PROMPT, seed: int | None = 0) -> Sampler:
    return Sampler(params, NUM_TOKENS, prompt, seed)


@pytest.mark.parametrize(("params", "processors"), FILTERS.values(), ids=FILTERS)
def test_draws_are_distributed_as_those_of_transformers(params: SamplingParams, processors: list) -> None:
    logits = random_logits()
    scores = torch.from_numpy(logits[None, :NUM_TOKENS].copy())
    expected = LogitsProcessorList(processors)(None, scores)[0].softmax(-1).numpy()
    ours = sampler(params)
    counts = Counter(ours.draw(logits) for _ in range(NUM_DRAWS))
    assert set(counts) <= set(np.flatnonzero(expected).tolist())
    for token, probability in enumerate(expected.tolist()):
        deviation = (NUM_DRAWS * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - NUM_DRAWS * probability) <= 4.5 * deviation + 1e-9, token


@pytest.mark.parametrize("size", [1, 63, 64, 65, 640, 5000, 5001])
@pytest.mark.parametrize("count", [1, 2, 9, 78, 79])
def test_the_greatest_are_those_of_a_sort(size: int, count: int) -> None:
    scores = np.random.default_rng(size).integers(-40, 40, size).astype(np.float32)  # many are equal
    order = np.argsort(-scores, kind="stable")

    assert greatest(scores, count).tolist() == order[:count].tolist()


def test_greedy_takes_the_best_token_that_is_not_padding() -> None:
    logits = random_logits()
    assert sampler(SamplingParams(temperature=0.0)).draw(logits) == logits[:NUM_TOKENS].argmax()


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_counts_prompt_and_answer_as_in_transformers(penalty: float) -> None:
    theirs, seen = RepetitionPenaltyLogitsProcessor(penalty), [2, 7, 7]
    ours = sampler(SamplingParams(temperature=0.0, repetition_penalty=penalty), prompt=np.array(seen))
    for seed in range(30):
        logits = random_logits(seed)
        expected = int(
            theirs(torch.tensor([seen]), torch.from_numpy(logits[None, :NUM_TOKENS].copy())).argmax()
        )
        assert ours.draw(logits) == expected
        seen.append(expected)


def test_presence_is_paid_once_and_for_generated_tokens_alone() -> None:
    logits = np.array([3.0, 2.0, 0.0] + [-9.0] * 20, np.float32)
    ours = sampler(SamplingParams(temperature=0.0, presence_penalty=1.6), prompt=np.array([0]))
    # 3, then 1.4 < 2, then 1.4 > 0.4, and no less for being drawn a second time.
    assert [ours.draw(logits) for _ in range(5)] == [0, 1, 0, 0, 0]


def test_the_callers_logits_are_left_as_they_are() -> None:
    logits = random_logits()
    before = logits.copy()
    ours = sampler(SamplingParams(0.7, 0.9, 10, 0.05, 1.5, 1.2), prompt=np.array([1]))
    for _ in range(3):
        ours.draw(logits)
    assert np.array_equal(logits, before)


def test_equal_seeds_draw_alike() -> None:
    def draws(seed: int | None) -> list[int]:
        one = sampler(SamplingParams(temperature=2.0), seed=seed)
        return [one.draw(random_logits()) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(top_k=3, top_p=0.9, min_p=0.1)]
)
def test_what_is_not_allowed_is_never_drawn_and_the_rest_as_if_it_were_not_there(
    params: SamplingParams,
) -> None:
    logits = random_logits()
    allowed = np.arange(NUM_TOKENS) % 3 == 0
    lower = np.where(allowed, logits[:NUM_TOKENS], np.float32(-1e4))
    restricted, other = (Sampler(params, NUM_TOKENS, NO_PROMPT, seed=0) for _ in range(2))
    drawn = [restricted.draw(logits, allowed) for _ in range(200)]
    assert drawn == [other.draw(lower) for _ in range(200)]
    assert allowed[drawn].all()
    only = np.arange(NUM_TOKENS) == 7
    assert restricted.draw(logits, only) == 7
