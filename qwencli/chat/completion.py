"""What Tab offers: commands, and behind them models, settings, conversations and paths; after @ paths."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from qwencli.chat.commands.choices import names_of_settings
from qwencli.chat.commands.table import COMMANDS
from qwencli.chat.commands.turns import SUMMARY
from qwencli.chat.session import Session
from qwencli.known_models import known_models

_VALUES = {
    "think": ("off", "on", "auto", "fold", "unfold"),
    "show": ("settings", "model", "system", "thinking"),
    "export": ("md", "json", "jsonl"),
    "compact": (SUMMARY,),
}
_OF_SETTING = {
    "think": ("off", "on", "auto"),
    "image-tokens": ("auto", "model"),
    "video-tokens": ("auto", "model"),
    "device": ("auto", "cpu", "cuda"),
    "load": ("auto", "read", "mmap"),
    "quant": ("none", "nf4", "int8"),
}
_PATH = re.compile(r"""(?:^|\s)@("[^"\n]*|'[^'\n]*|(?:\\.|[^\s\\"'])*)$""")
_MAX_OFFERED = 200


class ChatCompleter(Completer):
    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and "\n" not in text:
            name, space, argument = text[1:].partition(" ")
            if not space:
                yield from self._commands(name)
            elif name in COMMANDS:
                yield from self._arguments(COMMANDS[name].completes, argument)
        elif match := _PATH.search(text):
            yield from _paths(match[1])

    def _commands(self, begun: str) -> Iterator[Completion]:
        for command in COMMANDS.values():
            if command.name.startswith(begun):
                yield Completion(
                    command.name, -len(begun), display=f"/{command.name}", display_meta=command.help
                )

    def _arguments(self, kind: str | None, begun: str) -> Iterator[Completion]:
        match kind:
            case "path":
                yield from _paths(begun)
            case "command":
                yield from _words(COMMANDS, begun)
            case "model":
                yield from _words((model.name for model in known_models(self._session.folders)), begun)
            case "chat":
                for summary in self._session.store.summaries(_MAX_OFFERED):
                    if summary.id.startswith(begun):
                        yield Completion(summary.id, -len(begun), display_meta=summary.title)
            case "setting":
                name, space, value = begun.partition(" ")
                yield from (
                    _words(_OF_SETTING.get(name, ()), value) if space else _words(names_of_settings(), name)
                )
            case "attached":
                for number, attachment in enumerate(self._session.pending, 1):
                    if str(number).startswith(begun):
                        yield Completion(str(number), -len(begun), display_meta=attachment.source)
            case "export":
                yield from _words(_VALUES["export"], begun)
                yield from _paths(begun)
            case str():
                yield from _words(_VALUES[kind], begun)


def _words(words: Iterable[str], begun: str) -> Iterator[Completion]:
    for word in words:
        if word.startswith(begun):
            yield Completion(word, -len(begun))


def _paths(begun: str) -> Iterator[Completion]:
    """Names in the folder that `begun` leads to; those with spaces in quotes."""
    quote = begun[:1] if begun[:1] in ("'", '"') else ""
    path = begun[len(quote) :] if quote else begun.replace("\\ ", " ")
    folder, name = os.path.split(path)
    try:
        entries = sorted(Path(folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return
    offered = [entry for entry in entries if entry.name.startswith(name) and (name or entry.name[0] != ".")]
    for entry in offered[:_MAX_OFFERED]:
        shown = entry.name + (os.sep if entry.is_dir() else "")
        whole = path[: len(path) - len(name)] + shown
        if quote or " " in whole:
            mark = quote or '"'
            whole = f"{mark}{whole}" + ("" if entry.is_dir() else mark)
        yield Completion(whole, -len(begun), display=shown)
