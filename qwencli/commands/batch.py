"""`qwen batch`: one question about many items, answered together, in an output that survives anything."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwencli import options
from qwencli.errors import UsageError, refuse_both

if TYPE_CHECKING:
    from qwencli.batch.formats import Form
    from qwencli.batch.targets import Done


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

    refuse_both(
        {
            "--append and --overwrite": append and overwrite,
            "-q and -v": quiet and verbose,
            "--format and --as": render_as and format != "json",
        }
    )
    if out == Path("-"):
        out = None  # standard output
    kinds: dict[Done, bool] = {"failed": retry_failed, "incomplete": retry_incomplete}
    retry = tuple(kind for kind, is_asked in kinds.items() if is_asked)
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
    if out is None and (append or overwrite or retry or (json and not dry_run)):
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
    from qwencli.batch.command import Command, Existing  # the engine's modules, once nothing is wrong

    with (
        Aside(verbosity) as aside,
        Listing(inputs, places, include or (), exclude or (), null, out) as listing,
    ):
        command = Command(
            settings,
            folders,
            find_or_choose_model(settings.model, folders, settings.ram),
            CsvFormat(tuple(finish.fields)) if form == "csv" else FORMATS[form],
            question,
            pages,
            out,
            Existing(append, overwrite, retry),
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
