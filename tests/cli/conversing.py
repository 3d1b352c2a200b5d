"""What tests of conversations share."""

from qwen35.events import Finished, Prefilled, ReasoningDelta, TextDelta, Timings, Usage
from qwencli.conversations.conversation import Conversation


def no_note(text: str) -> None:
    raise AssertionError(text)


def answer(chat: Conversation, text: str, reasoning: str = "") -> None:
    with chat.answering("mini") as writer:
        writer.take(Prefilled(10, 4, 0.1))
        if reasoning:
            writer.take(ReasoningDelta(reasoning))
        for word in text.split(" "):
            writer.take(TextDelta(f"{word} "))
        writer.take(Finished("stop", text, reasoning, Usage(10, 4, 0, 0, 5), Timings(decode_s=1)))
