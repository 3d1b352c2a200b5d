"""What every renderer offers."""

from types import TracebackType
from typing import Protocol, Self

from qwen35.events import Event


class Renderer(Protocol):
    """Shows the events of one request, in order.

    Leaving it completes the last line, however the run ended.
    """

    def show(self, event: Event) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
