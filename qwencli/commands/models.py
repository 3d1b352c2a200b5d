"""`qwen models`: the models on this machine, what one of them is, and packing and checking them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwencli import completions, options
from qwencli.commands.pull import pull_model
from qwencli.commands.remove import remove_model

if TYPE_CHECKING:
    from qwen35.weights.pack import Packed
    from qwencli.known_models import KnownModel
    from qwencli.model_summary import ModelSummary

models = typer.Typer(help="Fetch, pack, show, check and remove models.", rich_markup_mode=None)
models.command("pull", short_help="Fetch a model from the Hugging Face hub, and pack it.")(pull_model)

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FOLDER",
        help="As `ls` lists it, or a folder.",
        autocompletion=completions.complete_model,
    ),
]


@models.command("ls", short_help="List the models on this machine.")
def list_models(
    everything: Annotated[
        bool, typer.Option("--all", help="Also models of architectures that cannot be run.")
    ] = False,
    known: Annotated[
        bool, typer.Option("--known", help="Instead, the published models that `pull` has short names for.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the models on this machine: built-in, in the data folder, in other programs' stores."""
    from dataclasses import asdict

    from qwencli.folders import Folders
    from qwencli.known_models import is_supported, known_models
    from qwencli.model_summary import ModelSummary
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    if known:
        _list_known(json)
        return
    found = known_models(Folders.locate(os.environ))
    summaries = [ModelSummary.read(model) for model in found if everything or is_supported(model)]
    output = standard_output()
    if json:
        rows = [asdict(summary) for summary in summaries]
        output.print_json({"schema_version": SCHEMA_VERSION, "models": rows, "error": None})
    else:
        output.write_text(_table(summaries))


def _list_known(json: bool) -> None:
    from qwencli.folders import Folders
    from qwencli.published import published
    from qwencli.render.columns import count, size, table
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.settings import own_models

    rows = published(own_models(Folders.locate(os.environ).config_file))
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, "known": rows, "error": None})
        return
    lines = [
        (
            row["name"],
            count(row["parameters"]) if row["parameters"] else "?",
            size(row["fetch_bytes"]) if row["fetch_bytes"] else "?",
            size(row["packed_bytes"]) if row["packed_bytes"] else "?",
            row["license"] or "?",
            row["repo"],
        )
        for row in rows
    ]
    output.write_text(table(("NAME", "PARAMETERS", "TO FETCH", "PACKED", "LICENCE", "REPOSITORY"), lines))


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


@models.command("show", short_help="Show one model: its layers, size, context and defaults.")
def show_model(
    name: ModelName,
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
        "packed": _packing(values["packed"]),
        "vocabulary": f"{values['vocab_size']:,} tokens",
        "context": f"{values['context']:,} tokens",
        "thinks": {True: "by default", False: "if asked to", None: "no chat template"}[
            values["thinks_by_default"]
        ],
        "sampling": ", ".join(f"{key} {value}" for key, value in values["generation"].items()) or "not given",
    }
    lines = {name: text for name, text in lines.items() if text is not None}
    files = {name: size(num_bytes) for name, num_bytes in values["files"].items()}
    return facts(lines) + "\nfiles\n" + "".join(f"  {line}\n" for line in facts(files).splitlines())


def _packing(packed: dict[str, Any] | None) -> str | None:
    if packed is None:
        return None
    return f"{packed['quant']}, {packed['bits_per_weight']:.2f} bits per weight, from {packed['source']}"


