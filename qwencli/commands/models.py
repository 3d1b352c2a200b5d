"""`qwen models`: the models on this machine, and what one of them is."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import options

if TYPE_CHECKING:
    from qwencli.model_summary import ModelSummary

models = typer.Typer(help="Show the models on this machine.", rich_markup_mode=None)


@models.command("ls")
def list_models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also models of architectures that cannot be run.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the built-in model, those in the data folder and those in the Hugging Face cache."""
    from dataclasses import asdict

    from qwencli.folders import Folders
    from qwencli.known_models import is_supported, known_models
    from qwencli.model_summary import ModelSummary
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    found = known_models(Folders.locate(os.environ))
    summaries = [ModelSummary.read(model) for model in found if everything or is_supported(model)]
    output = standard_output()
    if json:
        rows = [asdict(summary) for summary in summaries]
        output.print_json({"schema_version": SCHEMA_VERSION, "models": rows, "error": None})
    else:
        output.write_text(_table(summaries))


def _table(summaries: "list[ModelSummary]") -> str:
    from qwencli.render.columns import count, size, table
    from qwencli.render.safe import one_line

    if not summaries:
        return "No models found.\n"
    rows = []
    for summary in summaries:
        parameters = "?" if summary.parameters is None else count(summary.parameters)
        state = one_line(f"unusable: {summary.error}") if summary.error else summary.origin
        rows.append((summary.name, parameters, size(summary.size_bytes), summary.dtype or "?", state))
    return table(("NAME", "PARAMETERS", "SIZE", "DTYPE", "WHERE"), rows)


@models.command("show")
def show_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER",
            help="As `ls` lists it, or a folder.",
            autocompletion=options.complete_model,
        ),
    ],
    json: options.Json = False,
) -> None:
    """Show one model: its layers, size, context and defaults."""
    from qwencli.folders import Folders
    from qwencli.known_models import find_model
    from qwencli.model_summary import details
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    values = details(find_model(name, Folders.locate(os.environ)))
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    else:
        output.write_text(_facts(values))


def _facts(values: dict[str, Any]) -> str:
    from qwencli.render.columns import count, facts, size

    layers, experts, vision = values["layers"], values["experts"], values["vision"]
    lines = {
        "name": values["name"],
        "folder": values["folder"],
        "architecture": values["architecture"],
        "weights": "unusable: " + values["error"]
        if values["error"]
        else f"{count(values['parameters'])} parameters, {values['dtype']}, {size(values['size_bytes'])}",
        "layers": f"{layers['linear_attention']} linear attention, {layers['full_attention']} full attention"
        + (", 1 for multi-token prediction" if layers["mtp"] else ""),
        "hidden size": f"{values['hidden_size']:,}",
        "experts": f"{experts['num_experts']}, {experts['num_experts_per_tok']} for each token"
        if experts
        else "none (dense)",
        "vision": f"{vision['layers']} layers, patches of {vision['patch_size']} pixels" if vision else "no",
        "vocabulary": f"{values['vocab_size']:,} tokens",
        "context": f"{values['context']:,} tokens",
        "thinks": {True: "by default", False: "if asked to", None: "no chat template"}[
            values["thinks_by_default"]
        ],
        "sampling": ", ".join(f"{key} {value}" for key, value in values["generation"].items()) or "not given",
    }
    files = {name: size(num_bytes) for name, num_bytes in values["files"].items()}
    return facts(lines) + "\nfiles\n" + "".join(f"  {line}\n" for line in facts(files).splitlines())
