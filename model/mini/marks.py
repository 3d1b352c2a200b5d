"""What the tokens of a document hold, and from which of them each character of an answer is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# What a token may hold besides its character, and how many different values there are; 0 says nothing.
MARKED = {"line": 12, "field": 5, "offset": 12, "end": 3, "value": 20}
LAST_LINE = MARKED["line"]  # that of a total, wherever it stands
VALUE_LINE = LAST_LINE - 1  # that of the tops of bars, and of the points of a line
END_OF_FIELD, END_OF_LINE, END_OF_LIST = 1, 2, 3
NOWHERE = -1
PLACE = 3  # the columns line, field and offset


@dataclass(frozen=True, slots=True)
class Source:
    """The token that a character is read from, and what there is to know to find it."""

    token: int = NOWHERE
    line: int = 0
    field: int = 0
    offset: int = 0
    shape: int = NOWHERE  # in whose middle that token lies, where this is not known yet


NO_SOURCE = Source()


@dataclass(slots=True)
class Marks:
    """Of one document, shown as a grid (rows, columns) of tokens.

    A field is its characters and the empty token behind them, which says what ends with it.
    """

    grid: tuple[int, int]
    chars: dict[int, str] = field(default_factory=dict)  # by token
    values: np.ndarray = field(init=False)  # (tokens, MARKED)
    _fields: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = np.zeros((self.grid[0] * self.grid[1], len(MARKED)), np.int64)

    def add(self, text: str, row: int, column: int, line: int, number: int, end: int) -> None:
        """`text` from this place on is the field of that `number` (from 1) in a `line` (from 1)."""
        start = row * self.grid[1] + column
        assert column + len(text) < self.grid[1], "no room for the end of a field"
        tokens = list(range(start, start + len(text) + 1))
        for offset, token in enumerate(tokens):
            self.values[token, :PLACE] = line, number, 1 + offset
            if offset < len(text):
                self.chars[token] = text[offset]
        self.values[tokens[-1], list(MARKED).index("end")] = end
        self._fields[line, number] = tokens

    def add_value(self, token: int, number: int, step: int) -> None:
        """At this token the field of that `number` in a chart has its value, the `step`-th of all."""
        self.values[token] = VALUE_LINE, number, 0, 0, step
        self._fields[VALUE_LINE, number] = [token]

    def sources(self, line: int, number: int) -> list[Source]:
        """Of a field's characters, one after another, and of its end."""
        tokens = self._fields[line, number]
        return [Source(token, line, number, 1 + offset) for offset, token in enumerate(tokens)]

    def fields(self) -> list[tuple[int, int]]:
        """Line and number of all that is written, in reading order."""
        return sorted(place for place in self._fields if place[0] != VALUE_LINE)

    def text(self, line: int, number: int) -> str:
        return "".join(self.chars[token] for token in self._fields[line, number][:-1])


class Answer:
    """An answer while it is written, with the source of each of its characters."""

    def __init__(self, marks: Marks | None = None) -> None:
        """`marks`: of the document that is read."""
        self.marks = marks
        self.text = ""
        self._sources: list[Source] = []
        self._end = NO_SOURCE

    @property
    def sources(self) -> list[Source]:
        """Those of all its characters, and of its end."""
        return [*self._sources, self._end]

    def say(self, text: str, source: Source = NO_SOURCE) -> "Answer":
        self.text += text
        self._sources += [source] * len(text)
        self._end = NO_SOURCE
        return self

    def read(self, line: int, number: int, *, opening: str = "", closing: str = "") -> "Answer":
        """Copy a field. `opening` is said looking at its beginning, `closing` looking at its end."""
        assert self.marks is not None
        *chars, end = self.marks.sources(line, number)
        self.say(opening, chars[0])
        for char, source in zip(self.marks.text(line, number), chars, strict=True):
            self.say(char, source)
        self.say(closing, end)
        self._end = NO_SOURCE if closing else end
        return self

    def read_text(self, name: str, line: int, number: int) -> "Answer":
        """A property of a JSON object that others follow: a field in quotes."""
        return self.say(f'"{name}":').read(line, number, opening=' "', closing='", ')

    def read_number(self, name: str, line: int, number: int, closing: str = ", ") -> "Answer":
        """A property of a JSON object: a field as a number, and what follows it."""
        return self.say(f'"{name}":').read(line, number, opening=" ", closing=closing)

    def read_value(self, number: int, digits: str) -> "Answer":
        """Say what a bar is worth, looking at its top."""
        assert self.marks is not None
        (top,) = self.marks.sources(VALUE_LINE, number)
        for offset, digit in enumerate(digits):
            self.say(digit, Source(top.token, top.line, top.field, 1 + offset))
        return self

    def spell(self, word: str, shape: int, line: int) -> "Answer":
        """Say a word about the shape of this number, the `line`-th of those about it."""
        for offset, char in enumerate(word, 1):
            place = Source(line=line, field=1 + shape, offset=min(offset, MARKED["offset"]), shape=shape)
            self.say(char, place)
        return self


def sources_of_tokens(pieces: Sequence[str], sources: Sequence[Source]) -> list[Source]:
    """Of an answer's tokens: that of the first of their characters which has one."""
    found, start = [], 0
    for piece in pieces:
        part = sources[start : start + len(piece)]
        found.append(next((source for source in part if source != NO_SOURCE), NO_SOURCE))
        start += len(piece)
    return found
