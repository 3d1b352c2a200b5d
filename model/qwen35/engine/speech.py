"""Sorts what the model writes into reasoning and answer."""

from collections.abc import Iterator

from qwen35.engine.detokenizer import Detokenizer
from qwen35.events import ReasoningDelta, TextDelta
from qwen35.processing.token_log import THINK_END, THINK_START
from qwen35.processing.tokenizer import Tokenizer


class Speech:
    """Reasoning up to `</think>`, then the answer. Mutable, for one request.

    The block is opened by the prompt, or by a model that begins with it unasked. Stop strings count in the
    answer alone.
    Newlines around both are the template's, not the text's, and are dropped.
    """

    def __init__(self, tokenizer: Tokenizer, *, starts_in_reasoning: bool, stop: tuple[str, ...]) -> None:
        self.think_end_id = tokenizer.id_of(THINK_END)
        self._think_start_id = tokenizer.id_of(THINK_START)
        self._is_beginning = True  # nothing was said yet
        self.is_reasoning = starts_in_reasoning and self.think_end_id is not None
        self.num_reasoning_tokens = 0
        self.reasoning = ""
        self.answer = ""
        self._reasoning = Detokenizer(tokenizer)
        self._answer = Detokenizer(tokenizer, stop)
        self._blank = ""  # newlines that are kept only if text follows

    @property
    def is_stopped(self) -> bool:
        return self._answer.is_stopped

    def push(self, token: int) -> Iterator[ReasoningDelta | TextDelta]:
        is_beginning, self._is_beginning = self._is_beginning, False
        if is_beginning and token == self._think_start_id and self.think_end_id is not None:
            self.is_reasoning = True
            self.num_reasoning_tokens += 1
            return
        if not self.is_reasoning:
            yield from self._say(self._answer.push(token))
            return
        self.num_reasoning_tokens += 1
        if token == self.think_end_id:
            yield from self._think(self._reasoning.flush())
            self.is_reasoning, self._blank = False, ""
        else:
            yield from self._think(self._reasoning.push(token))

    def finish(self) -> Iterator[ReasoningDelta | TextDelta]:
        if self.is_reasoning:
            yield from self._think(self._reasoning.flush())
        else:
            yield from self._say(self._answer.flush())

    def _think(self, text: str) -> Iterator[ReasoningDelta]:
        if text := self._trim(text, at_start=not self.reasoning):
            self.reasoning += text
            yield ReasoningDelta(text)

    def _say(self, text: str) -> Iterator[TextDelta]:
        if text := self._trim(text, at_start=not self.answer):
            self.answer += text
            yield TextDelta(text)

    def _trim(self, text: str, *, at_start: bool) -> str:
        text = self._blank + text
        if at_start:
            text = text.lstrip("\n")
        kept = text.rstrip("\n")
        self._blank = text[len(kept) :]
        return kept
