"""`qwen ask`: one question, one answer. The whole road, from what was typed to what is printed."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwencli import completions, options
from qwencli.errors import ExitCode, refuse_both
from qwencli.render.record import Record, Style

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwen35.engine.load import States
    from qwen35.engine.request import Request
    from qwen35.engine.windows import Windows
    from qwen35.events import Event
    from qwen35.messages import Message
    from qwen35.processing.processor import Processor
    from qwencli.conversations.conversation import Conversation
    from qwencli.known_models import KnownModel
    from qwencli.media.attach import Attachment
    from qwencli.render.aside import Aside
    from qwencli.render.base import Renderer
    from qwencli.render.output import Output
    from qwencli.settings import Settings
    from qwencli.structured.finish import Finish
    from qwencli.values import PageRanges
    from qwencli.windows import WindowChoice

NEW = "new"  # for --chat: a conversation that this question begins


def ask(
    context: typer.Context,
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", show_default=False)] = None,
    goes_on: options.GoesOn = False,
    chat_id: Annotated[
        str | None,
        typer.Option(
            "--chat",
            metavar="ID|new",
            help="Go on with this conversation, as `qwen chats ls` lists it; or begin one.",
            autocompletion=completions.complete_chat,
            show_default=False,
        ),
    ] = None,
    attach: options.Attach = None,
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
    speculate: options.Speculate = None,
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
    num_answers: options.NumAnswers = 1,
    logprobs: options.Logprobs = False,
    loops: options.Loops = None,
    schema: options.Schema = None,
    regex: options.Regex = None,
    choice: options.Choice = None,
    grammar: options.GrammarFile = None,
    rules: options.Check = None,
    where: options.Where = False,
    render_as: options.As = None,
    extract: options.Extract = False,
    no_cache: options.NoCache = False,
    private: options.Private = False,
    json: options.Json = False,
    jsonl: options.Jsonl = False,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask one question, about pictures, videos, documents and text where they are given.

    PROMPT is the question: the last argument, in quotes. INPUT is a picture, a video, a PDF or text file, a
    URL, a data: URI, a folder of such files, numbered frames (frames/%04d.png), or - for standard input.

    qwen ask receipt.png "What is the total?"

    cat log.txt | qwen ask "What failed?"

    Without INPUT, standard input is read where it is a pipe or a file, and goes before the question; with
    INPUT it is left alone, so that this works in a `while read` loop.

    qwen ask receipt.png "What was bought?" --schema "shop, total float, items[]"

    Exit codes: 0 answered, 2 usage, 3 input unusable, 4 model unusable, 5 does not fit, 7 answer incomplete
    (cut, in a loop, not by the schema), 8 network, 9 output unwritable, 130 interrupted.
    """
    from qwen35.events import Finished, Note
    from qwencli import runtime
    from qwencli.conversation import messages_of, system_text
    from qwencli.conversations.store import LAST, open_store
    from qwencli.folders import Folders
    from qwencli.introduction import introduce
    from qwencli.known_models import find_or_choose_model
    from qwencli.media.attach import Attacher
    from qwencli.question import Question
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.settings import Settings, misspelt_variables
    from qwencli.structured.finish import Finish
    from qwencli.templates.template import chosen_template
    from qwencli.windows import WindowChoice

    refuse_both(
        {
            "--json and --jsonl": json and jsonl,
            "-q and -v": quiet and verbose,
            "-c and --chat": goes_on and chat_id,
            "--window and --n": window is not None and num_answers > 1,
        }
    )
    style: Style = "json" if json else "jsonl" if jsonl else "text"
    folders = Folders.locate(os.environ)
    # The options that are settings are taken by name: Typer keeps the values of this signature there.
    template = chosen_template(template_name, variables or (), folders.templates)
    given = template.under(context.params, is_record=style != "text") if template else context.params
    finish = Finish.of(
        given["schema"],
        regex,
        choice,
        grammar,
        kind=given["render_as"],
        extracts=given["extract"],
        num_answers=num_answers,
        wants_logprobs=logprobs,
        checks=given["rules"] or (),
        tells_where=where,
        is_record=style != "text",
    )
    windows = WindowChoice.of(
        window,
        in_each=each_window,
        in_conversation=goes_on or chat_id is not None,
        has_form=finish.form is not None,
    )
    settings = Settings.resolve(given, os.environ, folders.config_file)
    words = [*(inputs or []), *([] if prompt is None else [prompt])]
    question = (
        template.question(words, attach or [])
        if template
        else Question.parse(inputs or [], prompt, attach or [])
    )
    record: Record = context.obj
    output = standard_output()
    engine: Engine | None = None
    verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    with ExitStack() as stack:
        aside = stack.enter_context(Aside(verbosity, shows_reasoning=style == "text"))
        renderer = stack.enter_context(_renderer(style, output, aside, finish, record))

        def show(event: "Event") -> None:
            record.take(event)
            complaint = finish.settle(record) if isinstance(event, Finished) else None
            renderer.show(event)
            if complaint:
                show(Note(complaint))

        def notify(text: str) -> None:
            show(Note(text))

        for note in misspelt_variables(os.environ):
            notify(note)
        settings = replace(settings, system=system_text(settings.system))
        sampling = runtime.sampling_of(settings)
        chat, attacher = None, Attacher(pages, notify, aside.progress.update, sampling=sampling)
        if goes_on or chat_id:
            store = stack.enter_context(open_store(folders, is_private=private, notify=notify))
            chat = store.begin() if chat_id == NEW else store.find(chat_id or LAST)
            attacher = store.attacher(pages, notify, aside.progress.update, sampling)
            settings = replace(
                settings, system=settings.system or chat.system, model=settings.model or chat.model
            )
            record.chat_id = chat.id
        known_model = find_or_choose_model(settings.model, folders, settings.ram)
        record.model = known_model.name
        attachments = attacher.attach_all(question.inputs)
        messages = messages_of(settings.system, attachments, question.prompt)
        if chat is not None:
            messages = (*chat.messages(settings.system), messages[-1])
        finish = finish.about(messages)
        messages = (*messages[:-1], finish.told(messages[-1]))
        states = None if no_cache else runtime.states_of(settings, folders.states, is_private=private)
        asked = _Asked(
            settings, known_model, folders.cache, states, attachments, messages, windows, finish, notify
        )
        if dry_run:
            _render_prompt(asked, record)
        else:
            if not private:
                introduce(known_model, folders, notify)
            keeping = _kept(chat, question.prompt, pages, asked) if chat else nullcontext(lambda event: None)
            engine = _answer(asked, record, show, aside, keeping)
    if style != "text":
        record.print(output, style)
    elif dry_run:
        output.write_text(record.prompt_report())
    elif verbose:
        aside.figures(record.figures())
    if engine is not None:  # the answer is out: only now is waited for what is being saved
        with aside.progress:
            aside.progress.update("saving the state for the next question", 0, 0, "bytes")
            notes = engine.close()
        for note in notes:
            aside.show(Note(note))
    if record.is_incomplete:
        raise typer.Exit(ExitCode.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class _Asked:
    settings: "Settings"
    model: "KnownModel"
    cache: Path
    states: "States | None"
    attachments: "list[Attachment]"
    messages: "tuple[Message, ...]"
    windows: "WindowChoice | None"
    finish: "Finish"
    notify: Callable[[str], None]


@contextmanager
def _kept(
    chat: "Conversation", prompt: str, pages: "PageRanges | None", asked: _Asked
) -> "Iterator[Callable[[Event], None]]":
    """Save the question in the conversation, and the answer from its events."""
    chat.ask(prompt, asked.attachments, asked.settings, pages)
    with chat.answering(asked.model.name) as answer:
        yield answer.take
    if answer.trouble:
        asked.notify(f"this answer is not saved whole: {answer.trouble}")


def _answer(
    asked: _Asked,
    record: Record,
    show: "Callable[[Event], None]",
    aside: "Aside",
    keeping: "AbstractContextManager[Callable[[Event], None]]",
) -> "Engine":
    """Ask the model. The engine that comes back may still be saving what it computed.

    `keeping`, entered when nothing more can be wrong with the question, takes the events of the answer.
    """
    from qwen35.engine.engine import prepare
    from qwen35.engine.several import answer_several
    from qwen35.engine.walk import walk
    from qwen35.events import Note
    from qwencli import runtime

    def on_load(done: int, total: int) -> None:
        aside.progress.update(f"loading {asked.model.name}", done, total, "bytes")

    # Everything that can be wrong with the question is said before the model's gigabytes are read.
    started = time.perf_counter()
    processor = runtime.open_processor(asked.model.folder)
    record.load_s = time.perf_counter() - started
    request, windows = _planned(asked, processor, record)
    prompt = prepare(processor, request)
    # What is made of a clip is told before the work on it begins; the engine would tell it after loading.
    told = {clip.note for clip in prompt.clips}
    for note in prompt.notes:
        if note in told and not windows:
            asked.notify(note)
    started = time.perf_counter()
    on_load(0, 0)
    engine = runtime.load(
        asked.model.folder, processor, asked.settings, asked.cache, asked.states, on_load, asked.notify
    )
    record.load_s += time.perf_counter() - started
    record.backend = engine.backend_name
    if prompt.media:
        aside.progress.update(f"looking at the {'video' if prompt.clips else 'pictures'}", 0, 0, "tokens")
    else:
        aside.progress.update("reading the prompt", 0, 0, "tokens")
    in_each = asked.windows is not None and asked.windows.in_each
    request = replace(request, logprobs=asked.finish.wants_logprobs)
    num_answers = asked.finish.num_answers
    answering = (
        engine.run(walk(engine, windows, in_each=in_each))
        if windows
        else answer_several(engine, request, prompt, num_answers)
        if num_answers > 1
        else engine.generate(request, prompt)
    )
    with keeping as keep, closing(answering) as events:
        for event in events:
            if isinstance(event, Note) and event.text in told:
                continue
            keep(event)
            show(event)
    return engine


def _planned(asked: _Asked, processor: "Processor", record: Record) -> "tuple[Request, Windows | None]":
    """What the model is asked; in windows, what it is asked in the first one, and all of them."""
    from qwencli import runtime
    from qwencli.windows import told_of

    def request_of(messages: "tuple[Message, ...]") -> "Request":
        request, record.attachments = runtime.plan(
            processor, asked.settings, messages, asked.attachments, asked.notify, asked.finish.form
        )
        return request

    if asked.windows is None:
        return request_of(asked.messages), None
    windows = asked.windows.plan(processor, asked.messages, request_of)
    record.attachments = told_of(record.attachments, windows)
    asked.notify(f"{windows.clip.source}: {windows.line}")
    return windows.request_of(0), windows


def _render_prompt(asked: _Asked, record: Record) -> None:
    """`--dry-run`: what the model would be given, and what it costs in tokens."""
    from qwencli import runtime

    processor = runtime.open_processor(asked.model.folder)
    request, windows = _planned(asked, processor, record)
    prepared = processor.prepare(
        request.messages, enable_thinking=request.thinking, image_bounds=request.image_bounds
    )
    plans = {clip.note for clip in prepared.clips} if windows else set()  # told of all windows together
    for note in prepared.notes:
        if note not in plans:
            asked.notify(note)
    if windows:
        asked.notify(f"the prompt shown is that of the first of {len(windows.plans):,} windows")
    num_tokens = len(prepared.ids)
    model_context = processor.config.text.max_position_embeddings
    context = min(asked.settings.ctx or model_context, model_context)
    if num_tokens >= context:
        asked.notify(f"this does not fit: {num_tokens:,} tokens, and the context holds {context:,}")
    record.set_prompt(prepared.prompt, num_tokens, prepared.image_tokens, prepared.video_tokens)


def _renderer(style: Style, output: "Output", aside: "Aside", finish: "Finish", record: Record) -> "Renderer":
    if style == "json":
        from qwencli.render.jsonl import JsonRenderer

        return JsonRenderer(aside)
    if style == "jsonl":
        from qwencli.render.jsonl import JsonlRenderer

        return JsonlRenderer(output, aside)
    if finish.waits or (finish.form and not output.isatty()):  # a program gets what has been checked
        from qwencli.render.whole import WholeRenderer

        return WholeRenderer(output, aside, lambda: finish.text(record))
    if output.isatty() and os.environ.get("TERM") != "dumb" and not finish.form:  # whose text is no Markdown
        from qwencli.render.terminal import TerminalRenderer

        return TerminalRenderer(output, aside)
    from qwencli.render.plain import PlainRenderer

    return PlainRenderer(output, aside)
