"""`qwen models rm`: a packed model, or what an interrupted pull or pack has left."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwencli import completions, options

if TYPE_CHECKING:
    from qwencli.folders import Folders


def remove_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="As `ls` lists it, a short name, or its folder.",
            autocompletion=completions.complete_model,
        ),
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Remove a model from the data folder for good, or what an interrupted pull of it has left."""
    from qwencli.folders import Folders
    from qwencli.model_summary import files_of
    from qwencli.render.columns import size
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    folder = _folder_of(name, Folders.locate(os.environ))
    num_bytes = sum(path.stat().st_blocks * 512 for path in files_of(folder))
    must_ask = is_seen() and not yes and not json
    if must_ask and not is_confirmed(f"Remove {folder} ({size(num_bytes)})?"):
        standard_output().write_text("Nothing was removed.\n")
        return
    _remove(folder)
    if json:
        values = {"removed": str(folder), "size_bytes": num_bytes, "error": None}
        standard_output().print_json({"schema_version": SCHEMA_VERSION, **values})
    else:
        standard_output().write_text(f"Removed {folder} ({size(num_bytes)}).\n")


def _folder_of(name: str, folders: "Folders") -> Path:
    """What is to be removed. Raises UsageError for what is not ours, CheckpointError where nothing is."""
    from qwen35.errors import CheckpointError
    from qwen35.weights.work_folder import WorkFolder
    from qwencli.errors import UsageError
    from qwencli.hub import repo_of
    from qwencli.known_models import find_model
    from qwencli.settings import own_models

    repo = repo_of(name.partition(":")[0], own_models(folders.config_file))
    try:
        model = find_model(name, folders)
    except CheckpointError:
        called = [Path(name).expanduser(), folders.models / name]
        called += [folders.models / f"{repo}-{quant}" for quant in ("q4", "q8")] if repo else []
        for target in called:
            if (work := WorkFolder.beside(target.resolve()).root).is_dir():
                return work
        raise
    where = model.folder.resolve()
    if model.origin == "built-in":
        raise UsageError(f"{name}: comes with the program; it goes with it.")
    if not where.is_relative_to(folders.models.resolve()) and not (where / "manifest.json").exists():
        raise UsageError(
            f"{name}: lies in {where}, which is not this program's. Remove it with what put it there "
            "(of the Hugging Face cache: hf cache rm)."
        )
    return where


def is_seen() -> bool:
    """Whether a person sits there, who can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def is_confirmed(question: str) -> bool:
    """Not where the keyboard is closed (Ctrl-D) instead of an answer."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False


def _remove(folder: Path) -> None:
    """The manifest first: a removal that is interrupted leaves nothing that passes for a model."""
    from qwen35.weights.manifest import MANIFEST
    from qwen35.weights.work_folder import writing

    with writing(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()) and folder.parent.name != "models":
            folder.parent.rmdir()  # of OWNER/NAME
