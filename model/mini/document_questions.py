"""Questions about documents, each with one canonical answer: whole ones as JSON or CSV, and single fields."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mini.document_templates import OCR_PROMPT, TEMPLATES
from mini.labels import Question
from mini.marks import LAST_LINE, Answer, Marks
from mini.phrasing import article, ask_in_turn, upper_first, vary
from mini.text_questions import READ

AS_JSON = (
    "Give the {it} as JSON.",
    "Answer in JSON.",
    "As JSON",
    "Convert the {it} to JSON.",
    "Read the {it} into JSON.",
    "Extract the data as JSON.",
    "The {it} as JSON, please.",
    "Write the {it} in JSON.",
    "Turn this {it} into JSON.",
    "Give me the data as JSON.",
    "Read this {it}. Answer in JSON.",
    "What does the {it} say? Answer in JSON.",
)
AS_CSV = (
    "Give the {it} as CSV.",
    "Answer in CSV.",
    "As CSV",
    "Convert the {it} to CSV.",
    "Read the {it} into CSV.",
    "Extract the data as CSV.",
    "The {it} as CSV, please.",
    "Write the {it} in CSV.",
    "Turn this {it} into CSV.",
    "Give me the data as CSV.",
    "Read this {it}. Answer in CSV.",
)
DESCRIBE = (
    "Describe the picture.",
    "Describe this image.",
    "What do you see?",
    "What is this?",
    "What is it?",
    "What's this?",
    "What is in the picture?",
    "What is shown here?",
    "What kind of document is this?",
)
FIELDS = {
    "shop": ("Which shop is it?", "What is the shop?", "Who is the merchant?", "What shop is this from?"),
    "date": ("What is the date?", "What date is it?", "Which date is given?", "When was it?"),
    "total": ("What is the total?", "How much is the total?", "What is the total amount?", "How much is it?"),
    "number": ("What is the invoice number?", "What is the number?", "Which number does it have?"),
    "customer": ("Who is the customer?", "Who has to pay?", "Who is it for?", "To whom is the invoice?"),
}
CELL = (
    "What is the {column} of {row}?",
    "What is {column} for {row}?",
    "Which {column} does {row} have?",
    "How much is {column} in the row {row}?",
    "Tell me the {column} of {row}.",
    "{column} of {row}?",
)
CHART_VALUE = (
    "What is the value of {label}?",
    "How much is {label}?",
    "What value does {label} have?",
    "How high is {label}?",
    "Tell me the value of {label}.",
    "{label}?",
)
SCHEMA = "Answer in JSON that follows this schema: {schema}"
REASONING = "The picture shows a document."


@dataclass(frozen=True, slots=True)
class Document:
    """What has been written: its `count` rows, items or values, and the number of a row's `columns`."""

    kind: str
    marks: Marks
    count: int
    columns: int
    values: Sequence[int] = ()

    def place(self, name: str) -> tuple[int, int]:
        """Line and number of a receipt's or an invoice's field."""
        first = {"receipt": ("shop", "date"), "invoice": ("number", "date", "customer")}[self.kind]
        if name == "total":
            return LAST_LINE, 2
        return 1 + first.index(name), 2 if name in ("number", "customer") else 1

    @property
    def fields(self) -> tuple[str, ...]:
        fields = {"receipt": ("shop", "date", "total"), "invoice": ("number", "date", "customer", "total")}
        return fields.get(self.kind, ())


