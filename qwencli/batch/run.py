"""The batch itself: items made ready ahead, answered together, each written as it ends."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from qwen35.cores import num_cores
from qwen35.engine import batching
from qwen35.engine.engine import Engine
from qwen35.errors import InputError, Qwen35Error
from qwen35.events import Finished, Note
from qwen35.memory import available_memory, resident_memory
from qwencli.batch.ahead import ahead
from qwencli.batch.formats import Format
from qwencli.batch.items import Item
from qwencli.batch.prepare import Prepared, Preparer
from qwencli.batch.stop import Stop
from qwencli.batch.summary import Summary
from qwencli.batch.targets import Target
from qwencli.errors import exit_code_for
from qwencli.media.source import is_data_uri, is_url
from qwencli.render.aside import Aside
from qwencli.render.columns import facts
from qwencli.render.record import Record, error_dict
from qwencli.structured.finish import Finish

MOST_READY = 16  # items that are prepared ahead
MAX_READY_BYTES = 256 << 20  # of their pictures
_MOST_THREADS = 4
_ANSWER_TOKENS = 1024  # that a row is given memory for where --max-tokens says nothing
_SHARE = 4  # rows may take one part in so many of the free memory
_SHOWN_FAILURES = 5


def _or_gone(error: Qwen35Error) -> Qwen35Error:
    """What is wrong with a file that is read while it is asked about: no decoder knows that it is gone."""
    with suppress(OSError, ValueError):
        path = error.path
        if path and not is_url(path) and not is_data_uri(path) and not Path(path).expanduser().exists():
            return InputError(f"{path}: was deleted or moved before it was read.", path=path)
    return error


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item at work: what its answer is put in, what becomes of it, and the memory of its row."""

    record: Record
    finish: Finish
    num_bytes: int


