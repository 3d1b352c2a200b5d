"""Questions about what happens in a clip, in many phrasings, each with one canonical answer."""

import random
from collections.abc import Callable, Sequence

from mini.labels import PairLabels, Question, Shape
from mini.phrasing import article, ask_in_turn, upper_first, vary
from mini.scene_questions import KINDS, PLACES, at_place, describe, spoken_colour, yes_or_no

HAPPENS = (
    "What happens?",
    "What happens in the clip?",
    "What happens in this video?",
    "What is happening?",
    "What happens here?",
    "Describe the clip.",
    "Describe the video.",
    "Describe this clip.",
    "Describe what happens.",
    "Tell me what happens.",
    "What do you see in this video?",
    "What does the clip show?",
    "What changes?",
    "What is going on in this video?",
)
# How a user asks for the way, answered by the places between which it lies.
WHICH_WAY = (
    "Which way does the {it} move?",
    "In which direction does the {it} move?",
    "Where does the {it} move?",
    "Where is the {it} going?",
    "Which way does the {it} go?",
    "In which direction is the {it} moving?",
    "From where to where does the {it} move?",
    "Tell me which way the {it} moves.",
)
AT_FIRST = ("at first", "at the beginning", "in the beginning", "at the start")
AT_THE_END = ("at the end", "in the end", "at last", "finally")
COLOUR_THEN = (
    "What colour is the {it} {then}?",
    "What color is the {it} {then}?",
    "Which colour does the {it} have {then}?",
    "Which colour is the {it} {then}?",
    "Tell me the colour of the {it} {then}.",
    "What is the colour of the {it} {then}?",
)
TURNS = (
    "Which colour does the {it} turn?",
    "What colour does the {it} turn?",
    "What colour does the {it} become?",
    "What color does the {it} change to?",
    "Which colour does the {it} change to?",
    "To which colour does the {it} change?",
)
IS_THERE_THEN = (
    "Is there {one} {then}?",
    "Do you see {one} {then}?",
    "Can you see {one} {then}?",
    "Is {one} in the video {then}?",
    "Does the clip show {one} {then}?",
)
WHAT_APPEARS = (
    "What appears?",
    "What appears in the clip?",
    "Which shape appears?",
    "What comes into view?",
    "What is new at the end?",
    "Tell me what appears.",
)
WHAT_DISAPPEARS = (
    "What disappears?",
    "What disappears in the clip?",
    "Which shape disappears?",
    "What leaves?",
    "Which shape leaves?",
    "What is gone at the end?",
    "Tell me what disappears.",
)
COUNT_THEN = (
    "How many {these} are there {then}?",
    "How many {these} do you see {then}?",
    "How many {these} are in the video {then}?",
    "Count the {these} {then}.",
    "How many {these} can you see {then}?",
    "Tell me how many {these} there are {then}.",
)
WHEN = (
    "When does the {it} {do}?",
    "At which second does the {it} {do}?",
    "At what time does the {it} {do}?",
    "After how many seconds does the {it} {do}?",
    "Tell me when the {it} {does}.",
    "In which second does the {it} {do}?",
)
WHEN_ANY = (
    "When does it happen?",
    "When does something happen?",
    "At which second does it happen?",
    "When does something change?",
    "When is the change?",
)
DOES = {"appears": ("appear", "appears"), "disappears": ("disappear", "disappears")}
REASONING = "The video shows simple shapes."


def named(shape: Shape) -> str:
    return f"{shape.colour} {shape.kind}"


