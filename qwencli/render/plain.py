"""The answer as it comes, for a pipe or a file: the text itself and one newline at its end."""

from types import TracebackType
from typing import Self

from qwen35.events import Event, Finished, Note, TextDelta
from qwencli.render.aside import Aside
from qwencli.render.output import Output


class PlainRenderer:
    def __init__(self, output: Output, aside: Aside) -> None:
        self._output = output
        self._aside = aside
        self._held = ""  # newlines that may turn out to be the last ones
        self._is_in_line = False
        self._notes: list[Note] = []  # that came within the text

    def show(self, event: Event) -> None:
        if isinstance(event, Note) and self._is_in_line:
            self._notes.append(event)  # a terminal or `2>&1` would show it within a line
            return
        self._aside.show(event)
        if isinstance(event, TextDelta):
            text = self._held + event.text
            body = text.rstrip("\n")
            self._held = text[len(body) :]
            if body:
                self._write(body)
        elif isinstance(event, Finished):
            self._end_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_line()

    def _write(self, text: str) -> None:
        self._output.write_text(text)
        self._output.flush()
        self._is_in_line = True

    def _end_line(self) -> None:
        if self._is_in_line:
            self._write("\n")
            self._is_in_line = False
        while self._notes:
            self._aside.show(self._notes.pop(0))