class DocumentAsker:
    """Asks about one document; each method draws one question at random, or None."""

    def __init__(self, document: Document, rng: random.Random) -> None:
        self.document, self.marks, self.rng = document, document.marks, rng

    def make(self, task: str, phrasings: Sequence[str], answer: Answer, **words: str) -> Question:
        question = self.rng.choice(phrasings)
        if question != OCR_PROMPT:
            question = vary(question, self.rng).format(it=self.spoken(), **words)
        return Question(question, answer.text, task, None, REASONING, sources=answer.sources)

    def spoken(self) -> str:
        kind = self.document.kind
        return "chart" if "chart" in kind and self.rng.random() < 0.5 else kind

    def describe(self) -> Question:
        answer = Answer(self.marks).say(f"{upper_first(article(self.document.kind))}.")
        return self.make("describe_document", DESCRIBE, answer)

    def as_json(self) -> Question:
        kind = self.document.kind
        task = f"{'chart' if 'chart' in kind else kind}_json"
        question = self.make(task, AS_JSON, self.json())
        if self.rng.random() < 0.35 and kind != "table":
            schema = json.dumps(self.schema())
            question.question = f"{question.question}\n\n{SCHEMA.format(schema=schema)}"
        return question

    def json(self) -> Answer:
        kind, answer = self.document.kind, Answer(self.marks)
        if kind == "table":
            return self._table_json(answer)
        if "chart" in kind:
            return self._chart_json(answer)
        answer.say("{")
        for name in self.document.fields:
            if name == "total" and kind == "receipt":
                self._items_json(answer)
            if name == "total":
                answer.read_number(name, *self.document.place(name), "}")
            else:
                answer.read_text(name, *self.document.place(name))
        return answer

    def schema(self) -> dict[str, object]:
        """Of what `json` gives, but of a table, whose columns it would have to know."""

        def of(properties: dict[str, object]) -> dict[str, object]:
            return {"type": "object", "properties": properties, "required": list(properties)}

        text, number = {"type": "string"}, {"type": "number"}
        if "chart" in self.document.kind:
            return {"type": "object", "additionalProperties": number}
        properties: dict[str, object] = {}
        for name in self.document.fields:
            if name == "total" and self.document.kind == "receipt":
                properties["items"] = {"type": "array", "items": of({"name": text, "price": number})}
            properties[name] = number if name == "total" else text
        return of(properties)

    def _table_json(self, answer: Answer) -> Answer:
        document = self.document
        answer.say("[")
        for row in range(document.count):
            answer.say("{")
            for number in range(1, document.columns + 1):
                answer.read(1, number, opening='"', closing='":')
                is_last = number == document.columns
                closing = ", " if not is_last else "}, " if row < document.count - 1 else "}]"
                quote = '"' if number == 1 else ""
                answer.read(row + 2, number, opening=f" {quote}", closing=quote + closing)
        return answer

    def _items_json(self, answer: Answer) -> None:
        answer.say('"items": [')
        for line, closing in self._items(3):
            answer.say("{").read_text("name", line, 1).read_number("price", line, 2, closing)

    def _chart_json(self, answer: Answer) -> Answer:
        answer.say("{")
        for number, value in enumerate(self.document.values, 1):
            answer.read(1, number, opening='"', closing='": ')
            answer.read_value(number, str(value))
            answer.say("}" if number == self.document.count else ", ", self.marks.sources(1, number)[-1])
        return answer

    def as_csv(self) -> Question | None:
        document = self.document
        if document.kind != "table":
            return None
        return self.make("table_csv", AS_CSV, self._csv(Answer(self.marks), ""))

    def _csv(self, answer: Answer, end: str) -> Answer:
        document = self.document
        for line in range(1, document.count + 2):
            for number in range(1, document.columns + 1):
                closing = "," if number < document.columns else "\n" if line <= document.count else end
                answer.read(line, number, closing=closing)
        return answer

    def cell(self) -> Question | None:
        """One value of a table by its row and column, or of a chart by its label."""
        document, rng = self.document, self.rng
        answer = Answer(self.marks)
        if document.kind == "table":
            row, number = rng.randint(2, document.count + 1), rng.randint(2, document.columns)
            name, column = self.marks.text(row, 1), self.marks.text(1, number)
            asked = [self.marks.text(line, 1) for line in range(2, document.count + 2)]
            if asked.count(name) > 1:
                return None
            return self.make("cell", CELL, answer.read(row, number), row=name, column=column)
        if not document.values:
            return None
        number = rng.randint(1, document.count)
        answer.read_value(number, str(document.values[number - 1]))
        return self.make("chart_value", CHART_VALUE, answer, label=self.marks.text(1, number))

    def text(self) -> Question | None:
        """All of it, line by line."""
        if self.document.values:
            return None
        answer = Answer(self.marks)
        fields = self.marks.fields()
        for index, (line, number) in enumerate(fields):
            following = fields[index + 1] if index + 1 < len(fields) else None
            closing = "" if following is None else " " if following[0] == line else "\n"
            answer.read(line, number, closing=closing)
        phrasings = (OCR_PROMPT, *READ) if self.rng.random() < 0.3 else READ
        return self.make("document_text", phrasings, answer)

    def template(self) -> Question | None:
        """What one of the program's templates asks for."""
        kind = self.document.kind
        answer = {"receipt": self._receipt_data, "invoice": self._invoice_data}.get(
            kind, self._chart_data if "chart" in kind else self._table_block
        )()
        name = "chart" if "chart" in kind else kind
        prompt, schema = TEMPLATES[name]
        told = f"\n\n{SCHEMA.format(schema=json.dumps(schema))}" if schema else ""
        task, sources = f"{name}_template", answer.sources
        return Question(prompt + told, answer.text, task, None, REASONING, sources=sources)

    def _receipt_data(self) -> Answer:
        answer = Answer(self.marks).say("{").read_text("shop", 1, 1).read_text("date", 2, 1)
        answer.say('"items": [')
        for line, closing in self._items(3):
            answer.say("{").read_text("name", line, 1).say('"quantity": 1, ')
            answer.read_number("price", line, 2, closing)
        return answer.read_number("total", LAST_LINE, 2, ', "currency": ""}')

    def _invoice_data(self) -> Answer:
        answer = Answer(self.marks).say("{").read_text("number", 1, 2).read_text("date", 2, 1)
        answer.say('"due_date": "", "seller": "", ').read_text("buyer", 3, 2).say('"lines": [')
        for line, closing in self._items(4):
            answer.say("{").read_text("text", line, 1).say('"quantity": 1, ')
            answer.read_number("unit_price", line, 2).read_number("amount", line, 2, closing)
        answer.read_number("net", LAST_LINE, 2).say('"tax": 0, ')
        return answer.read_number("total", LAST_LINE, 2, ', "currency": ""}')

    def _items(self, first: int) -> Iterator[tuple[int, str]]:
        """The lines of the items, and what closes each of them in JSON."""
        last = first + self.document.count - 1
        return ((line, "}], " if line == last else "}, ") for line in range(first, last + 1))

    def _chart_data(self) -> Answer:
        answer = Answer(self.marks).say('{"title": "", "x_axis": "", "y_axis": "", "series": [{"name": "", ')
        answer.say('"points": [')
        for number, value in enumerate(self.document.values, 1):
            answer.say("{").read_text("label", 1, number).say('"value": ')
            answer.read_value(number, str(value))
            closing = "}]}]}" if number == self.document.count else "}, "
            answer.say(closing, self.marks.sources(1, number)[-1])
        return answer

    def _table_block(self) -> Answer:
        answer = Answer(self.marks).say("```csv\n")
        self._csv(answer, "\n```")
        return answer

    def field(self) -> Question | None:
        if not self.document.fields:
            return None
        name = self.rng.choice(self.document.fields)
        answer = Answer(self.marks).read(*self.document.place(name))
        return self.make("document_field", FIELDS[name], answer)


def document_questions(document: Document, num_questions: int, rng: random.Random) -> list[Question]:
    asker = DocumentAsker(document, rng)
    askers: list[tuple[Callable[[], Question | None], float]] = [
        (asker.as_json, 6.0),
        (asker.as_csv, 2.0),
        (asker.text, 1.5),
        (asker.template, 1.2),
        (asker.field, 3.0),
        (asker.cell, 3.0),
        (asker.describe, 0.5),
    ]
    return ask_in_turn(askers, num_questions, rng, key=lambda question: question.question)
