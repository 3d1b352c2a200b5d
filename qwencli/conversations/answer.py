"""An answer, saved while it streams."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from qwen35.errors import UnwritableError
from qwen35.events import Event, Finished, Prefilled, ReasoningDelta, TextDelta, Usage
from qwencli.conversations.records import StoredMessage

if TYPE_CHECKING:
    from qwencli.conversations.conversation import Conversation

FLUSH_S = 0.25  # so much of a growing answer is lost with its process


@dataclass
class AnswerWriter:
    """Mutable, for one answer: to be entered, and given each event.

    Left before `Finished` came, it saves what there is, as interrupted; its completion_tokens are then
    the pieces of text that came. Nothing is saved of an answer without a word. Trouble with the disk
    never stops an answer: `trouble` tells of it afterwards.
    """

    conversation: "Conversation"
    model: str
    clock: Callable[[], float] = time.monotonic
    text: str = ""
    reasoning: str = ""
    message: StoredMessage | None = None  # as saved
    trouble: UnwritableError | None = None
    _is_finished: bool = False
    _usage: Usage = field(default_factory=Usage)
    _num_pieces: int = 0
    _flushed_at: float = field(default=float("-inf"))

    def take(self, event: Event) -> None:
        match event:
            case Prefilled():
                self._usage = Usage(event.prompt_tokens, event.cached_tokens)
                return
            case TextDelta(text):
                self.text += text
                self._num_pieces += 1
            case ReasoningDelta(text):
                self.reasoning += text
                self._num_pieces += 1
            case Finished():
                self.text, self.reasoning = event.answer, event.reasoning
                self._is_finished = True
                self._save(
                    finish_reason=event.reason,
                    usage=asdict(event.usage),
                    timings=asdict(event.timings),
                    token_ids=event.token_ids or None,
                )
                return
            case _:
                return
        if self.clock() - self._flushed_at >= FLUSH_S:
            self._save()
            self._flushed_at = self.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_finished and (self.text or self.reasoning):
            usage = replace(self._usage, completion_tokens=self._num_pieces)
            self._save(
                finish_reason="error" if isinstance(error, Exception) else "interrupted", usage=asdict(usage)
            )

    def _save(self, **values: Any) -> None:
        values |= {"text": self.text, "reasoning": self.reasoning or None}
        try:
            if self.message is None:
                self.message = self.conversation.append("assistant", model=self.model, **values)
            else:
                self.message = self.conversation.amend(**values)
            self.trouble = None
        except UnwritableError as error:
            self.trouble = error
