"""Questions about a receipt, in many phrasings, each with one canonical answer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mini.labels import Question
from mini.phrasing import ask_in_turn, vary

DESCRIBE_RECEIPT = (
    "Describe the picture.",
    "Describe",
    "Describe this image.",
    "What do you see?",
    "What is this?",
    "What is in the picture?",
    "What is shown here?",
    "What kind of document is this?",
)
TOTAL = (
    "What is the total?",
    "What's the total?",
    "What is the total amount?",
    "What is the total on the receipt?",
    "How much is the total?",
    "How much is it in total?",
    "How much was paid in total?",
    "Total?",
    "Read the total.",
    "Tell me the total of this receipt.",
    "What does it all cost?",
    "How much do I have to pay?",
    "What is the sum?",
    "Give me the total.",
)
DATE = (
    "What is the date?",
    "What's the date on the receipt?",
    "What date is on the receipt?",
    "Which date is printed on it?",
    "When was this?",
    "When was the purchase?",
    "Date?",
    "Read the date.",
    "Tell me the date of the receipt.",
    "From which day is this receipt?",
    "What is the date of this receipt?",
)
MERCHANT = (
    "What is the merchant?",
    "Who is the merchant?",
    "Which shop is this receipt from?",
    "What shop is this?",
    "What is the name of the shop?",
    "What is the name of the store?",
    "Which store is it?",
    "Merchant?",
    "Where was this bought?",
    "Who issued this receipt?",
    "Name the merchant.",
    "Tell me the name of the shop.",
)
PRICE = (
    "How much was {item}?",
    "How much was the {item}?",
    "How much is the {item}?",
    "How much did the {item} cost?",
    "What is the price of {item}?",
    "What is the price of the {item}?",
    "What does the {item} cost?",
    "What did the {item} cost?",
    "Price of {item}?",
    "Tell me the price of {item}.",
    "What was paid for {item}?",
)
COUNT_ITEMS = (
    "How many items are on the receipt?",
    "How many items are there?",
    "How many items?",
    "How many things were bought?",
    "Count the items.",
    "What is the number of items?",
    "Number of items?",
    "Tell me how many items there are.",
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says, each string as it is printed."""

    merchant: str
    date: str
    items: tuple[tuple[str, str], ...]  # name, price
    total: str


class ReceiptAsker:
    """Asks about one receipt; each method draws one question at random."""

    def __init__(self, receipt: Receipt, absent_items: Sequence[str], rng: random.Random) -> None:
        self.receipt = receipt
        self.absent_items = absent_items
        self.rng = rng

    def make(self, task: str, phrasings: Sequence[str], answer: str, **words: str) -> Question:
        question = vary(self.rng.choice(phrasings).format(**words), self.rng)
        return Question(question, answer, task, reasoning="The picture shows a receipt.")

    def total(self) -> Question:
        return self.make("total", TOTAL, self.receipt.total)

    def date(self) -> Question:
        return self.make("date", DATE, self.receipt.date)

    def merchant(self) -> Question:
        return self.make("merchant", MERCHANT, self.receipt.merchant)

    def price(self) -> Question:
        if self.rng.random() < 0.1:
            item, answer = self.rng.choice(self.absent_items), "It is not on the receipt."
        else:
            item, answer = self.rng.choice(self.receipt.items)
        spoken = item if self.rng.random() < 0.5 else item.lower()
        return self.make("price", PRICE, answer, item=spoken)

    def count(self) -> Question:
        return self.make("items", COUNT_ITEMS, str(len(self.receipt.items)))

    def describe(self) -> Question:
        answer = f"A receipt with {len(self.receipt.items)} items."
        return self.make("describe", DESCRIBE_RECEIPT, answer)


def receipt_questions(
    receipt: Receipt, absent_items: Sequence[str], num_questions: int, rng: random.Random
) -> list[Question]:
    """Questions about the receipt; `absent_items` are names that are not on it."""
    asker = ReceiptAsker(receipt, absent_items, rng)
    askers = [
        (asker.total, 3.0),
        (asker.date, 1.5),
        (asker.merchant, 1.5),
        (asker.price, 3.0),
        (asker.count, 0.5),
        (asker.describe, 0.4),
    ]
    return ask_in_turn(askers, num_questions, rng, key=lambda question: question.question)
