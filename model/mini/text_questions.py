"""Questions about a few printed lines."""

import random
from collections.abc import Sequence

from mini.labels import Question
from mini.phrasing import ask_in_turn, vary

READ = (
    "Read the text.",
    "Read the text",
    "Read this.",
    "Read it.",
    "What does it say?",
    "What does the text say?",
    "What is written here?",
    "What is written in the picture?",
    "Which text is in the picture?",
    "What text do you see?",
    "Transcribe the text.",
    "Copy the text.",
    "OCR",
    "Extract the text.",
    "Please read the text in this image.",
    "Read all the text.",
)
READ_LINE = (
    "Read line {number}.",
    "Read line {number}",
    "What does line {number} say?",
    "What is written in line {number}?",
    "Line {number}?",
    "Read the {ordinal} line.",
    "What does the {ordinal} line say?",
    "What is the {ordinal} line?",
    "What is written in the {ordinal} line?",
    "Copy line {number}.",
    "Transcribe the {ordinal} line.",
    "Which text is in the {ordinal} line?",
)
READ_LAST = (
    "Read the last line.",
    "What does the last line say?",
    "What is the last line?",
    "What is written in the last line?",
    "Last line?",
    "Copy the last line.",
    "Transcribe the last line.",
    "Read the bottom line.",
    "Which text is in the last line?",
)
COUNT_LINES = (
    "How many lines are there?",
    "How many lines of text are there?",
    "How many lines does the text have?",
    "Count the lines.",
    "How many lines do you see?",
    "How many lines?",
    "What is the number of lines?",
    "Number of lines?",
)
DESCRIBE_TEXT = (
    "Describe the picture.",
    "Describe",
    "Describe this image.",
    "What do you see?",
    "What is this?",
    "What is in the picture?",
    "What is shown here?",
    "What does the picture show?",
)
ORDINALS = ("first", "second", "third", "fourth")


class TextAsker:
    """Asks about the printed lines of one picture; each method draws one question at random, or None."""

    def __init__(self, lines: Sequence[str], rng: random.Random) -> None:
        self.lines = lines
        self.rng = rng

    def make(self, task: str, phrasings: Sequence[str], answer: str, **words: object) -> Question:
        question = vary(self.rng.choice(phrasings).format(**words), self.rng)
        return Question(question, answer, task, reasoning="The picture shows printed text.")

    def read(self) -> Question:
        return self.make("read", READ, "\n".join(self.lines))

    def line(self) -> Question:
        index = self.rng.randrange(len(self.lines))
        return self.make("line", READ_LINE, self.lines[index], number=index + 1, ordinal=ORDINALS[index])

    def missing_line(self) -> Question | None:
        if len(self.lines) == len(ORDINALS):
            return None
        index = self.rng.randrange(len(self.lines), len(ORDINALS))
        answer = f"There is no line {index + 1}."
        return self.make("line", READ_LINE, answer, number=index + 1, ordinal=ORDINALS[index])

    def last(self) -> Question:
        return self.make("line", READ_LAST, self.lines[-1])

    def count(self) -> Question:
        return self.make("count_lines", COUNT_LINES, str(len(self.lines)))

    def describe(self) -> Question:
        num = len(self.lines)
        return self.make(
            "describe", DESCRIBE_TEXT, f"Printed text in {num} {'line' if num == 1 else 'lines'}."
        )


def text_questions(lines: Sequence[str], num_questions: int, rng: random.Random) -> list[Question]:
    asker = TextAsker(lines, rng)
    askers = [
        (asker.read, 6.0),
        (asker.line, 4.0),
        (asker.last, 1.0),
        (asker.missing_line, 0.2),
        (asker.count, 0.3),
        (asker.describe, 0.3),
    ]
    return ask_in_turn(askers, num_questions, rng, key=lambda question: question.question)