@models.command("pack", short_help="Pack a model into 4 or 8 bits, for speed on the CPU.")
def pack_model(
    name: ModelName,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="TARGET",
            help="A new or empty folder. Default: NAME-q4 or NAME-q8 in the data folder.",
            show_default=False,
        ),
    ] = None,
    quant: Annotated[
        Literal["q4", "q8"] | None,
        typer.Option(
            "--quant",
            metavar="q4|q8",
            help="Bits of most of the weights. Default: q4; q8 for GGUF files of more than 5 bits.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Pack a model into 4 or 8 bits, for speed on the CPU. An interrupted run goes on where it stopped.

    From safetensors (bf16, FP8, GPTQ, AWQ, compressed-tensors, MLX), or a GGUF file, its mmproj beside it.
    """
    from qwen35.backends.native.quantiser import best_quantiser
    from qwen35.events import Note
    from qwen35.memory import keep_memory
    from qwen35.weights.pack import Stage, pack
    from qwen35.weights.pack_plan import default_quant
    from qwen35.weights.sources.open import open_source
    from qwencli.folders import Folders
    from qwencli.known_models import find_model
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    folders = Folders.locate(os.environ)
    model = find_model(name, folders)
    source = open_source(model.folder, model.mmproj)
    quant = quant or default_quant(source)
    target = output or folders.models / _packed_name(model, quant)
    quantiser, reason = best_quantiser(folders.cache)
    keep_memory()
    stdout = standard_output()
    with Aside(Verbosity.NORMAL) as aside:

        def show(stage: Stage, done: int, total: int) -> None:
            label = "packing" if stage == "packing" else "checking what is packed already"
            aside.progress.update(label, done, total, "bytes")

        if reason:
            aside.show(Note(f"no native kernels ({reason}): packing takes several times as long"))
        for note in source.notes:
            aside.show(Note(note))
        try:
            packed = pack(source, target, quant, quantiser=quantiser, on_progress=show)
        except KeyboardInterrupt:
            aside.progress.end()
            aside.show(Note("stopped; the same command goes on from here"))
            raise
        aside.progress.end()
        if packed.num_resumed and not packed.was_there:
            aside.show(
                Note(f"went on from an earlier run: {packed.num_resumed} tensors and experts were there")
            )
    if json:
        stdout.print_json({"schema_version": SCHEMA_VERSION, **_packed_values(model, packed), "error": None})
    else:
        stdout.write_text(_packed_text(_packed_values(model, packed)))


def _packed_name(model: "KnownModel", quant: str) -> str:
    import re

    own = model.name
    if model.origin == "folder":
        own = model.folder.resolve().stem if model.folder.is_file() else model.folder.resolve().name
    own = re.sub(r"-\d{5}-of-\d{5}$", "", own)  # the first of several files
    return f"{own}-{quant}"


def _packed_values(model: "KnownModel", packed: "Packed") -> dict[str, Any]:
    from dataclasses import asdict

    from qwen35.weights.imports import imported
    from qwencli.folders import Folders

    manifest, folder = packed.manifest, packed.folder
    listed = Folders.locate(os.environ).models.resolve()
    return {
        "name": folder.relative_to(listed).as_posix() if folder.is_relative_to(listed) else str(folder),
        "folder": str(folder),
        "source": model.name,
        "quant": manifest.quant,
        "parameters": manifest.num_parameters,
        "bits_per_weight": round(manifest.bits_per_weight, 3),
        "size_bytes": manifest.data_bytes,
        "source_bytes": manifest.source.size_bytes,
        "imports": [asdict(each) for each in imported(manifest)],
        "was_there": packed.was_there,
    }


def _packed_text(values: dict[str, Any]) -> str:
    import shlex

    from qwencli.render.columns import count, size

    verb = "Was packed already" if values["was_there"] else "Packed"
    return (
        f"{verb}: {values['source']} as {values['quant']}, {count(values['parameters'])} parameters of "
        f"{values['bits_per_weight']:.2f} bits, {size(values['size_bytes'])} "
        f"(from {size(values['source_bytes'])})\n"
        f"{''.join(_import_line(each) for each in values['imports'])}"
        f"{values['folder']}\n"
        f'Ask it: qwen ask -m {shlex.quote(values["name"])} "Your question"\n'
    )


def _import_line(imported: dict[str, Any]) -> str:
    from qwencli.render.columns import count

    start = f"{imported['encoding']} to {imported['format']}: {count(imported['parameters'])} parameters"
    error = imported["relative_error"]
    return f"{start}, {f'rounded again, relative error {error:.2%}' if error else 'as they were'}\n"


models.command("rm", short_help="Remove a model, or what a pull has left.")(remove_model)


@models.command("verify", short_help="Check the files of a model.")
def verify_model(name: ModelName, json: options.Json = False) -> None:
    """Check a packed model byte by byte; of any other model, that its files fit together."""
    from qwencli.folders import Folders
    from qwencli.known_models import find_model
    from qwencli.model_summary import verification
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.columns import size
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    model = find_model(name, Folders.locate(os.environ))
    with Aside(Verbosity.NORMAL) as aside:
        values = verification(
            model, lambda done, total: aside.progress.update("checking", done, total, "bytes")
        )
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    elif values["packed"]:
        output.write_text(
            f"{values['name']}: whole. {values['tensors']:,} tensors and {values['experts']:,} experts "
            f"are as packed ({size(values['size_bytes'])} read).\n"
        )
    else:
        output.write_text(
            f"{values['name']}: headers and shapes of {values['tensors']:,} tensors fit config.json. "
            "The weights themselves were not checked: only packed models carry checksums.\n"
        )
