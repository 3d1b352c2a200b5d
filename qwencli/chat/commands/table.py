"""All commands of the chat, by name, and how a line becomes one of them."""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from qwencli.chat.commands import choices, figures, files, turns
from qwencli.chat.session import Session
from qwencli.chat.typed import first_word, is_input, path_of
from qwencli.errors import UsageError
from qwencli.suggest import did_you_mean

Completes = Literal[
    "path", "model", "chat", "setting", "command", "think", "export", "show", "compact", "attached"
]


class Leave(Exception):
    """/quit: the chat ends."""


@dataclass(frozen=True, slots=True)
class Command:
    """`run` gets the session and what stands behind the name, without space around it."""

    name: str
    argument: str
    help: str
    run: Callable[[Session, str], None]
    completes: Completes | None = None


def _help(session: Session, argument: str) -> None:
    name = argument.lstrip("/")
    if name:
        command = find_command(name)
        session.screen.show(f"/{command.name} {command.argument}".rstrip() + f": {command.help}")
        return
    usages = {f"/{c.name} {c.argument}".rstrip(): c.help for c in COMMANDS.values()}
    usages |= {"!COMMAND": "Run it in the shell, and attach what it writes."}
    width = session.screen.width
    keys = textwrap.fill(KEYS, min(width, _LINE_COLUMNS), break_on_hyphens=False)
    session.screen.show(f"{_in_columns(usages, width)}\n\n{keys}")


def _in_columns(usages: Mapping[str, str], width: int) -> str:
    """Names beside their help, or above it on a narrow screen; broken between words."""
    column = max(map(len, usages)) + 2
    if width < column + _HELP_COLUMNS:
        return "\n".join(
            f"{name}\n{textwrap.fill(text, width, initial_indent='  ', subsequent_indent='  ')}"
            for name, text in usages.items()
        )
    return "\n".join(
        textwrap.fill(text, width, initial_indent=name.ljust(column), subsequent_indent=" " * column)
        for name, text in usages.items()
    )


def _quit(session: Session, argument: str) -> None:
    raise Leave


KEYS = (
    "@PATH in a question attaches a file; so does a file dropped on the terminal. A line that begins with "
    "a space is text, whatever it begins with. Alt-Enter or Ctrl-J begins a new line, and so does Enter "
    'after """ that is not closed yet. Ctrl-R searches earlier lines, Ctrl-X Ctrl-E opens the editor. '
    "Ctrl-C stops the answer and keeps it, Ctrl-D leaves."
)
_LINE_COLUMNS = 100  # of text that is to be read
_HELP_COLUMNS = 40  # below which there is too little room beside a name

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("help", "[COMMAND]", "Show the commands.", _help, "command"),
        Command("model", "[NAME]", "Go on with another model.", choices.choose_model, "model"),
        Command("system", "[TEXT|@FILE|none]", "Set the system message.", choices.set_system, "path"),
        Command(
            "set",
            "[NAME [VALUE]]",
            "Change a setting; without a value, to its default.",
            choices.set_value,
            "setting",
        ),
        Command(
            "show",
            "[settings|model|system|thinking]",
            "Show what is set, or the last thoughts.",
            choices.show_settings,
            "show",
        ),
        Command(
            "think",
            "[off|on|auto|N|fold|unfold]",
            "Reason before the answer; show it or not.",
            choices.set_thinking,
            "think",
        ),
        Command(
            "schema",
            "[FIELDS|JSON|FILE|none]",
            "Answer in JSON by a schema, such as: name, total float, items[].",
            choices.set_schema,
            "path",
        ),
        Command("image", "PATH ...", "Attach pictures to the next question.", files.attach_images, "path"),
        Command("paste", "", "Attach the picture that is in the clipboard.", files.paste_picture),
        Command("video", "PATH ...", "Attach videos to the next question.", files.attach_video, "path"),
        Command(
            "file",
            "PATH ...",
            "Attach text, PDF, picture or video files, URLs, folders.",
            files.attach_files,
            "path",
        ),
        Command(
            "detach",
            "[N]",
            "Take off what is attached to the next question, or only the Nth of it.",
            files.detach,
            "attached",
        ),
        Command("clear", "", "Begin a new conversation.", turns.clear),
        Command("undo", "[N]", "Take back the last turn, or N of them.", turns.undo),
        Command("retry", "", "Another answer to the last question.", turns.retry),
        Command("continue", "", "Ask for the rest of an answer that was cut.", turns.go_on),
        Command("edit", "[TEXT]", "Ask the last question in other words.", turns.edit),
        Command(
            "branch", "[N]", "List what was taken back, retried or edited; go to branch N.", turns.branch
        ),
        Command("save", "[TITLE]", "All is saved as it happens; this gives it a title.", turns.save),
        Command(
            "resume",
            "[ID]",
            "Go on with another conversation; without ID the last one.",
            turns.resume,
            "chat",
        ),
        Command("history", "[all]", "Show this conversation; all: list those that are saved.", turns.history),
        Command("copy", "", "Copy the last answer to the clipboard.", turns.copy),
        Command(
            "export",
            "[FILE|md|json|jsonl]",
            "Write the conversation to a file, or show it.",
            turns.export,
            "export",
        ),
        Command("context", "", "Show what takes how much of the context.", figures.show_context),
        Command(
            "compact",
            "[summary] [N]",
            "Leave out all turns but the last N of what the model sees; summary: it sums them up first.",
            turns.compact,
            "compact",
        ),
        Command("stats", "", "Show counts and times of the last answer.", figures.show_stats),
        Command(
            "cache", "", "Show how many tokens each answer reused, and why not more.", figures.show_cache
        ),
        Command("quit", "", "Leave; the conversation stays saved.", _quit),
    )
}
_OTHER_NAMES = {
    "exit": "quit",
    "bye": "quit",
    "?": "help",
    "regenerate": "retry",
    "new": "clear",
    "rewind": "undo",
    "compress": "compact summary",
}


def find_command(name: str) -> Command:
    """The command of that name or of one that others use for it. Raises UsageError with a suggestion."""
    name = _OTHER_NAMES.get(name, name).split()[0]
    if name in COMMANDS:
        return COMMANDS[name]
    hint = did_you_mean(name, COMMANDS, "/{}", "/help lists the commands.")
    raise UsageError(f"There is no command /{name}. {hint} (A line that begins with a space is text.)")


def handle(session: Session, line: str) -> None:
    """Do what one line says: a command, a command of the shell, or a question. Raises Leave at the end."""
    if not line.strip() or line.strip() == "/":
        return
    if line.startswith("!"):
        files.run_command(session, line[1:].strip())
    elif line.startswith("/") and not is_input(path_of(first_word(line))):
        name, *argument = line[1:].split(maxsplit=1)
        _, *implied = _OTHER_NAMES.get(name, name).split()
        command, words = find_command(name), " ".join(implied + argument).strip()
        if words and not command.argument:
            raise UsageError(f"/{command.name} takes nothing behind it: {words!r}.")
        command.run(session, words)
    else:
        session.take(line)
