"""`qwen doctor`: what was found on this machine, for a person and for a report of a fault."""

import os
import platform
from typing import TYPE_CHECKING, Any

from qwencli import options

if TYPE_CHECKING:
    from pathlib import Path

    from qwencli.folders import Folders
    from qwencli.machine import Machine

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "pillow", "pypdfium2", "huggingface-hub")


def doctor(json: options.Json = False) -> None:
    """Show versions, processor, memory, folders and models: what a fault report should hold."""
    from dataclasses import asdict

    from qwencli.folders import Folders
    from qwencli.known_models import hub_cache, is_supported, known_models
    from qwencli.machine import Machine, free_disk
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    folders = Folders.locate(os.environ)
    machine = Machine.inspect()
    places = {
        "config": folders.config,
        "data": folders.data,
        "cache": folders.cache,
        "state": folders.state,
        "hub": hub_cache(),
    }
    values: dict[str, Any] = {
        "qwen": _version("qwen"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": asdict(machine),
        "cuda": _cuda_device(),
        "native": _native(folders.cache),
        "folders": {name: str(folder) for name, folder in places.items()},
        "disk_free_bytes": free_disk(folders.data),
        "configuration": _configuration(folders),
        "saved_states": _saved_states(folders),
        "models": [model.name for model in known_models(folders) if is_supported(model)],
    }
    output = standard_output()
    if json:
        output.print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    else:
        output.write_text(_report(values, machine))


def _report(values: dict[str, Any], machine: "Machine") -> str:
    from qwencli.render.columns import facts, size

    limit = "" if machine.cpu_limit is None else f", limited to {machine.cpu_limit:g} by the container"
    memory = f"{size(machine.memory_total)}, {size(machine.memory_available)} available"
    if machine.memory_limit is not None:
        memory += f", limited to {size(machine.memory_limit)} by the container"
    lines = {
        "qwen": f"{values['qwen']}, Python {values['python']}",
        "configuration": values["configuration"] or "no fault found",
        "system": machine.system,
        "processor": machine.processor,
        "instructions": " ".join(machine.instruction_sets) or "unknown",
        "cores": f"{machine.num_cores}{limit}",
        "memory": memory,
        "CUDA": values["cuda"] or "no device",
        "packed models": values["native"],
        "other models": "plain (torch)",
        "packages": ", ".join(f"{name} {number}" for name, number in values["packages"].items()),
        "free disk": f"{size(values['disk_free_bytes'])} for the data folder",
        "saved states": values["saved_states"],
        "models": ", ".join(values["models"]) or "none",
    }
    lines |= {f"{name} folder": folder for name, folder in values["folders"].items()}
    return facts(lines)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _native(cache: "Path") -> str:
    """On what packed models run here."""
    from qwen35.backends.native.library import Context, forced_isa, load
    from qwen35.errors import DoesNotFit

    library, reason = load(cache)
    if library is None:
        return f"plain (torch): no native kernels, {reason}"
    try:
        return f"native ({Context(library, 1, forced_isa()).isa} kernels, {library.path})"
    except DoesNotFit as error:
        return str(error)


def _configuration(folders: "Folders") -> str | None:
    """What is wrong with config.toml or the environment; None where nothing is."""
    from qwencli.errors import UsageError
    from qwencli.settings import Settings, misspelt_variables, own_models

    try:
        Settings.resolve({}, os.environ, folders.config_file)
        own_models(folders.config_file)
    except UsageError as error:
        return str(error)
    return "; ".join(misspelt_variables(os.environ)) or None


def _saved_states(folders: "Folders") -> str:
    from qwen35.cache.store import CacheTrouble, Store
    from qwencli import runtime
    from qwencli.errors import UsageError
    from qwencli.render.columns import size
    from qwencli.settings import Settings

    try:
        settings = Settings.resolve({}, os.environ, folders.config_file)
    except UsageError:  # told above
        settings = Settings()
    budget = runtime.states_of(settings, folders.states, is_private=True).disk_bytes
    try:
        totals = Store(folders.states, budget, can_write=False).totals()
    except CacheTrouble as trouble:
        return str(trouble)
    return f"{totals.snapshots:,}, {size(totals.size_bytes)} of at most {size(budget)}"


def _cuda_device() -> str | None:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of its own is missing
        return f"unknown: torch cannot be imported ({error})"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
