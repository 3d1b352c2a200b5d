"""`qwen batch`: one question about many items, answered together, in an output that survives anything."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import options
from qwencli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwencli.batch.formats import Form, Format
    from qwencli.batch.identity import Run
    from qwencli.batch.items import Item
    from qwencli.batch.listing import Listing
    from qwencli.batch.prepare import Preparer
    from qwencli.batch.survey import Survey
    from qwencli.batch.targets import Done, Target
    from qwencli.folders import Folders
    from qwencli.known_models import KnownModel
    from qwencli.render.aside import Aside
    from qwencli.settings import Settings
    from qwencli.structured.finish import Finish
    from qwencli.values import PageRanges
    from qwencli.windows import WindowChoice


def batch(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="INPUT... PROMPT", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the answers there, and go on with what is there. Default: standard output.",
            show_default=False,
        ),
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    null: options.Null = False,
    format: options.LineFormat = "json",
    render_as: options.RenderAs = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what failed in the output.")
    ] = False,
    retry_incomplete: Annotated[
        bool,
        typer.Option(
            "--retry-incomplete",
            help="Ask again what has an incomplete answer in the output; another --max-tokens is allowed.",
        ),
    ] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Keep answers of another model, question or settings in the output."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin the output anew, whatever is in it.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Ask at most N items.", show_default=False),
    ] = None,
    batch_size: options.BatchSize = None,
    template_name: options.Template = None,
    variables: options.Variables = None,
    system: options.System = None,
    pages: options.Pages = None,
    model: options.Model = None,
    device: options.Device = None,
    load: options.Load = None,
    ram: options.Ram = None,
    quant: options.Quant = None,
    threads: options.Threads = None,
    ctx: options.Context = None,
    image_tokens: options.ImageTokenBounds = None,
    fps: options.Fps = None,
    frames: options.Frames = None,
    start: options.Start = None,
    end: options.End = None,
    video_tokens: options.VideoTokenBound = None,
    window: options.Window = None,
    each_window: options.EachWindow = False,
    think: options.Think = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    loops: options.Loops = None,
    schema: options.Schema = None,
    regex: options.Regex = None,
    choice: options.Choice = None,
    grammar: options.GrammarFile = None,
    rules: options.Check = None,
    where: options.Where = False,
    extract: options.Extract = False,
    no_cache: options.NoCache = False,
    private: options.Private = False,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask one question about many items: each file of a folder, each line of a list.

    INPUT is a folder (and all folders in it), files, a pattern in quotes ('scans/**/*.png'), a file of items
    (.jsonl), or - for a list of paths on standard input. PROMPT is the question, the last argument; {name},
    {path} and {stem} in it are the item's, and so are the columns of a .jsonl file: {city}.

    qwen batch scans/ "What is the total?" -o totals.jsonl

    find . -name '*.jpg' -print0 | qwen batch -0 - "Describe {name}." -o photos.csv --as csv

    qwen batch requests.jsonl -o answers.jsonl --format openai

    A line of a .jsonl file may have an `id`, an `image`, `video`, `path` or `file`, its own `prompt` (leave
    out PROMPT), or be a request of OpenAI's Batch API.

    The output has a line for each item, on the disk as soon as it is answered. After Ctrl-C (once: the items
    at work are finished), kill -9 or a power cut, the same command goes on where it stopped. An item is known
    by its name and its content: one that has changed is asked again. What many items share is computed once
    if it comes first: put long instructions into --system.

    Exit codes: 0 all answered, 6 some items failed, 7 some answers incomplete, 2 usage, 3 input unusable, 4
    model unusable, 5 does not fit, 9 output unwritable, 130 interrupted.
    """
    from qwencli import runtime
    from qwencli.batch.formats import FORMATS, CsvFormat
    from qwencli.batch.listing import Listing
    from qwencli.batch.survey import survey
    from qwencli.batch.targets import check_output
    from qwencli.batch.words import tell_apart
    from qwencli.conversation import system_text
    from qwencli.folders import Folders
    from qwencli.known_models import find_or_choose_model
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.settings import Settings
    from qwencli.structured.finish import Finish
    from qwencli.templates.places import Places
    from qwencli.templates.template import chosen_template
    from qwencli.windows import WindowChoice

    for pair, both in {
        "--append and --overwrite": append and overwrite,
        "-q and -v": quiet and verbose,
        "--format and --as": render_as and format != "json",
    }.items():
        if both:
            raise UsageError(f"Of {pair}, only one can be given.")
    if out == Path("-"):
        out = None  # standard output
    retry: dict[Done, bool] = {"failed": retry_failed, "incomplete": retry_incomplete}
    existing = _Existing(append, overwrite, tuple(kind for kind, is_asked in retry.items() if is_asked))
    folders = Folders.locate(os.environ)
    template = chosen_template(template_name, variables or (), folders.templates)
    given = template.under(context.params, is_record=True) if template else context.params
    finish = Finish.of(
        given["schema"],
        regex,
        choice,
        grammar,
        extracts=given["extract"],
        checks=given["rules"] or (),
        tells_where=where,
    )
    if where and (render_as or format != "json"):
        raise UsageError("--where is told in JSON lines: leave out --as and --format.")
    if out is None and (append or overwrite or existing.retry or (json and not dry_run)):
        raise UsageError(
            "--append, --overwrite, --retry-failed, --retry-incomplete and --json are for answers in a file: "
            "-o answers.jsonl"
        )
    windows = WindowChoice.of(window, in_each=each_window, has_form=finish.form is not None)
    form: Form = "csv" if render_as else "openai" if format == "openai" else "json"
    inputs, question = (words or [], template.prompt) if template else tell_apart(words or [])
    check_output(out, inputs)
    settings = Settings.resolve(given, os.environ, folders.config_file)
    settings = replace(settings, system=system_text(settings.system))
    runtime.sampling_of(settings)  # what cannot be meant is said before anything is looked at
    verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    places = None if question is None else Places(question)
    with (
        Aside(verbosity) as aside,
        Listing(inputs, places, include or (), exclude or (), null, out) as listing,
    ):
        command = _Command(
            settings,
            folders,
            find_or_choose_model(settings.model, folders, settings.ram),
            CsvFormat(tuple(finish.fields)) if form == "csv" else FORMATS[form],
            question,
            pages,
            out,
            existing,
            finish,
            aside,
            uses_cache=not no_cache,
            is_private=private,
            prints_json=json,
            is_verbose=verbose,
            windows=windows,
        )
        found = survey(
            listing,
            lambda done: aside.progress.update("looking at the items", done, 0, "items"),
            command.is_done() if dry_run else lambda item: False,
        )
        aside.progress.end()
        for note in found.notes:
            command.notify(note)
        if dry_run:
            command.estimate(found, limit)
            return
        code = command.run(listing, found.num_items, batch_size, limit)
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Existing:
    """What is to become of an output that is there."""

    append: bool
    overwrite: bool
    retry: "tuple[Done, ...]"


