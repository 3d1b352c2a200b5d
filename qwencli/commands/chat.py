"""`qwen chat`: a conversation, with a person at a terminal or with a script of lines."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import completions, options
from qwencli.errors import ExitCode, refuse_both

if TYPE_CHECKING:
    from qwencli.chat.loop import Reader
    from qwencli.chat.session import Session
    from qwencli.render.record import Record
    from qwencli.settings import Settings


def chat(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Goes with the first question.", show_default=False),
    ] = None,
    goes_on: options.GoesOn = False,
    chat_id: Annotated[
        str | None,
        typer.Option(
            "--chat",
            metavar="ID",
            help="Go on with this one, as `qwen chats ls` lists it.",
            autocompletion=completions.complete_chat,
            show_default=False,
        ),
    ] = None,
    attach: options.Attach = None,
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
    no_cache: options.NoCache = False,
    private: options.Private = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Talk: questions and answers in a conversation that is saved as it happens.

    /help lists the commands in it. Ctrl-C stops an answer, Ctrl-D leaves.

    Without a terminal, each line of standard input is a message or a command; several lines between
    triple quotes are one. The first error ends such a script.
    """
    from qwencli.chat.keys import kept_for_the_prompt
    from qwencli.folders import Folders
    from qwencli.settings import Settings

    refuse_both({"-q and -v": quiet and verbose, "-c and --chat": goes_on and chat_id})
    settings = Settings.resolve(context.params, os.environ, Folders.locate(os.environ).config_file)
    with kept_for_the_prompt(_is_at_terminal()):
        answered = _talk(settings, context.params, "last" if goes_on else chat_id)
    if not _is_at_terminal() and any(record.finish_reason == "length" for record in answered):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _talk(settings: "Settings", flags: dict[str, Any], chat_id: str | None) -> "list[Record]":
    """The chat, from the conversation that it goes on with to the end of its input. Returns its answers."""
    from qwencli.chat.loop import run
    from qwencli.chat.screen import Screen
    from qwencli.chat.session import Session
    from qwencli.conversations.store import open_store
    from qwencli.folders import Folders
    from qwencli.render.aside import Verbosity
    from qwencli.render.output import standard_output
    from qwencli.settings import misspelt_variables

    folders, is_private = Folders.locate(os.environ), flags["private"]
    verbosity = Verbosity.QUIET if flags["quiet"] else Verbosity.NORMAL
    screen = Screen(standard_output(), Verbosity.VERBOSE if flags["verbose"] else verbosity)
    for note in misspelt_variables(os.environ):
        screen.note(note)
    with open_store(folders, is_private=is_private, notify=screen.note) as store:
        session = Session(
            settings,
            folders,
            screen,
            store,
            pages=flags["pages"],
            is_private=is_private,
            uses_cache=not flags["no_cache"],
        )
        if chat_id is not None:
            session.resume(
                chat_id, keeps_system=flags["system"] is not None, keeps_model=flags["model"] is not None
            )
        session.open_model()
        reader = _reader(session, is_private=is_private)
        if reader.is_interactive:
            _greet(session, is_resumed=chat_id is not None)
        try:
            session.attach([*(flags["inputs"] or []), *(flags["attach"] or [])])
            run(session, reader)
        finally:
            session.close()
        if reader.is_interactive and session.conversation.is_saved and store.file is not None:
            screen.say(f"saved; `qwen chat --chat {session.conversation.id}` goes on")
        return session.answered


def _is_at_terminal() -> bool:
    """Whether a person sits there, at a terminal that can show a prompt."""
    streams = (sys.stdin, sys.stdout)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and os.environ.get("TERM") != "dumb"


def _reader(session: "Session", *, is_private: bool) -> "Reader":
    if _is_at_terminal():
        from qwencli.chat.prompt import PromptReader

        return PromptReader(session, is_private=is_private)
    from qwencli.chat.lines import LineReader

    if sys.stdin is not None and sys.stdin.isatty():
        session.screen.note("no prompt can be shown here; type a message a line, and Ctrl-D at the end")
    return LineReader()


def _greet(session: "Session", *, is_resumed: bool) -> None:
    from qwencli.chat.commands.turns import describe

    if is_resumed:
        session.screen.say(describe(session))
    session.screen.say(f"{session.model.name}. /help shows the commands, Ctrl-D leaves.")