class ClipAsker:
    """Asks about one clip; each method draws one question at random, or None."""

    ASKED_OF_ANY = (*HAPPENS, *WHAT_APPEARS, *WHAT_DISAPPEARS, *WHEN_ANY)

    def __init__(
        self, story: str, pairs: Sequence[PairLabels], size: tuple[int, int], rng: random.Random
    ) -> None:
        """`size` (height, width) of the clip in pixels."""
        self.story, self.pairs, self.size, self.rng = story, pairs, size, rng
        self.last = len(pairs) - 1
        # The first shape is the one to which something happens, if anything does.
        self.actor = next(pair.shapes[0] for pair in pairs if pair.shapes[0] is not None)

    def ask(self, num_questions: int) -> list[Question]:
        askers: list[tuple[Callable[[], Question | None], float]] = [
            (self.happens, 2.0),
            (self.which_way, 2.0),
            (self.colour_then, 1.5),
            (self.turns, 2.0),
            (self.is_there_then, 1.5),
            (self.what_appears, 1.0),
            (self.what_disappears, 1.0),
            (self.count_then, 2.0),
            (self.when, 6.0),
        ]
        return ask_in_turn(askers, num_questions, self.rng, key=lambda question: question.question)

    def make(
        self,
        task: str,
        phrasings: Sequence[str],
        answer: str,
        asked: tuple[str, str] = ("", ""),
        pairs: Sequence[int] = (),
        looks_at: Sequence[int] = (),
        second_part: int = 0,
        looks_at_end: bool = False,
        **words: str,
    ) -> Question:
        """`asked` are the kind and colour that the question names; see `Question` for what follows."""
        question = vary(self.rng.choice(phrasings).format(**words), self.rng)
        named = (*asked, "")
        return Question(
            question, answer, task, None, REASONING, named, pairs, looks_at, second_part, looks_at_end
        )

    def happens(self) -> Question:
        """What there is at first, then what there is at the end: whoever reads it sees what has happened."""
        first, last = (self.description(pair) for pair in (0, self.last))
        answer = f"{first}, then {last[0].lower()}{last[1:]}."
        return self.make("happens", HAPPENS, answer, pairs=[0, self.last], second_part=len(first) + 1)

    def description(self, pair: int) -> str:
        shapes = [shape for shape in self.pairs[pair].shapes if shape is not None]
        placed = sorted((self.cell(shape), shape.colour, shape.kind) for shape in shapes)
        things = [(colour, kind, PLACES[cell]) for cell, colour, kind in placed]
        return describe(things).rstrip(".") if things else "Nothing"

    def cell(self, shape: Shape) -> int:
        return int(shape.y / self.size[0] * 3) * 3 + int(shape.x / self.size[1] * 3)

    def there(self, pair: int) -> list[int]:
        """The numbers of the shapes that a pair shows."""
        return [number for number, shape in enumerate(self.pairs[pair].shapes) if shape is not None]

    def last_colour(self) -> str:
        last = self.pairs[-1].shapes[0]
        return last.colour if last is not None else ""

    def which_way(self) -> Question | None:
        number = self.some_shape()
        if number is None or (self.story != "moves" and self.rng.random() < 0.75):
            return None
        kind = self.kind_of(number)
        shapes = [self.pairs[pair].shapes[number] for pair in (0, self.last)]
        begin, end = (at_place(PLACES[self.cell(shape)]).split(" ", 1)[1] for shape in shapes if shape)
        start = f"From {begin}"
        answer = f"{start} to {end}."
        return self.make(
            "direction", WHICH_WAY, answer, (kind, ""), [0, self.last], (number,), len(start), it=kind
        )

    def some_shape(self) -> int | None:
        """The number of a shape that stays from the first to the last, the only one of its kind."""
        if self.story == "counts":
            return None
        staying = [n for n in self.there(0) if n in self.there(self.last)]
        if not staying:
            return None
        return staying[0] if self.rng.random() < 0.7 else self.rng.choice(staying)

    def kind_of(self, number: int) -> str:
        return next(shape.kind for pair in self.pairs if (shape := pair.shapes[number]) is not None)

    def then(self) -> tuple[int, str]:
        """The first pair or the last one, and its name."""
        if self.rng.random() < 0.5:
            return 0, self.rng.choice(AT_FIRST)
        return self.last, self.rng.choice(AT_THE_END)

    def colour_then(self) -> Question | None:
        number = self.some_shape()
        if number is None or (self.story != "turns" and self.rng.random() < 0.5):
            return None
        pair, then = self.then()
        shape = self.pairs[pair].shapes[number]
        assert shape is not None
        answer = f"{upper_first(shape.colour)}."
        asked = (shape.kind, "")
        return self.make("colour", COLOUR_THEN, answer, asked, [pair], (number,), it=shape.kind, then=then)

    def turns(self) -> Question | None:
        if self.story != "turns":
            return None
        answer, kind = f"{upper_first(self.last_colour())}.", self.actor.kind
        return self.make("colour", TURNS, answer, (kind, ""), [self.last], (0,), it=kind)

    def is_there_then(self) -> Question:
        pair, then = self.then()
        kind = self.rng.choice(KINDS) if self.rng.random() < 0.25 else self.actor.kind
        fitting = [n for n in self.there(pair) if self.kind_of(n) == kind]
        one, answer = article(kind), yes_or_no(bool(fitting))
        return self.make("presence", IS_THERE_THEN, answer, (kind, ""), [pair], fitting, one=one, then=then)

    def what_appears(self) -> Question | None:
        return self._what("appears", WHAT_APPEARS)

    def what_disappears(self) -> Question | None:
        return self._what("disappears", WHAT_DISAPPEARS)

    def _what(self, story: str, phrasings: Sequence[str]) -> Question | None:
        if self.story != story:
            return None
        pair = self.last if story == "appears" else 0
        answer = f"{upper_first(article(named(self.actor)))}."
        return self.make("presence", phrasings, answer, pairs=[pair], looks_at=(0,))

    def count_then(self) -> Question:
        pair, then = self.then()
        numbers, kind = self.there(pair), ""
        these = self.rng.choice(["shapes", "shapes", "things", "objects"])
        if self.rng.random() < 0.4:
            kind = self.actor.kind
            these = f"{kind}s"
            numbers = [n for n in numbers if self.kind_of(n) == kind]
        answer = str(len(numbers))
        return self.make("count", COUNT_THEN, answer, (kind, ""), [pair], numbers, these=these, then=then)

    def when(self) -> Question | None:
        """The second of the first pair that shows what is new, or no longer what was there."""
        if self.story not in ("turns", "appears", "disappears"):
            return None
        shapes = [pair.shapes[0] for pair in self.pairs]
        if self.story == "disappears":
            pair = shapes.index(None)
        else:
            last = self.last_colour()
            pair = next(number for number, shape in enumerate(shapes) if shape and shape.colour == last)
        second = self.pairs[pair].second
        if second == 0:
            return None
        answer = f"At {second} second{'s' * (second != 1)}."
        if self.rng.random() < 0.3:
            return self.make("when", WHEN_ANY, answer, pairs=[pair], looks_at=(0,), looks_at_end=True)
        kind, colour, it = self.actor.kind, "", self.actor.kind
        if self.rng.random() < 0.3:
            colour = self.actor.colour
            it = f"{spoken_colour(colour, self.rng)} {kind}"
        do, does = DOES.get(self.story, (f"turn {self.last_colour()}", f"turns {self.last_colour()}"))
        asked = kind, colour or (self.last_colour() if self.story == "turns" else "")
        return self.make(
            "when", WHEN, answer, asked, [pair], (0,), looks_at_end=True, it=it, do=do, does=does
        )