@dataclass(frozen=True, slots=True)
class _Command:
    settings: "Settings"
    folders: "Folders"
    model: "KnownModel"
    form: "Format"
    question: str | None
    pages: "PageRanges | None"
    out: Path | None
    existing: _Existing
    finish: "Finish"
    aside: "Aside"
    uses_cache: bool
    is_private: bool
    prints_json: bool
    is_verbose: bool
    windows: "WindowChoice | None"

    def notify(self, text: str) -> None:
        from qwen35.events import Note

        self.aside.show(Note(text))

    def run(self, listing: "Listing", num_items: int, rows: int | None, limit: int | None) -> int:
        """Answer the items. Returns the exit code."""
        from qwencli.batch.run import Batch
        from qwencli.batch.speeds import keep_speed
        from qwencli.batch.summary import Summary

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

    def estimate(self, found: "Survey", limit: int | None) -> None:
        """`--dry-run`."""
        from qwencli.batch.estimate import estimate
        from qwencli.batch.speeds import last_speed
        from qwencli.render.output import standard_output

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

    def is_done(self) -> "Callable[[Item], bool]":
        """Whether an item is in the output, which is only looked at; a note where it would be refused.

        A file is read only where it is newer than the output: there may be many.
        """
        from qwencli.batch.output_file import read_output, told_of_others

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

        def is_done(item: "Item") -> bool:
            if (content := done.get(item.id)) is None:
                return False
            return not item.may_differ_since(written) or item.content_hash() == content

        return is_done

    def _run(self) -> "tuple[str, Run]":
        from qwen35.weights.fingerprint import fingerprint
        from qwencli.batch.identity import Run

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

    def _preparer(self, run: "Run", find: "Callable[[str, str], Done | None]") -> "Preparer":
        from qwencli import runtime
        from qwencli.batch.prepare import Preparer

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

    def _target(self, run: "Run") -> "Target":
        """A file that is gone on with, or a stream."""
        from qwencli.batch.output_file import OutputFile
        from qwencli.batch.targets import StreamTarget

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
        from qwencli.batch.targets import is_stream

        return self.out is None or is_stream(self.out)

    def _load(self) -> "Engine":
        from qwencli import runtime
        from qwencli.introduction import introduce

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

    def _close(self, engine: "Engine") -> None:
        with self.aside.progress:
            self.aside.progress.update("saving the states that items share", 0, 0, "bytes")
            notes = engine.close()
        for note in notes:
            self.notify(note)

    def _print_json(self, values: dict[str, Any]) -> None:
        from qwencli.render.output import standard_output
        from qwencli.render.record import SCHEMA_VERSION

        output = None if self.out is None else str(self.out)
        names = {"schema_version": SCHEMA_VERSION, "model": self.model.name, "output": output}
        standard_output().print_json(names | values | {"error": None})
