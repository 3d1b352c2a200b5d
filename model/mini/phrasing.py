"""How people type: the same question in other letters, and lists of things in words."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def vary(question: str, rng: random.Random) -> str:
    """The question as a hurried person may type it: lower case, no mark at its end."""
    if rng.random() < 0.3:
        question = question.lower()
    if rng.random() < 0.3:
        question = question.rstrip("?.")
    return question


def join_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"


def article(noun: str) -> str:
    """`a red circle`, `an orange circle`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def weighted_order(choices: Sequence[tuple[T, float]], rng: random.Random) -> list[T]:
    """All the choices, in a random order in which heavy ones tend to come first."""
    keyed = [(rng.random() ** (1 / weight), index) for index, (_, weight) in enumerate(choices)]
    return [choices[index][0] for _, index in sorted(keyed, reverse=True)]


def ask_in_turn(
    askers: Sequence[tuple[Callable[[], T | None], float]],
    num_questions: int,
    rng: random.Random,
    key: Callable[[T], str],
) -> list[T]:
    """Questions from the weighted askers, each asked once before any is asked again, no two with one key.

    An asker returns None where the picture gives it nothing to ask; the list is shorter than
    `num_questions` where all have run dry.
    """
    found: dict[str, T] = {}
    for _ in range(2 * num_questions):
        for asker in weighted_order(askers, rng):
            question = asker()
            if question is not None:
                found.setdefault(key(question), question)
            if len(found) >= num_questions:
                return list(found.values())
    return list(found.values())
