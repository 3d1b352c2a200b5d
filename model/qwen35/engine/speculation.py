"""Several tokens of one answer in one pass of the model: the MTP module drafts them, the model checks them.

What is drawn is drawn from the model's own logits, row by row in order, with the request's own random
numbers, grammar and penalties: a draft that comes out otherwise is thrown away with the rows after it. So an
answer is token by token the one that comes without speculation, and how much is drafted may follow the clock.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qwen35.backends.base import Backend, Lookahead
from qwen35.events import Speculated
from qwen35.state import ModelState

Speculate = Literal["auto"] | int  # tokens that are drafted at a time; 0: none

MOST_DRAFTS = 4  # that "auto" tries
TRIES = 2  # passes of each length before their costs are known
MEMORY = 8  # last passes that count
DOUBT = 4  # drafts that are taken to have been right half of the time before any was made


@dataclass(slots=True)
class Costs:
    """Seconds that passes take on this machine, of the last ones. Mutable, for all requests of an engine."""

    checks: dict[int, deque[float]] = field(default_factory=dict)  # by their rows
    draft: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))  # for each draft

    def add(self, num_drafts: int, draft_s: float, check_s: float) -> None:
        self.checks.setdefault(num_drafts + 1, deque(maxlen=MEMORY)).append(check_s)
        if num_drafts:
            self.draft.append(draft_s / num_drafts)

    def choose(self, acceptance: float) -> int:
        """How many drafts give the most tokens a second, where each is right with this probability; or a
        number that has to be tried first."""
        for count in range(MOST_DRAFTS + 1):
            if not self._is_known(count):
                return count
            if count and not self._may_pay(count):
                break  # nor would more of them
        known = [count for count in range(MOST_DRAFTS + 1) if self._is_known(count)]
        return max(known, key=lambda count: self._rate(count, acceptance))

    @property
    def are_too_high(self) -> bool:
        """Whether drafts could not pay even if all of them came."""
        return self._is_known(0) and self._is_known(1) and not self._may_pay(1)

    def is_settled(self, count: int) -> bool:
        """Whether `count` was chosen because it is best, and not to be tried."""
        return self._is_known(count)

    def _is_known(self, count: int) -> bool:
        return len(self.checks.get(count + 1, ())) >= TRIES

    def _may_pay(self, count: int) -> bool:
        return self._rate(count, 1.0) > self._rate(0, 1.0)

    def _rate(self, count: int, acceptance: float) -> float:
        tokens = sum(acceptance**i for i in range(count + 1))
        draft_s = _middle(self.draft) if count else 0.0
        return tokens / (_middle(self.checks[count + 1]) + count * draft_s)


@dataclass(frozen=True, slots=True)
class Speculating:
    """That an engine speculates, how much, and what it has learnt of its costs."""

    speculate: Speculate
    costs: Costs = field(default_factory=Costs)

    @property
    def may_pay(self) -> bool:
        return self.speculate != "auto" or not self.costs.are_too_high

    def begin(self, backend: Backend, state: ModelState) -> "Speculation":
        return Speculation(backend, state, self.speculate, self.costs)


class Speculation:
    """Of one answer. Mutable: it runs the model for what the answer wishes to have decoded."""

    def __init__(self, backend: Backend, state: ModelState, speculate: Speculate, costs: Costs) -> None:
        self._backend, self._state, self._speculate, self._costs = backend, state, speculate, costs
        self._lookahead: Lookahead | None = backend.look_ahead(state)
        self._drafts: list[int] = []  # checked, and not known yet to have come
        self._rows: list[np.ndarray] = []  # logits after each of them
        self._drafted = self._accepted = self._passes = 0

    @property
    def use(self) -> Speculated | None:
        """What came of it; None where nothing was ever drafted."""
        return Speculated(self._drafted, self._accepted, self._passes) if self._drafted else None

    def is_of(self, state: ModelState) -> bool:
        return state is self._state

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Move the state past `tokens`, all but the last of them forced. Returns the logits after them."""
        for token in tokens:
            logits = self._decode(token)
        return logits

    def close(self) -> None:
        """The answer is over."""
        self._backend.forget(self._state)

    def _decode(self, token: int) -> np.ndarray:
        state = self._state
        if self._drafts and self._drafts[0] == token:
            assert self._lookahead is not None
            self._lookahead.accept()
            self._accepted += 1
            del self._drafts[0]
            return self._rows.pop(0)
        self._drafts, self._rows = [], []  # these did not come
        count = self._num_drafts()
        if count == 0 and self._speculate == "auto" and self._costs.is_settled(0):
            self._backend.forget(state)  # it does not pay: no more of it in this answer
            self._lookahead = None
        if self._lookahead is None:
            return self._backend.decode([state], np.array([token]))[0]
        start = time.perf_counter()
        drafts = self._lookahead.draft(state, token, min(count, self._lookahead.room(state) - 1))
        drafted = time.perf_counter()
        first, *self._rows = self._lookahead.check(state, [token, *drafts])
        self._costs.add(len(drafts), drafted - start, time.perf_counter() - drafted)
        self._drafts = drafts
        self._drafted += len(drafts)
        self._passes += 1
        return first

    def _num_drafts(self) -> int:
        if self._speculate != "auto":
            return self._speculate
        # Drafts behind a wrong one were not judged: in each pass those that were right, and one more at most.
        judged = min(self._drafted, self._accepted + self._passes)
        return self._costs.choose((self._accepted + DOUBT / 2) / (judged + DOUBT))


def _middle(values: Sequence[float]) -> float:
    """The median, the greater of two: without numpy.ma, which NumPy's own imports for 20 ms."""
    return sorted(values)[len(values) // 2]