@dataclass(slots=True)
class Batch:
    """Mutable, for one run. `load` makes the engine, when there is an item that needs it.

    `rows`: answered at a time; None: as many as the memory has room for. `limit`: of items asked.
    """

    preparer: Preparer
    target: Target
    form: Format
    load: Callable[[], Engine]
    aside: Aside
    summary: Summary
    rows: int | None = None
    limit: int | None = None
    shows_progress: bool = True
    engine: Engine | None = None
    stop: Stop = field(default_factory=Stop)
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _num_rows: set[int] = field(default_factory=set)  # of items such as those that were asked
    _is_stop_told: bool = False

    def run(self, items: Iterable[Item]) -> None:
        """Answer all that is not done. Raises UnwritableError where an answer cannot be written."""
        prepared = ahead(
            items,
            self.preparer.prepare,
            num_threads=min(_MOST_THREADS, num_cores()),
            most=MOST_READY,
            max_bytes=MAX_READY_BYTES,
            is_stopped=lambda: self.stop.is_asked,
            may_wait=lambda: not self._asked,
        )
        with closing(prepared):
            askable = self._askable(prepared)
            if first := next(askable, None):  # the model is loaded only then
                self._answer(chain([first], askable))

    def figures(self) -> str:
        """How it was answered, for `-v`."""
        backend = self.engine.backend_name if self.engine else ""
        rows = {self.rows} if self.rows else {min(self._num_rows), max(self._num_rows)}
        return facts(
            {
                "model": f"{self.preparer.model}, loaded in {self.summary.load_s:.1f} s, on {backend}",
                "rows": f"{' to '.join(map(str, sorted(rows)))} at a time",
                "reused": f"{self.summary.cached_tokens:,} of {self.summary.prompt_tokens:,} prompt tokens",
            }
        )

    def _answer(self, askable: Iterable[Prepared | None]) -> None:
        start = time.monotonic()
        self.engine = engine = self.load()
        self.summary.load_s = time.monotonic() - start
        self.summary.begin()
        items = self._fitting(askable, None if self.rows else self._room(engine))
        rows = self.rows or batching.MOST_ROWS
        # Before this, nothing is running that could be finished: Ctrl-C ends it at once.
        with self.stop, closing(batching.answer_all(engine, items, rows)) as events:
            for id, event in events:
                if isinstance(event, batching.Failed):
                    self._fail(self._asked.pop(id).record, _or_gone(event.error))
                else:
                    record = self._asked[id].record
                    record.take(event)
                    if isinstance(event, Finished):
                        if complaint := self._asked.pop(id).finish.settle(record):
                            record.notes.append(complaint)
                        self._write(record, None)
                        self.summary.count(event.usage, is_incomplete=record.is_incomplete)
                self._show()

    def _askable(self, prepared: Iterable[Prepared | None]) -> Iterator[Prepared | None]:
        """Those that the model is to be asked about; the others are counted, and their failures written."""
        num_asked = 0
        for one in prepared:
            if one is None:
                yield None
            elif one.done_as is not None:
                self.summary.skipped += 1
                self.summary.failed_before += one.done_as == "failed"
                self.summary.incomplete_before += one.done_as == "incomplete"
            elif one.error is not None:
                self._fail(one.record, one.error)
            else:
                num_asked += 1
                yield one
                if num_asked == self.limit:
                    return
            self._show()

    def _fitting(
        self, askable: Iterable[Prepared | None], room_bytes: int | None
    ) -> Iterator[batching.Item | None]:
        """Each as soon as there is room for it beside those at work; one alone is always tried."""
        for one in askable:
            if one is None:
                yield None
                continue
            num_bytes = self._row_bytes(one)
            if room_bytes is not None:
                self._num_rows.add(max(1, min(batching.MOST_ROWS, room_bytes // num_bytes)))
            while room_bytes is not None and self._asked and self._bytes_at_work + num_bytes > room_bytes:
                if self.stop.is_asked:
                    return
                yield None
            yield self._as_asked(one, num_bytes)

    @property
    def _bytes_at_work(self) -> int:
        return sum(asked.num_bytes for asked in self._asked.values())

    def _as_asked(self, prepared: Prepared, num_bytes: int) -> batching.Item:
        assert prepared.request is not None
        assert self.engine is not None
        prepared.record.backend = self.engine.backend_name
        self._asked[prepared.item.id] = _Asked(prepared.record, prepared.finish, num_bytes)
        chosen = self.preparer.windows
        return batching.Item(
            prepared.item.id,
            prepared.request,
            prepared.prompt,
            prepared.windows,
            in_each=chosen is not None and chosen.in_each,
        )

    def _row_bytes(self, prepared: Prepared) -> int:
        """What an item takes while it is at work, its answer as long as it may become."""
        assert prepared.prompt is not None
        assert prepared.request is not None
        assert self.engine is not None
        num_tokens = len(prepared.prompt.ids) + (prepared.request.max_tokens or _ANSWER_TOKENS)
        return batching.row_bytes(self.engine, num_tokens)

    def _room(self, engine: Engine) -> int:
        """Bytes for all that is at work at a time."""
        free, ram = available_memory(), self.preparer.settings.ram
        if ram is not None:
            free = min(free, max(0, ram - resident_memory()))
        if (room := engine.backend.device_room()) is not None:
            free = min(free, room)
        return free // _SHARE

    def _fail(self, record: Record, error: Exception) -> None:
        if isinstance(error, Qwen35Error):
            failure = error_dict(exit_code_for(error), error.kind, str(error), error.path)
        else:
            failure = error_dict(exit_code_for(error), "bug", f"{type(error).__name__}: {error}", None)
            self.aside.figures("".join(traceback.format_exception(error)))
        self._write(record, failure)
        self.summary.failed += 1
        if self.summary.failed <= _SHOWN_FAILURES:
            self.aside.show(Note(f"failed: {failure['message']}"))
        elif self.summary.failed == _SHOWN_FAILURES + 1:
            self.aside.show(Note("more items fail; the output says which, and why"))

    def _write(self, record: Record, error: dict[str, Any] | None) -> None:
        assert record.item is not None
        self.target.write(record.item, self.form.encode(record, error))

    def _show(self) -> None:
        if self.stop.is_asked and not self._is_stop_told:
            self._is_stop_told = True
            what = f"{len(self._asked)} items" if len(self._asked) > 1 else "the item"
            self.aside.show(Note(f"finishing {what} at work; Ctrl-C again stops at once"))
        if not self.shows_progress:
            return
        if self.engine is None:
            self.aside.progress.update("looking for what is left", self.summary.done, 0, "items")
            return
        detail = f"{self.summary.tokens_per_s():,.0f} tokens/s"
        if self.summary.failed:
            detail = f"{self.summary.failed} failed, {detail}"
        if self.stop.is_asked:
            detail = f"finishing {len(self._asked)}"
        done = self.summary.answered + self.summary.failed
        total = self.summary.num_items - self.summary.skipped
        self.aside.progress.update("answering", done, total, "items", detail)
