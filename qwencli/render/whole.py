"""An answer that is shown when it is whole and has been checked, not before."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from qwen35.events import Event, Finished
from qwencli.render.aside import Aside
from qwencli.render.output import Output


class WholeRenderer:
    """`text` says what is to be shown when the answer has ended; nothing where it is empty."""

    def __init__(self, output: Output, aside: Aside, text: Callable[[], str]) -> None:
        self._output, self._aside, self._text = output, aside, text

    def show(self, event: Event) -> None:
        self._aside.show(event)
        if isinstance(event, Finished) and (text := self._text().rstrip("\n")):
            self._output.write_text(text + "\n")
            self._output.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass
