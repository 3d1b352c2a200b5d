"""`qwen templates`: questions that are asked again and again, as files that can be copied and changed."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from qwencli import completions, options

templates = typer.Typer(help="Templates: questions with their options, for -t.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completions.complete_template)]


@templates.command("ls", short_help="List the templates: yours, and the built-in ones.")
def list_templates(json: options.Json = False) -> None:
    """List the templates: yours, and those that come with the program."""
    from qwen35.events import Note
    from qwencli.folders import Folders
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.columns import table
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.templates.template import BUILT_IN, listing, sound_templates

    sound, faults = sound_templates(Folders.locate(os.environ).templates)
    rows = listing(sound)
    output = standard_output()
    if json:
        shown = [dict(zip(("name", "source", "about"), row, strict=True)) for row in rows]
        output.print_json(
            {"schema_version": SCHEMA_VERSION, "templates": shown, "notes": faults, "error": None}
        )
    else:
        shown_rows = [
            (name, source if source == BUILT_IN else "yours", about) for name, source, about in rows
        ]
        output.write_text(table(("NAME", "FROM", "ABOUT"), shown_rows))
    with Aside(Verbosity.NORMAL) as aside:
        for fault in faults:
            aside.show(Note(fault))


@templates.command()
def show(name: Name) -> None:
    """Print a template's file."""
    from qwencli.folders import Folders
    from qwencli.render.output import standard_output
    from qwencli.templates.template import source_text

    standard_output().write_text(source_text(name, Folders.locate(os.environ).templates))


@templates.command()
def edit(name: Name) -> None:
    """Change a template in $EDITOR. One that is built in is copied into your folder first.

    A NAME that is not there begins as an empty template of your own.
    """
    from qwencli.errors import UsageError
    from qwencli.folders import Folders
    from qwencli.render.output import standard_output
    from qwencli.templates.template import SUFFIX, all_templates, find_template, source_text

    folder = Folders.locate(os.environ).templates
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{name!r}: a template's name has letters, digits, - and _.")
    editor = _editor()
    path = folder / f"{name}{SUFFIX}"
    begun = None  # what this run has put there
    if not path.exists():
        is_known = any(all_templates(folder, only=name))
        begun = source_text(name, folder) if is_known else 'about = ""\nprompt = """\n"""\n'
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(begun.encode())
    try:
        _run_editor(editor, path)
    finally:
        is_changed = begun is None or not path.exists() or path.read_bytes() != begun.encode()
        if not is_changed:
            path.unlink()
    if is_changed:
        find_template(name, folder)
    else:
        standard_output().write_text("Nothing was changed; there is no template of your own.\n")


def _editor() -> list[str]:
    from qwencli.errors import UsageError

    text = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        return shlex.split(text) or ["vi"]
    except ValueError as error:
        raise UsageError(f"The editor {text!r} is no command ({error}). Set EDITOR.") from None


def _run_editor(editor: list[str], path: Path) -> None:
    """Raises UsageError where it did not run, or says that it failed."""
    from qwencli.errors import UsageError

    try:
        code = subprocess.run([*editor, str(path)]).returncode
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: the editor {editor[0]!r} did not run ({reason}). Set EDITOR.") from None
    if code:
        raise UsageError(f"{path}: the editor {editor[0]!r} ended with status {code}.")
