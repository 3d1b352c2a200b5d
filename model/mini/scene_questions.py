"""Questions about plain shapes, in many phrasings, each with one canonical answer."""

import random
from collections.abc import Sequence

from mini.labels import Question
from mini.marks import Answer
from mini.phrasing import article, ask_in_turn, join_words, upper_first, vary

KINDS = ("circle", "square", "triangle", "star", "diamond", "hexagon")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "grey")
PLACES = (
    "top left",
    "top centre",
    "top right",
    "middle left",
    "centre",
    "middle right",
    "bottom left",
    "bottom centre",
    "bottom right",
)

Placed = tuple[str, str, str]  # colour, kind, place

DESCRIBE = (
    "Describe the picture.",
    "Describe",
    "Describe this image.",
    "Describe what you see.",
    "What do you see?",
    "What is in the picture?",
    "What's in this picture?",
    "What is in this image?",
    "What is shown here?",
    "What does the picture show?",
    "What can you see in this picture?",
    "Tell me what is in this image.",
    "Give a description of the image.",
    "Please describe this picture.",
    "What is this?",
    "What is it?",
    "What's this?",
    "What do we see here?",
    "What can be seen?",
    "Describe the shapes.",
)
AS_JSON = (
    "List the shapes as JSON.",
    "Describe the picture. Answer in JSON.",
    "Answer in JSON.",
    "As JSON",
    "What do you see? Answer in JSON.",
    "Give the shapes as JSON.",
    "Describe the shapes in JSON.",
    "Write the shapes in JSON.",
    "Which shapes are there? Answer in JSON.",
    "The shapes as JSON, please.",
)
COUNT_ALL = (
    "How many shapes are there?",
    "How many shapes are in the picture?",
    "How many shapes do you see?",
    "How many shapes?",
    "Count the shapes.",
    "What is the number of shapes?",
    "How many objects are in the image?",
    "How many things are in this picture?",
    "Number of shapes?",
    "Tell me how many shapes there are.",
)
COUNT = (
    "How many {these} are there?",
    "How many {these} are in the picture?",
    "How many {these} do you see?",
    "How many {these}?",
    "Count the {these}.",
    "What is the number of {these}?",
    "How many {these} are in the image?",
    "How many {these} can you see?",
    "Number of {these}?",
    "Tell me how many {these} there are.",
)
COLOUR_OF = (
    "What colour is the {it}?",
    "What color is the {it}?",
    "Which colour is the {it}?",
    "Which colour does the {it} have?",
    "What is the colour of the {it}?",
    "What is the color of the {it}?",
    "Tell me the colour of the {it}.",
    "The {it} is what colour?",
    "Name the colour of the {it}.",
    "Colour of the {it}?",
)
COLOURS_HERE = (
    "Which colours are in the picture?",
    "What colours do you see?",
    "What colors are in the image?",
    "Which colours do the shapes have?",
    "Name the colours.",
    "List the colours of the shapes.",
    "What colours are the shapes?",
    "Which colors can you see?",
)
SHAPE_OF_COLOUR = (
    "What shape is the {colour} one?",
    "What shape is {colour}?",
    "Which shape is {colour}?",
    "What is the shape of the {colour} object?",
    "What kind of shape is {colour}?",
    "Which shape has the colour {colour}?",
    "The {colour} one is what shape?",
    "Name the {colour} shape.",
)
SHAPE_AT = (
    "What shape is {place}?",
    "Which shape is {place}?",
    "What kind of shape is {place}?",
    "Which shape do you see {place}?",
    "Name the shape {place}.",
    "Tell me which shape is {place}.",
    "The shape {place} is what?",
    "What is the shape {place}?",
)
THING_AT = (
    "What is {place}?",
    "What's {place}?",
    "What do you see {place}?",
    "What can you see {place}?",
    "Describe what is {place}.",
    "Which thing is {place}?",
    "What lies {place}?",
    "Tell me what is {place}.",
)
COLOUR_AT = (
    "What colour is the shape {place}?",
    "What color is the shape {place}?",
    "Which colour is {place}?",
    "What colour is the thing {place}?",
    "What is the colour of the shape {place}?",
    "Which colour does the shape {place} have?",
    "Tell me the colour of the shape {place}.",
    "Name the colour {place}.",
)
WHERE = (
    "Where is the {it}?",
    "Where's the {it}?",
    "Where in the picture is the {it}?",
    "Where do you see the {it}?",
    "In which place is the {it}?",
    "What is the position of the {it}?",
    "Find the {it}.",
    "Tell me where the {it} is.",
    "Locate the {it}.",
    "At which place is the {it}?",
)
IS_THERE = (
    "Is there {one}?",
    "Is there {one} in the picture?",
    "Do you see {one}?",
    "Can you see {one}?",
    "Does the picture show {one}?",
    "Is {one} in the image?",
    "Does the image contain {one}?",
    "Tell me if there is {one}.",
    "Is {one} there?",
)
IS_COLOUR = (
    "Is the {kind} {colour}?",
    "Does the {kind} have the colour {colour}?",
    "Is the {kind} of {colour} colour?",
    "Is the {kind} {colour} in colour?",
    "The {kind} is {colour}, right?",
    "Is it true that the {kind} is {colour}?",
    "Is {colour} the colour of the {kind}?",
    "Tell me if the {kind} is {colour}.",
)


