"""`--window`: a very long video is walked through, window by window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwencli.errors import UsageError

if TYPE_CHECKING:
    from qwen35.engine.request import Request
    from qwen35.engine.windows import Windows
    from qwen35.messages import Message
    from qwen35.processing.processor import Processor


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """What was asked for: windows of so many `seconds`, an answer at the end or `in_each`."""

    seconds: float
    in_each: bool

    @classmethod
    def of(
        cls, seconds: float | None, *, in_each: bool, has_form: bool, in_conversation: bool = False
    ) -> "WindowChoice | None":
        """None where no windows are asked for. Raises UsageError for what does not go together."""
        if seconds is None:
            if in_each:
                raise UsageError("--each-window needs --window TIME, such as --window 60s.")
            return None
        if in_conversation:
            raise UsageError(
                "--window is for a single question: a conversation (-c, --chat) would hold the video whole."
            )
        from qwen35.engine.windows import LEAST_S

        if seconds < LEAST_S:
            raise UsageError(
                f"A window of {seconds:g} s is too short. Choose {LEAST_S:g} s or more (--window)."
            )
        choice = cls(seconds, in_each)
        choice.check(has_form=has_form)
        return choice

    def check(self, *, has_form: bool) -> None:
        """Raises UsageError where answers in each window cannot have one form."""
        if self.in_each and has_form:
            raise UsageError("--each-window gives several answers: no schema or grammar describes them all.")

    def plan(
        self,
        processor: "Processor",
        messages: "tuple[Message, ...]",
        request_of: "Callable[[tuple[Message, ...]], Request]",
    ) -> "Windows":
        """The windows of the one video in `messages`; `request_of` makes a request of messages.

        What is asked of it are those of the first window, so that what caps a video, and is told of that,
        goes for a window. Raises InputError.
        """
        from qwen35.engine.request import Request
        from qwen35.engine.windows import Windows

        windows = Windows.plan(processor, Request(messages), self.seconds)
        return windows.of_request(processor, request_of(windows.request_of(0).messages))

    def __str__(self) -> str:
        """As it was asked for."""
        return f"--window {self.seconds:g}{' --each-window' * self.in_each}"


def told_of(attachments: list[dict[str, Any]], windows: "Windows") -> list[dict[str, Any]]:
    """What JSON says of attachments, whose video is walked through."""
    return [item | windows.to_dict() if item["type"] == "video" else item for item in attachments]
