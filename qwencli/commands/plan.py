"""`qwen plan`: whether a model fits this machine, and how fast it would be; before anything is fetched."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import completions, options

if TYPE_CHECKING:
    from qwen35.weights.plan import MemoryPlan
    from qwencli.folders import Folders
    from qwencli.model_plan import Subject
    from qwencli.settings import Settings

DEFAULT_CONTEXT = 8192
NUM_INSTEAD = 3


def plan(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:q4|q8]|FOLDER",
            help="A short name, OWNER/NAME of a hub, a model that is here, or a folder.",
            autocompletion=completions.complete_release,
        ),
    ],
    ram: options.Ram = None,
    ctx: options.Context = None,
    load: options.Load = None,
    json: options.Json = False,
) -> None:
    """Tell what a model needs of memory and disk, and how fast it would be here. Fetches headers alone.

    Exits with 5 where it does not fit, and says what would.
    """
    from qwen35.events import Note
    from qwencli.folders import Folders
    from qwencli.model_plan import find_subject
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.settings import Settings

    folders = Folders.locate(os.environ)
    settings = Settings.resolve(context.params, os.environ, folders.config_file)
    with Aside(Verbosity.NORMAL) as aside:

        def show(label: str) -> None:
            aside.progress.update(label, 0, 0, "bytes")

        subject = find_subject(name, folders, lambda: show("asking the hub"))
        values = _values(subject, settings, folders, show)
        aside.progress.end()
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, **values, "error": _error(values)})
    else:
        output.write_text(_report(values))
        with Aside(Verbosity.NORMAL) as aside:
            for note in values["notes"]:
                aside.show(Note(note))
    if not values["fits"]:
        from qwencli.errors import ExitCode

        raise typer.Exit(ExitCode.DOES_NOT_FIT)


def _values(subject: "Subject", settings: "Settings", folders: "Folders", show: Any) -> dict[str, Any]:
    from qwen35.weights.plan import needs_disk, plan_memory
    from qwencli.bandwidth import read_bandwidth
    from qwencli.disk_speed import disk_speed
    from qwencli.machine import free_disk

    text = subject.config.text
    num_context = min(settings.ctx or DEFAULT_CONTEXT, text.max_position_embeddings)
    planned = plan_memory(subject.manifest, subject.config, num_context, settings.load, settings.ram)
    show("measuring the memory's speed")
    threads = settings.threads or _cores()
    memory_speed = read_bandwidth(threads)
    show("measuring the disk's speed")
    reads_disk = needs_disk(planned)
    reading_speed = disk_speed(folders.data) if reads_disk or not planned.fits else None
    free = free_disk(folders.models)
    disk_fits = subject.disk_bytes <= free
    speed = _speed(planned, subject.manifest, subject.config, num_context, memory_speed, reading_speed)
    placement = planned.placement
    return {
        "model": subject.name,
        "known_from": subject.origin,
        "license": subject.license,
        "quant": subject.manifest.quant,
        "parameters": subject.manifest.num_parameters,
        "bits_per_weight": round(subject.manifest.bits_per_weight, 3),
        "fetch_bytes": subject.fetch_bytes,
        "disk_bytes": subject.disk_bytes,
        "disk_free_bytes": free,
        "context": num_context,
        "memory": {
            "weights_bytes": planned.memory.weights,
            "experts_bytes": planned.memory.experts,
            "keys_values_bytes": planned.memory.keys_values,
            "states_bytes": planned.memory.states,
            "program_bytes": planned.memory.program,
            "total_bytes": planned.memory.total,
            "picture_bytes": planned.memory.picture,
            "picture_tokens": planned.picture_tokens,
            "allowed_bytes": planned.allowed,
        },
        "experts": {
            "all_bytes": planned.experts_bytes,
            "share_in_memory": round(planned.expert_share, 4),
            "per_layer": text.moe.num_experts,
        }
        if text.moe
        else None,
        "layers": {
            "count": text.num_hidden_layers,
            "on_disk": len(placement.streamed) if placement else 0,
            "bytes_per_token": planned.streamed_bytes,
        },
        "load": placement.load if placement else None,
        "speed": speed,
        "memory_bytes_per_s": round(memory_speed),
        "disk_bytes_per_s": round(reading_speed) if reading_speed else None,
        "fits": planned.fits and disk_fits,
        "why_not": planned.why_not or (None if disk_fits else _no_room(subject.disk_bytes, free)),
        "instead": []
        if planned.fits
        else _instead(subject, settings, num_context, memory_speed, reading_speed),
        "notes": list(subject.notes),
    }


def _cores() -> int:
    from qwen35.cores import num_cores

    return num_cores()


def _no_room(needed: int, free: int) -> str:
    return f"{needed / 1e9:.1f} GB of disk are needed, {free / 1e9:.1f} GB are free."


def _speed(
    planned: "MemoryPlan",
    manifest: Any,
    config: Any,
    num_context: int,
    memory_speed: float,
    disk_speed: float | None,
) -> dict[str, Any] | None:
    """Of decoding at a tenth of the context, where most answers are; None where nothing can be said."""
    from qwen35.weights.plan import KV_DTYPE, expected_speed, needs_disk
    from qwencli.bandwidth import decode_bytes

    if planned.placement is None or (needs_disk(planned) and disk_speed is None) or not planned.fits:
        return None
    num_bytes = decode_bytes(manifest, config, num_context // 10, KV_DTYPE)
    speed = expected_speed(planned, manifest, config, num_bytes, memory_speed, disk_speed)
    return {
        "low_tokens_per_s": round(speed.low, 2),
        "high_tokens_per_s": round(speed.high, 2),
        "bytes_per_token": speed.bytes_per_token,
        "disk_bytes_per_token": speed.disk_bytes_low,
        "limit": speed.limit,
    }


def _instead(
    subject: "Subject", settings: "Settings", num_context: int, memory_speed: float, disk_speed: float | None
) -> list[dict[str, Any]]:
    """Sizes of the family that fit what this one does not, the largest first."""
    from qwen35.weights.catalogue import SIZES
    from qwen35.weights.plan import plan_memory
    from qwencli.model_plan import of_size

    found: list[dict[str, Any]] = []
    for size in sorted(SIZES, key=lambda own: -SIZES[own].num_parameters):
        if SIZES[size].num_parameters >= subject.manifest.num_parameters or len(found) == NUM_INSTEAD:
            continue
        manifest, config = of_size(size)
        planned = plan_memory(manifest, config, num_context, settings.load, settings.ram)
        if planned.fits:
            found.append(
                {
                    "name": size,
                    "quant": "q4",
                    "total_bytes": planned.memory.total,
                    "disk_bytes": manifest.data_bytes,
                    "speed": _speed(planned, manifest, config, num_context, memory_speed, disk_speed),
                }
            )
    return found


def _error(values: dict[str, Any]) -> dict[str, Any] | None:
    from qwencli.errors import ExitCode
    from qwencli.render.record import error_dict

    if values["fits"]:
        return None
    return error_dict(ExitCode.DOES_NOT_FIT, "does_not_fit", values["why_not"], values["model"])


def _report(values: dict[str, Any]) -> str:
    from qwencli.render.columns import count, facts, size

    memory, experts, layers = values["memory"], values["experts"], values["layers"]
    licence = f", licence {values['license']}" if values["license"] else ""
    lines = {
        "model": f"{values['model']}, {count(values['parameters'])} parameters{licence}",
        "packed": f"{values['quant']}, {values['bits_per_weight']:.2f} bits per weight",
        "known from": values["known_from"],
    }
    if values["fetch_bytes"] is not None:
        lines["to fetch"] = f"{size(values['fetch_bytes'])}, packed as it comes"
    if values["disk_bytes"]:
        lines["disk"] = f"{size(values['disk_bytes'])} of {size(values['disk_free_bytes'])} free"
    lines["memory"] = f"{size(memory['total_bytes'])} of {size(memory['allowed_bytes'])}"
    parts = {
        "weights": size(memory["weights_bytes"]) + _layers(layers),
        "experts": _experts(memory["experts_bytes"], experts) if experts else None,
        "keys and values": f"{size(memory['keys_values_bytes'])} for {values['context']:,} tokens of context",
        "states": size(memory["states_bytes"]),
        "program": size(memory["program_bytes"]),
        "for a picture": _picture(memory) if memory["picture_bytes"] and values["fits"] else None,
    }
    lines |= {f"  {name}": text for name, text in parts.items() if text}
    if values["speed"]:
        lines["speed"] = _speed_text(values["speed"]) + _measured(values)
    lines["fits"] = "yes" if values["fits"] else f"no: {values['why_not']}"
    for number, other in enumerate(values["instead"]):
        speed = f", {_speed_text(other['speed'])}" if other["speed"] else ""
        needs = f"{size(other['total_bytes'])} of memory, {size(other['disk_bytes'])} of disk"
        lines["instead" if number == 0 else " " * (number + 1)] = f"{other['name']}: {needs}{speed}"
    return facts(lines)


def _picture(memory: dict[str, Any]) -> str:
    from qwen35.weights.plan import PICTURE_TOKENS
    from qwencli.render.columns import size

    more = f"{size(memory['picture_bytes'])} more, while one of {PICTURE_TOKENS:,} tokens is looked at"
    if memory["picture_tokens"] == PICTURE_TOKENS:
        return more
    if not memory["picture_tokens"]:
        return f"{more}; here none fits"
    return f"{more}; here --image-tokens {memory['picture_tokens']} is the most"


def _layers(layers: dict[str, Any]) -> str:
    from qwencli.render.columns import size

    if not layers["on_disk"]:
        return ""
    share = f"{layers['on_disk']} of {layers['count']} layers ({size(layers['bytes_per_token'])})"
    return f"; {share} are read from disk at every token"


def _experts(in_memory: int, experts: dict[str, Any]) -> str:
    from qwencli.render.columns import size

    share = experts["share_in_memory"]
    if share >= 1:
        return f"{size(in_memory)}, all of them"
    number = int(share * experts["per_layer"])
    return (
        f"{size(in_memory)} of {size(experts['all_bytes'])}: about {number} of {experts['per_layer']} in "
        "each layer, the others are read from disk when they are chosen"
    )


def _speed_text(speed: dict[str, Any]) -> str:
    low, high = speed["low_tokens_per_s"], speed["high_tokens_per_s"]
    if high < 1.1 * low:
        return f"about {low:,.0f} tokens/s" if low >= 100 else f"about {low:.3g} tokens/s"
    return f"{low:.2g} to {high:.2g} tokens/s, as texts repeat themselves"


def _measured(values: dict[str, Any]) -> str:
    disk = values["disk_bytes_per_s"]
    speeds = f"memory {values['memory_bytes_per_s'] / 1e9:.1f} GB/s"
    if disk and values["speed"]["disk_bytes_per_token"]:
        speeds += f", disk {disk / 1e9:.1f} GB/s"
    return f" ({speeds}, measured now)"
