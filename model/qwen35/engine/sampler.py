"""Logits to the next token: penalties, then temperature, then the filters, then one draw."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

_COLUMN = 64  # scores whose greatest is found first


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Off by value: top_p 1, top_k 0, min_p 0, presence 0, repetition 1. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0


class Sampler:
    """Draws tokens for one request. Mutable: it counts what it generated and owns its random stream.

    Ids from `num_tokens` on are padding rows of the output matrix and never drawn.
    """

    def __init__(
        self, params: SamplingParams, num_tokens: int, prompt_ids: np.ndarray, seed: int | None
    ) -> None:
        self.params = params
        self.num_tokens = num_tokens
        self.generated: Counter[int] = Counter()
        # As in transformers, repetition looks at the prompt too; presence at the answer alone.
        self._is_seen = np.zeros(num_tokens, bool)
        self._is_seen[prompt_ids[prompt_ids < num_tokens]] = True
        # Where nothing is drawn by chance, 40 ms of imports are spared.
        self._random = np.random.default_rng(seed) if params.temperature > 0 else None

    def draw(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> int:
        """The next token's id, from logits (vocab_size,) float32, which are left as they are.

        `allowed` (num_tokens,) bool: those that may be drawn, at least one.
        """
        scores = self._penalise(logits[: self.num_tokens])
        if allowed is not None:
            scores = np.where(allowed, scores, np.float32(-np.inf))
        params = self.params
        token = int(scores.argmax()) if params.temperature <= 0 else self._sample(scores)
        self.generated[token] += 1
        self._is_seen[token] = True
        return token

    def _penalise(self, logits: np.ndarray) -> np.ndarray:
        params = self.params
        if params.repetition_penalty != 1.0:
            values = logits[self._is_seen]
            logits = logits.copy()
            factor = np.float32(params.repetition_penalty)
            logits[self._is_seen] = np.where(values > 0, values / factor, values * factor)
        if params.presence_penalty and self.generated:
            logits = logits.copy()
            logits[list(self.generated)] -= params.presence_penalty
        return logits

    def _sample(self, scores: np.ndarray) -> int:
        """Filters see the candidates sorted, best first; each keeps at least one."""
        assert self._random is not None
        params = self.params
        count = len(scores) if params.top_k <= 0 else min(params.top_k, len(scores))
        best = greatest(scores, count)
        warmed = scores[best] / np.float32(params.temperature)
        weights = np.exp(warmed.astype(np.float64) - warmed[0])
        if params.min_p > 0:
            weights = weights[weights >= params.min_p]
        if params.top_p < 1:
            before = np.cumsum(weights) - weights
            weights = weights[before < params.top_p * weights.sum()]
        sums = np.cumsum(weights)
        return int(best[np.searchsorted(sums, self._random.random() * sums[-1], side="right")])


def log_probability(logits: np.ndarray, token: int) -> float:
    """Of one token, by the model alone."""
    highest = logits.max()
    return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))


def greatest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` greatest, the greatest first, of equals the first one first.

    To sort a quarter of a million scores costs milliseconds, to find the greatest of many short columns
    hardly anything: the count-th greatest of these is a bound, which all that are looked for reach.
    """
    width = len(scores) // _COLUMN
    if count < width:
        tops = scores[: width * _COLUMN].reshape(_COLUMN, width).max(0)
        candidates = np.flatnonzero(scores >= np.partition(tops, -count)[-count])
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")[:count]]
