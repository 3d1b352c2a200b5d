"""One call of `qwen batch`, from its output to its exit code; `qwencli.commands.batch` has its options."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35.engine.engine import Engine
from qwen35.events import Note
from qwen35.weights.fingerprint import fingerprint
from qwencli import runtime
from qwencli.batch.estimate import estimate
from qwencli.batch.formats import Format
from qwencli.batch.identity import Run
from qwencli.batch.items import Item
from qwencli.batch.listing import Listing
from qwencli.batch.output_file import OutputFile, read_output, told_of_others
from qwencli.batch.prepare import Preparer
from qwencli.batch.run import Batch
from qwencli.batch.speeds import keep_speed, last_speed
from qwencli.batch.summary import Summary
from qwencli.batch.survey import Survey
from qwencli.batch.targets import Done, StreamTarget, Target, is_stream
from qwencli.errors import ExitCode
from qwencli.folders import Folders
from qwencli.introduction import introduce
from qwencli.known_models import KnownModel
from qwencli.render.aside import Aside
from qwencli.render.output import standard_output
from qwencli.render.record import SCHEMA_VERSION
from qwencli.settings import Settings
from qwencli.structured.finish import Finish
from qwencli.values import PageRanges
from qwencli.windows import WindowChoice


@dataclass(frozen=True, slots=True)
class Existing:
    """What is to become of an output that is there."""

    append: bool
    overwrite: bool
    retry: tuple[Done, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """One call of `qwen batch`. `form`: of the lines; `question`: None where each item has its own."""

    settings: Settings
    folders: Folders
    model: KnownModel
    form: Format
    question: str | None
    pages: PageRanges | None
    out: Path | None
    existing: Existing
    finish: Finish
    aside: Aside
    uses_cache: bool
    is_private: bool
    prints_json: bool
    is_verbose: bool
    windows: WindowChoice | None

    def notify(self, text: str) -> None:
        self.aside.show(Note(text))

    def run(self, listing: Listing, num_items: int, rows: int | None, limit: int | None) -> int:
        """Answer the items. Returns the exit code."""
        weights, run = self._run()
        summary = Summary(num_items)
        with self._target(run) as target:
            batch = Batch(
                self._preparer(run, target.find),
                target,
                self.form,
                self._load,
                self.aside,
                summary,
                rows,
                limit,
                shows_progress=self.out is not None or not sys.stdout.isatty(),
            )
            try:
                batch.run(listing)
            finally:
                summary.end()
                self.aside.progress.end()
                if summary.done:
                    self.aside.figures(summary.text(None if self._is_stream else str(self.out)))
        if not self.is_private:
            keep_speed(self.folders.state, weights, summary)
        if self.is_verbose and batch.engine:
            self.aside.figures(batch.figures())
        if self.prints_json:
            self._print_json(summary.to_dict() | {"interrupted": batch.stop.is_asked})
        if batch.engine:
            self._close(batch.engine)
        if batch.stop.is_asked:
            signal.raise_signal(signal.SIGINT)  # what was asked for: an interrupted run
        if summary.failed + summary.failed_before:
            return ExitCode.SOME_FAILED
        is_complete = not summary.incomplete + summary.incomplete_before
        return ExitCode.OK if is_complete else ExitCode.INCOMPLETE

    def estimate(self, found: Survey, limit: int | None) -> None:
        """`--dry-run`."""
        weights, run = self._run()
        made = estimate(
            found,
            limit,
            self._preparer(run, lambda item, content: None),
            last_speed(self.folders.state, weights),
            lambda number, total: self.aside.progress.update("looking at some items", number, total, "items"),
        )
        self.aside.progress.end()
        if self.prints_json:
            self._print_json(made.to_dict())
        else:
            standard_output().write_text(made.text())

    def is_done(self) -> Callable[[Item], bool]:
        """Whether an item is in the output, which is only looked at; a note where it would be refused.

        A file is read only where it is newer than the output: there may be many.
        """
        if self.out is None or self.existing.overwrite:
            return lambda item: False
        _, run = self._run()
        done: dict[str, str] = {}  # items, and their content
        others, difference = 0, ""
        for line, made_of in read_output(self.out, self.form):
            if made_of.run != run:
                others, difference = others + 1, run.differences(made_of.run)
            elif line.done_as in self.existing.retry:
                done.pop(line.item, None)
            else:
                done[line.item] = made_of.content
        if others and not self.existing.append:
            self.notify(f"{self.out}: {told_of_others(others, difference)}, and would be refused")
        written = self.out.stat().st_mtime if done else 0.0

        def is_done(item: Item) -> bool:
            if (content := done.get(item.id)) is None:
                return False
            return not item.may_differ_since(written) or item.content_hash() == content

        return is_done

    def _run(self) -> tuple[str, Run]:
        weights = fingerprint(self.model.folder)
        question, form = self.question, self.finish.form
        if form:
            asked = [question or "", form.grammar.source, *(rule.text for rule in form.rules)]
            question = "\n".join([*asked, "--where"] if self.finish.tells_where else asked)
        if self.finish.extracts:
            question = f"{question or ''}\n-x"
        if self.windows:
            question = f"{question or ''}\n{self.windows}"
        return weights, Run.of(weights, question, self.settings, self.pages)

    def _preparer(self, run: Run, find: Callable[[str, str], Done | None]) -> Preparer:
        processor = runtime.open_processor(self.model.folder)
        return Preparer(
            processor,
            self.settings,
            self.pages,
            self.model.name,
            run,
            self.form.prefix,
            find,
            self.finish,
            self.windows,
        )

    def _target(self, run: Run) -> Target:
        """A file that is gone on with, or a stream."""
        if self.out is None or self._is_stream:
            return StreamTarget(self.out, self.form.header)
        output = OutputFile.open(
            self.out,
            self.form,
            run,
            append=self.existing.append,
            overwrite=self.existing.overwrite,
            retry=self.existing.retry,
        )
        if output.found.torn_bytes:
            self.notify(
                f"{self.out}: ended in the middle of a line, which is cut off; its item is asked again"
            )
        return output

    @property
    def _is_stream(self) -> bool:
        return self.out is None or is_stream(self.out)

    def _load(self) -> Engine:
        if not self.is_private:
            introduce(self.model, self.folders, self.notify)
        states = None
        if self.uses_cache:
            states = runtime.states_of(self.settings, self.folders.states, is_private=self.is_private)
        self._on_load(0, 0)
        processor = runtime.open_processor(self.model.folder)
        return runtime.load(
            self.model.folder,
            processor,
            self.settings,
            self.folders.cache,
            states,
            self._on_load,
            self.notify,
        )

    def _on_load(self, done: int, total: int) -> None:
        self.aside.progress.update(f"loading {self.model.name}", done, total, "bytes")

    def _close(self, engine: Engine) -> None:
        with self.aside.progress:
            self.aside.progress.update("saving the states that items share", 0, 0, "bytes")
            notes = engine.close()
        for note in notes:
            self.notify(note)

    def _print_json(self, values: dict[str, Any]) -> None:
        output = None if self.out is None else str(self.out)
        names = {"schema_version": SCHEMA_VERSION, "model": self.model.name, "output": output}
        standard_output().print_json(names | values | {"error": None})
