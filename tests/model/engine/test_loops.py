"""Texts that repeat themselves lawfully, and loops; each in mini's short tokens and in whole words."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwen35.engine.loops import OTHER_TOKENS, PROSE_TOKENS, LoopDetector
from qwen35.processing.tokenizer import Tokenizer

MINI = Path(__file__).parents[3] / "model/qwen35/builtin/mini"
WORDS = (
    *("the", "shop", "sold", "seven", "red", "apples", "while", "two", "blue", "lamps"),
    *("stood", "near", "an", "old", "door", "under", "rain"),
)
NUM_LAWFUL = 200


class Words:
    """A tokenizer as a large vocabulary cuts: a token for each word, digit and sign."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.words: list[str] = []

    def encode(self, text: str) -> list[int]:
        found = re.findall(r" ?[^\W\d_]+|\d|\s+|[^\w\s]{1,4}|_", text)
        assert "".join(found) == text
        for word in found:
            if self.ids.setdefault(word, len(self.words)) == len(self.words):
                self.words.append(word)
        return [self.ids[word] for word in found]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)


TOKENIZERS: dict[str, Callable[[], Tokenizer | Words]] = {
    "short": lambda: Tokenizer.from_folder(MINI),
    "words": Words,
}


def found_at(text: str, tokenizer: Tokenizer | Words) -> int | None:
    """How many tokens of the text come before a loop is seen; None where none is."""
    detector = LoopDetector(tokenizer.decode)
    for count, token in enumerate(tokenizer.encode(text), start=1):
        if detector.push(token):
            return count
    return None


def sentence(draw: random.Random, num_words: int) -> str:
    return " ".join(draw.choices(WORDS, k=num_words)).capitalize() + "."


def lawful(draw: random.Random) -> Iterator[str]:
    """One text of each kind, endlessly: tables, code, lists and verse that repeat themselves."""
    while True:
        size, word = draw.randint(4, 12), draw.choice(WORDS)
        yield "[" + ",\n ".join(["[" + ", ".join(["0"] * size) + "]"] * size) + "]"
        yield "\n".join(" ".join(str(int(i == j)) for j in range(size)) for i in range(size))
        yield "| item | sold | state |\n|---|---|---|\n" + "| apple | no | open |\n" * size
        yield "| n | state |\n|---|---|\n" + "".join(f"| {i} | {word} |\n" for i in range(4 * size))
        yield "|" + " --- |" * 4 * size + "\n" + ("|" + "  |" * 4 * size + "\n") * 3
        yield "<table>\n" + "  <tr>\n    <td>Name</td>\n    <td>Value</td>\n  </tr>\n" * size + "</table>"
        yield "[\n" + ",\n".join(['  {"name": "Coffee", "qty": 1, "price": 2.5}'] * size) + "\n]"
        yield "[" + ", ".join([draw.choice(["true", "null", '""', "0.0"])] * 3 * size) + "]"
        yield f"{word}\n" * 3 * size
        yield "- [ ] \n" * 3 * size
        yield ("-" * draw.randint(20, 120) + "\n") * 3 + ("=" * draw.randint(20, 120))
        yield "Contents\n" + "".join(f"{word} {'.' * draw.randint(30, 70)} {i}\n" for i in range(size))
        yield "start:\n" + "    nop\n" * 3 * size + "    ret\n"
        yield "\n".join(f"assert f({i}) == {word!r}" for i in range(3 * size))
        yield "def f():\n" + "    x = step(x)\n" * size + "    return x\n"
        yield "a,b,c\n" + "0,0,0\n" * 4 * size
        refrain = "\n".join(sentence(draw, 6) for _ in range(4))
        yield "\n\n".join(f"{sentence(draw, 8)}\n{sentence(draw, 8)}\n\n{refrain}" for _ in range(4))
        yield f"{sentence(draw, 5)}\n" * 3 + sentence(draw, 5)
        yield "\n".join(f"{i}. {sentence(random.Random(size), 7)}" for i in range(1, 2 * size))
        yield "".join(f"{i:08x}  {'00 ' * 16} {'.' * 16}\n" for i in range(0, 16 * size, 16))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_repeats_itself_lawfully_is_no_loop(kind: str) -> None:
    tokenizer, texts = TOKENIZERS[kind](), lawful(random.Random(0))
    alarms = [text for _ in range(NUM_LAWFUL) if found_at(text := next(texts), tokenizer)]
    assert alarms == []


def check_found_within(unit: str, lead: str, tokenizer: Tokenizer | Words, most: int) -> None:
    """`most`: tokens after two whole units, of which the last may end within a word."""
    num_lead = len(tokenizer.encode(lead))
    num_unit = (len(tokenizer.encode(lead + unit * 8)) - num_lead) / 8
    enough = 8 + int(1.2 * most / num_unit)
    count = found_at(lead + unit * enough, tokenizer)
    assert count is not None, unit
    assert count <= num_lead + 2 * num_unit + most + 8, unit
    assert found_at(lead + unit * 2, tokenizer) is None


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_loop_of_prose_is_found_after_two_units_and_64_tokens(kind: str) -> None:
    draw, tokenizer = random.Random(1), TOKENIZERS[kind]()
    units = ["very ", "so it is, and ", "Wait, let me look again.\n", "I see. I see it. ", "* a red lamp\n"]
    units += [sentence(draw, draw.randint(2, 30)) + draw.choice([" ", "\n"]) for _ in range(60)]
    units += ["\n".join(sentence(draw, 9) for _ in range(3)) + "\n" for _ in range(15)]
    for unit in units:
        check_found_within(unit, sentence(draw, 12) + " ", tokenizer, PROSE_TOKENS)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_loop_is_found_after_two_units_and_1024_tokens(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    for unit in ("0", "1.", " 12,", "| a | 0 |\n", "<td></td>", "yes\n", "}\n", '{"a": 1}, ', "....: "):
        check_found_within(unit, "The table: ", tokenizer, OTHER_TOKENS)


def test_what_was_before_is_forgotten() -> None:
    tokenizer = Words()
    ids = tokenizer.encode(" again and" * 30)
    detector = LoopDetector(tokenizer.decode)
    assert not any(detector.push(token) for token in ids)
    detector.forget()
    assert not any(detector.push(token) for token in ids)
    assert any(detector.push(token) for token in ids)


@pytest.mark.parametrize("num_before", range(2200, 4200, 173))
def test_a_long_loop_is_found_wherever_it_begins(num_before: int) -> None:
    detector = LoopDetector(lambda ids: "so it goes on and on, ")
    unit = range(500)
    ids = [*range(1000, 1000 + num_before), *unit, *unit, *unit]
    found = next(count for count, token in enumerate(ids, start=1) if detector.push(token))
    assert found == num_before + 2 * len(unit) + PROSE_TOKENS
