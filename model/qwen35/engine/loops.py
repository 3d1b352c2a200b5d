"""Finds text that repeats itself without end, while it is written.

A loop is a run of tokens that repeats the same unit; but so do tables, code and lists, lawfully. What tells
them apart is what is repeated. Prose that has said the same thing twice and goes on with it is in a loop. A
unit of digits, signs or single words on lines of their own is as a rule a matrix, a ruler, a column of a
table or a skeleton of HTML: it is let go on much longer.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

LONGEST_UNIT = 512  # tokens
PROSE_TOKENS = 64  # after two whole units of prose, so many more of the same are a loop
OTHER_TOKENS = 1024  # the same for everything else

_WORD = re.compile(r"[^\W\d_]{2,}")
_CUT_WORDS = re.compile(r"^[^\W\d_]+|[^\W\d_]+$")
_BULLET = re.compile(r"^\s*[-*•>]\s", re.MULTILINE)
_OTHER_SIGN = re.compile(r"[^\w\s.,;:!?'\"’“”…—-]|\d|_")


class LoopDetector:
    """For one answer. Mutable."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        # The newest first, from `_newest` on, with room for more before them: to move them each time costs
        # more than all the rest.
        self._tokens = np.full(8 * LONGEST_UNIT, -1)
        self._newest = len(self._tokens) - LONGEST_UNIT
        self._repeated = np.zeros(LONGEST_UNIT, np.int64)  # tokens in a row that are those p + 1 before
        self._units = np.arange(1, LONGEST_UNIT + 1)

    def push(self, token: int) -> bool:
        """Whether this token makes it a loop."""
        self._repeated += 1
        self._repeated *= self._tokens[self._newest :][:LONGEST_UNIT] == token
        if self._newest == 0:
            self._tokens[-LONGEST_UNIT:] = self._tokens[:LONGEST_UNIT]
            self._newest = len(self._tokens) - LONGEST_UNIT
        self._newest -= 1
        self._tokens[self._newest] = token
        beyond = self._repeated - self._units
        if beyond.max() < PROSE_TOKENS:
            return False
        length = int(np.argmax(beyond >= PROSE_TOKENS)) + 1
        if beyond[length - 1] >= OTHER_TOKENS:
            return True
        unit = self._tokens[self._newest :][:length][::-1].tolist()
        return is_prose(_CUT_WORDS.sub("", self._decode(unit * 3)))  # it may begin within a word

    def forget(self) -> None:
        """Begin anew: what follows is another text."""
        self._tokens[:], self._repeated[:] = -1, 0


def is_prose(unit: str) -> bool:
    """Whether `unit` says something: words with hardly a sign of code or table among them.

    One word alone does only where nothing but blanks stands between it and itself.
    """
    text = _BULLET.sub("", unit)
    words = {word.lower() for word in _WORD.findall(text)}
    if len(words) < 2:
        return bool(words) and "\n" not in text and text.replace(" ", "").isalpha()
    return len(_OTHER_SIGN.findall(text)) * 20 < len(text)
