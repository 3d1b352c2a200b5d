"""`--window`: a very long video is walked through, window by window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        cls, seconds: float | None, *, in_each: bool, in_conversation: bool, has_form: bool
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
        if in_each and has_form:
            raise UsageError("--each-window gives several answers: no schema or grammar describes them all.")
        return cls(seconds, in_each)

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