def at_place(place: str) -> str:
    """The place in an answer: there is one canonical form for each of the nine."""
    return "in the centre" if place == "centre" else f"at the {place}"


def spoken_place(place: str, rng: random.Random) -> str:
    """The place in a question, where more than the canonical form is understood."""
    if place == "centre":
        forms = ["in the centre", "in the middle", "in the center", "at the centre"]
    else:
        forms = [f"at the {place}", f"at the {place}", f"in the {place}", f"on the {place}"]
        if place.endswith("centre"):
            forms.append(f"at the {place.replace('centre', 'center')}")
            forms.append(f"at the {place.split()[0]} in the middle")
        elif not place.startswith("middle"):
            forms.append(f"in the {place} corner")
        else:
            forms.append(f"on the {place.split()[1]} in the middle")
    return rng.choice(forms)


def spoken_colour(colour: str, rng: random.Random) -> str:
    return "gray" if colour == "grey" and rng.random() < 0.3 else colour


def describe(things: Sequence[Placed]) -> str:
    """The canonical description; `things` come in reading order."""
    parts = [f"{article(f'{colour} {kind}')} {at_place(place)}" for colour, kind, place in things]
    return upper_first(join_words(parts)) + "."


class SceneAsker:
    """Asks about the shapes of one picture; each method draws one question at random, or None."""

    def __init__(self, things: Sequence[Placed], rng: random.Random) -> None:
        self.things = list(things)
        self.colours = [colour for colour, _, _ in things]
        self.kinds = [kind for _, kind, _ in things]
        self.rng = rng

    def make(
        self,
        task: str,
        phrasings: Sequence[str],
        answer: str,
        asked: tuple[str, str, str] = ("", "", ""),
        **words: str,
    ) -> Question:
        """`words` fill the phrasing; `asked` says which of them name a kind, a colour and a place."""
        num = len(self.things)
        reasoning = f"The picture shows a scene with {num} {'shape' if num == 1 else 'shapes'}."
        question = self.rng.choice(phrasings).format(**words)
        return Question(vary(question, self.rng), answer, task, reasoning=reasoning, asked=asked)

    def missing(self, all_words: Sequence[str], here: Sequence[str]) -> str:
        return self.rng.choice([word for word in all_words if word not in here])

    def describe(self) -> Question:
        return self.make("describe", DESCRIBE, describe(self.things))

    def as_json(self) -> Question:
        answer = Answer().say("[")
        for number, (colour, kind, place) in enumerate(self.things):
            answer.say("{" if number == 0 else ", {")
            for line, (name, word) in enumerate((("shape", kind), ("colour", colour), ("place", place)), 1):
                answer.say(f'"{name}": "').spell(word, number, line).say('"' if line == 3 else '", ')
            answer.say("}")
        answer.say("]")
        question = self.make("scene_json", AS_JSON, answer.text)
        question.sources = answer.sources
        return question

    def count_all(self) -> Question:
        return self.make("count", COUNT_ALL, str(len(self.things)))

    def count_some(self) -> Question:
        how = self.rng.randrange(3)
        if how == 0:
            kind = self.rng.choice(self.kinds if self.kinds and self.rng.random() < 0.75 else KINDS)
            return self.make("count", COUNT, str(self.kinds.count(kind)), (kind, "", ""), these=f"{kind}s")
        colour = self.rng.choice(self.colours if self.colours and self.rng.random() < 0.75 else COLOURS)
        spoken = spoken_colour(colour, self.rng)
        if how == 1:
            noun = self.rng.choice(["shapes", "objects", "things"])
            return self.make(
                "count", COUNT, str(self.colours.count(colour)), ("", colour, ""), these=f"{spoken} {noun}"
            )
        kind = self.rng.choice(self.kinds or KINDS)
        count = sum((colour, kind) == (c, k) for c, k, _ in self.things)
        return self.make("count", COUNT, str(count), (kind, colour, ""), these=f"{spoken} {kind}s")

    def colour_of(self) -> Question | None:
        if not self.things or self.rng.random() < 0.2:
            kind = self.missing(KINDS, self.kinds)
            return self.make("colour", COLOUR_OF, f"There is no {kind}.", (kind, "", ""), it=kind)
        colour, kind, _ = self.rng.choice(self.things)
        if self.kinds.count(kind) > 1:
            return None
        return self.make("colour", COLOUR_OF, f"{upper_first(colour)}.", (kind, "", ""), it=kind)

    def colours_here(self) -> Question:
        names = join_words(list(dict.fromkeys(self.colours)))
        return self.make("colours", COLOURS_HERE, f"{upper_first(names)}.")

    def shape_of_colour(self) -> Question | None:
        if not self.things or self.rng.random() < 0.2:
            colour = self.missing(COLOURS, self.colours)
            spoken = spoken_colour(colour, self.rng)
            return self.make(
                "shape", SHAPE_OF_COLOUR, f"There is nothing {colour}.", ("", colour, ""), colour=spoken
            )
        colour, kind, _ = self.rng.choice(self.things)
        if self.colours.count(colour) > 1:
            return None
        spoken = spoken_colour(colour, self.rng)
        return self.make(
            "shape", SHAPE_OF_COLOUR, f"{upper_first(article(kind))}.", ("", colour, ""), colour=spoken
        )

    def at_place(self) -> Question:
        if self.rng.random() < 0.2:
            place, thing = self.missing(PLACES, [place for _, _, place in self.things]), None
        else:
            thing = self.rng.choice(self.things)
            place = thing[2]
        task, phrasings = self.rng.choice([("shape", SHAPE_AT), ("thing", THING_AT), ("colour", COLOUR_AT)])
        if thing is None:
            answer = "There is nothing there."
        elif task == "shape":
            answer = f"{upper_first(article(thing[1]))}."
        elif task == "thing":
            answer = f"{upper_first(article(f'{thing[0]} {thing[1]}'))}."
        else:
            answer = f"{upper_first(thing[0])}."
        return self.make(task, phrasings, answer, ("", "", place), place=spoken_place(place, self.rng))

    def where(self) -> Question | None:
        if not self.things or self.rng.random() < 0.2:
            kind = self.missing(KINDS, self.kinds)
            if self.rng.random() < 0.5:
                return self.make("where", WHERE, f"There is no {kind}.", (kind, "", ""), it=kind)
            colour = self.rng.choice(COLOURS)
            it = f"{spoken_colour(colour, self.rng)} {kind}"
            return self.make("where", WHERE, f"There is no {colour} {kind}.", (kind, colour, ""), it=it)
        colour, kind, place = self.rng.choice(self.things)
        answer = f"{upper_first(at_place(place))}."
        spoken = spoken_colour(colour, self.rng)
        if self.rng.random() < 0.4 and self.kinds.count(kind) == 1:
            return self.make("where", WHERE, answer, (kind, "", ""), it=kind)
        if self.rng.random() < 0.2 and self.colours.count(colour) == 1:
            return self.make(
                "where", WHERE, answer, ("", colour, ""), it=f"{spoken} {self.rng.choice(['one', 'shape'])}"
            )
        if sum((colour, kind) == (c, k) for c, k, _ in self.things) > 1:
            return None
        return self.make("where", WHERE, answer, (kind, colour, ""), it=f"{spoken} {kind}")

    def is_there(self) -> Question:
        colour, kind = self.rng.choice(COLOURS), self.rng.choice(KINDS)
        if self.things and self.rng.random() < 0.6:
            colour, kind, _ = self.rng.choice(self.things)
            if self.rng.random() < 0.3:
                kind = self.rng.choice(KINDS)
        spoken = spoken_colour(colour, self.rng)
        how = self.rng.randrange(3)
        if how == 0:
            return self.make(
                "present", IS_THERE, yes_or_no(kind in self.kinds), (kind, "", ""), one=article(kind)
            )
        if how == 1:
            one = self.rng.choice(["something {}", "anything {}", "a {} shape"]).format(spoken)
            one = one.replace("a orange", "an orange")
            return self.make(
                "present", IS_THERE, yes_or_no(colour in self.colours), ("", colour, ""), one=one
            )
        is_here = any((colour, kind) == (c, k) for c, k, _ in self.things)
        return self.make(
            "present", IS_THERE, yes_or_no(is_here), (kind, colour, ""), one=article(f"{spoken} {kind}")
        )

    def is_colour(self) -> Question | None:
        colour, kind, _ = self.rng.choice(self.things)
        if self.kinds.count(kind) > 1:
            return None
        asked = colour if self.rng.random() < 0.5 else self.missing(COLOURS, [colour])
        spoken = spoken_colour(asked, self.rng)
        return self.make(
            "present", IS_COLOUR, yes_or_no(asked == colour), (kind, asked, ""), kind=kind, colour=spoken
        )


def yes_or_no(is_true: bool) -> str:
    return "Yes." if is_true else "No."


def scene_questions(things: Sequence[Placed], num_questions: int, rng: random.Random) -> list[Question]:
    """Questions about shapes given in reading order."""
    asker = SceneAsker(things, rng)
    askers = [
        (asker.describe, 3.0),
        (asker.as_json, 1.5),
        (asker.count_all, 1.0),
        (asker.count_some, 1.0),
        (asker.colour_of, 1.0),
        (asker.colours_here, 0.4),
        (asker.shape_of_colour, 0.8),
        (asker.at_place, 1.5),
        (asker.where, 1.2),
        (asker.is_there, 1.0),
        (asker.is_colour, 0.6),
    ]
    return ask_in_turn(askers, num_questions, rng, key=lambda question: question.question)
