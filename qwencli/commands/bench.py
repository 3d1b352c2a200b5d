"""`qwen bench`: how fast a model is on this machine, and how fast it could be."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import options
from qwencli.errors import UsageError

if TYPE_CHECKING:
    from qwen35.config import ModelConfig
    from qwen35.events import ExpertUse
    from qwencli.known_models import KnownModel
    from qwencli.render.aside import Aside
    from qwencli.settings import Settings
    from qwencli.speed import Speed

PROMPT_TOKENS = 512  # at most half of the context


def bench(
    context: typer.Context,
    model: options.Model = None,
    device: options.Device = None,
    load: options.Load = None,
    ram: options.Ram = None,
    quant: options.Quant = None,
    threads: options.Threads = None,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=2, help="Tokens of each answer.")] = 64,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="Questions; medians are shown.")
    ] = 3,
    json: options.Json = False,
) -> None:
    """Measure a model on this machine: prefill, decode, time to the first token.

    Each round asks a question of 512 tokens. Between the rounds the memory's read speed is measured, which
    limits decoding: a token reads all weights that it uses.
    """
    from qwencli.folders import Folders
    from qwencli.known_models import find_or_choose_model
    from qwencli.machine import Machine
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION
    from qwencli.settings import Settings

    folders = Folders.locate(os.environ)
    settings = Settings.resolve(context.params, os.environ, folders.config_file)
    known_model = find_or_choose_model(settings.model, folders, settings.ram)
    with Aside(Verbosity.NORMAL) as aside:
        measured = _measure(known_model, settings, folders.cache, tokens, rounds, aside)
    machine = Machine.inspect()
    values = {
        "model": known_model.name,
        "folder": str(known_model.folder),
        "processor": machine.processor,
        "instruction_sets": machine.instruction_sets,
        "cores": machine.num_cores,
        **_values(measured),
    }
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    else:
        output.write_text(_report(values))


@dataclass(frozen=True, slots=True)
class _Measured:
    backend: str
    num_threads: int
    load_s: float
    num_tokens: int
    speeds: "list[Speed]"
    bandwidths: list[float]  # bytes per second
    quant: str | None  # of a packed model
    bytes_per_token: int | None  # known of packed models in memory, on the native kernels
    experts: "ExpertUse | None"  # over all rounds; None where they are all in memory
    layers: "ExpertUse | None"  # likewise


def _measure(
    model: "KnownModel", settings: "Settings", cache: Path, num_tokens: int, num_rounds: int, aside: "Aside"
) -> _Measured:
    from qwen35.backends.native.backend import NativeBackend
    from qwen35.cores import num_cores
    from qwen35.engine.load import load_engine
    from qwen35.events import Note
    from qwen35.processing.processor import Processor
    from qwencli.bandwidth import read_bandwidth
    from qwencli.speed import measure, prompt_of_words

    processor = Processor.from_folder(model.folder)
    num_prompt = _prompt_tokens(processor.config, num_tokens)
    num_threads = settings.threads or num_cores()

    def probe() -> float:
        aside.progress.update("reading the memory", 0, 0, "bytes")
        return read_bandwidth(num_threads)

    start = time.perf_counter()
    engine = load_engine(
        model.folder,
        processor=processor,
        device=settings.device,
        load=settings.load,
        ram=settings.ram,
        quant=None if settings.quant == "none" else settings.quant,
        num_threads=num_threads,
        cache=cache,
        on_progress=lambda done, total: aside.progress.update(f"loading {model.name}", done, total, "bytes"),
        on_note=lambda text: aside.show(Note(text)),
    )
    load_s = time.perf_counter() - start
    measure(engine, prompt_of_words(processor, min(32, num_prompt), num_rounds), 2)  # first touch of weights
    bandwidths, speeds = [probe()], []
    experts, layers = engine.backend.expert_use, engine.backend.layer_use
    for index in range(num_rounds):
        label = f"round {index + 1}/{num_rounds}"

        def show(what: str, done: int, total: int, label: str = label) -> None:
            aside.progress.update(f"{label}, {what}", done, total, "tokens")

        speeds.append(measure(engine, prompt_of_words(processor, num_prompt, index), num_tokens, show))
        bandwidths.append(probe())
    aside.progress.end()
    quant, bytes_per_token = _packing(model.folder, num_prompt + num_tokens // 2)
    if not isinstance(engine.backend, NativeBackend) or experts or layers:
        bytes_per_token = None  # torch reads other bytes, and the disk is no memory
    expert_use, layer_use = engine.backend.expert_use, engine.backend.layer_use
    engine.close()
    return _Measured(
        engine.backend.name,
        num_threads,
        load_s,
        num_tokens,
        speeds,
        bandwidths,
        quant,
        bytes_per_token,
        expert_use.since(experts) if expert_use and experts else None,
        layer_use.since(layers) if layer_use and layers else None,
    )


def _prompt_tokens(config: "ModelConfig", num_tokens: int) -> int:
    limit = config.text.max_position_embeddings
    num_prompt = min(PROMPT_TOKENS, limit // 2)
    if num_prompt + num_tokens > limit:
        raise UsageError(
            f"--tokens {num_tokens}: the model's context holds {limit:,} tokens, and the questions have "
            f"{num_prompt}. Take at most {limit - num_prompt:,}."
        )
    return num_prompt


def _packing(folder: Path, num_context: int) -> tuple[str | None, int | None]:
    from qwen35.backends.native.backend import STATE_DTYPE
    from qwen35.weights.manifest import is_packed
    from qwen35.weights.packed import open_manifest, packed_config
    from qwencli.bandwidth import decode_bytes

    if not is_packed(folder):
        return None, None
    manifest = open_manifest(folder)
    return manifest.quant, decode_bytes(manifest, packed_config(folder, manifest), num_context, STATE_DTYPE)


def _values(measured: _Measured) -> dict[str, Any]:
    from dataclasses import asdict
    from statistics import median

    from qwencli.bandwidth import CACHE_BYTES

    speeds, num_bytes = measured.speeds, measured.bytes_per_token
    decode = median(speed.decode_tokens_per_s for speed in speeds)
    bandwidth = median(measured.bandwidths)
    # What lies in the caches is not read from memory, whose speed then says nothing.
    is_limited = num_bytes is not None and num_bytes > CACHE_BYTES
    return {
        "quant": measured.quant,
        "backend": measured.backend,
        "threads": measured.num_threads,
        "load_s": round(measured.load_s, 4),
        "prompt_tokens": speeds[0].prompt_tokens,
        "tokens": measured.num_tokens,
        "prefill_tokens_per_s": round(median(speed.prefill_tokens_per_s for speed in speeds), 2),
        "decode_tokens_per_s": round(decode, 2),
        "first_token_s": round(median(speed.first_token_s for speed in speeds), 4),
        "bandwidth_bytes_per_s": round(bandwidth),
        "bytes_per_token": num_bytes,
        "bandwidth_share": round(decode * num_bytes / bandwidth, 3) if num_bytes and is_limited else None,
        "experts": measured.experts.to_dict() if measured.experts else None,
        "layers": measured.layers.to_dict() if measured.layers else None,
        "rounds": [
            {key: value for key, value in asdict(speed).items() if key != "parts"} for speed in speeds
        ],
    }


def _report(values: dict[str, Any]) -> str:
    from qwencli.render.columns import facts, size

    quant = f", packed in {values['quant']}" if values["quant"] else ", not packed"
    sets = " ".join(values["instruction_sets"])
    rounds = values["rounds"]
    slowest, fastest = (choose(speed["decode_tokens_per_s"] for speed in rounds) for choose in (min, max))
    between = f" ({slowest:,.1f} to {fastest:,.1f})" if len(rounds) > 1 else ""
    return facts(
        {
            "model": f"{values['model']}{quant}, loaded in {values['load_s']:.2f} s",
            "runs on": values["backend"],
            "processor": f"{values['processor']}, {values['cores']} cores ({sets})",
            "prefill": f"{values['prefill_tokens_per_s']:,.0f} tokens/s, {values['prompt_tokens']} tokens",
            "decode": f"{values['decode_tokens_per_s']:,.1f} tokens/s{between}, {values['tokens']} tokens",
            "first token": f"after {values['first_token_s']:.2f} s",
            "memory": f"reads {size(values['bandwidth_bytes_per_s'])}/s with {values['threads']} threads",
            "limit": _limit(values),
        }
        | {name: _on_disk(values[name]) for name in ("experts", "layers") if values[name]}
    )


def _on_disk(values: dict[str, Any]) -> str:
    from qwencli.render.columns import size

    return (
        f"{values['hit_rate']:.0%} in memory ({size(values['arena_bytes'])} for them), "
        f"{size(values['bytes_read'])} read, {values['stall_s']:.1f} s waited for the disk"
    )


def _limit(values: dict[str, Any]) -> str:
    from qwencli.render.columns import size

    num_bytes = values["bytes_per_token"]
    if num_bytes is None:
        return "not known: only of packed models that are in memory, on the native kernels"
    if values["bandwidth_share"] is None:
        return f"not memory: a token reads {size(num_bytes)}, which stays in the processor's caches"
    most = values["bandwidth_bytes_per_s"] / num_bytes
    return (
        f"{most:,.1f} tokens/s, as a token reads {size(num_bytes)}; {values['bandwidth_share']:.0%} reached"
    )
