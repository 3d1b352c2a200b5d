"""`--json`: nothing until the end. `--jsonl`: each event as one line when it happens."""

from dataclasses import asdict
from types import TracebackType
from typing import Self

from qwen35.events import (
    Event,
    Finished,
    Note,
    PictureProgress,
    Prefilled,
    PrefillProgress,
    ReasoningDelta,
    TextDelta,
    WindowAnswered,
)
from qwencli.render.aside import Aside
from qwencli.render.output import Output

_TYPES: dict[type[Event], str] = {
    Note: "note",
    PictureProgress: "picture_progress",
    PrefillProgress: "prefill_progress",
    Prefilled: "prefilled",
    ReasoningDelta: "reasoning",
    TextDelta: "text",
    WindowAnswered: "window",
}


class JsonRenderer:
    """Shows people what happens; the object itself is the record's, printed at the end."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside

    def show(self, event: Event) -> None:
        self._aside.show(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class JsonlRenderer(JsonRenderer):
    """The last line, of type "result", is the record's too: the object of `--json`."""

    def __init__(self, output: Output, aside: Aside) -> None:
        super().__init__(aside)
        self._output = output

    def show(self, event: Event) -> None:
        super().show(event)
        if not isinstance(event, Finished):
            self._output.print_line({"type": _TYPES[type(event)]} | asdict(event))
