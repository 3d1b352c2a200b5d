"""`qwen templates`: questions that are asked again and again, as files that can be copied and changed."""

import os
import shlex
import subprocess
from typing import Annotated

import typer

from qwencli import completions, options

templates = typer.Typer(help="Templates: questions with their options, for -t.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completions.complete_template)]


@templates.command("ls")
def list_templates(json: options.Json = False) -> None:
    """List the templates: yours, and those that come with the program."""
    from qwencli.folders import Folders
    from qwencli.render.columns import table
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.templates.template import BUILT_IN, all_templates, listing

    rows = listing(all_templates(Folders.locate(os.environ).templates))
    output = standard_output()
    if json:
        shown = [dict(zip(("name", "source", "about"), row, strict=True)) for row in rows]
        output.print_json({"schema_version": SCHEMA_VERSION, "templates": shown, "error": None})
    else:
        shown_rows = [
            (name, source if source == BUILT_IN else "yours", about) for name, source, about in rows
        ]
        output.write_text(table(("NAME", "FROM", "ABOUT"), shown_rows))


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
    from qwencli.templates.template import SUFFIX, Template, all_templates, source_text

    folder = Folders.locate(os.environ).templates
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{name!r}: a template's name has letters, digits, - and _.")
    path = folder / f"{name}{SUFFIX}"
    if not path.exists():
        is_known = any(all_templates(folder, only=name))
        text = source_text(name, folder) if is_known else 'about = ""\nprompt = """\n"""\n'
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(path)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{path}: the editor {editor!r} did not run ({error}). Set EDITOR.") from None
    Template.parse(name, str(path), path.read_text(encoding="utf-8"))
