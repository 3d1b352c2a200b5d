"""`qwen cache`: the states of prompts that are kept on disk, so that nothing is computed twice."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwencli import options
from qwencli.errors import ExitCode

if TYPE_CHECKING:
    from qwen35.cache.store import Row, Store

cache = typer.Typer(
    help="Show, check and clear the saved states, from which questions go on.", rich_markup_mode=None
)


@cache.command("ls")
def list_states(json: options.Json = False) -> None:
    """List the saved states, the last used first."""
    from dataclasses import asdict

    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    rows = _rows(_store())
    if json:
        states = [asdict(row) for row in rows]
        standard_output().print_json({"schema_version": SCHEMA_VERSION, "states": states, "error": None})
    else:
        standard_output().write_text(_table(rows))


@cache.command("show", short_help="Show where the states are, and how much room they take.")
def show_cache(json: options.Json = False) -> None:
    """Show where the states are, and how much room they take."""
    from dataclasses import asdict

    from qwencli.render.columns import facts, size
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    store = _store()
    totals = _told(store.totals)
    if json:
        values = {"folder": str(store.folder), "budget_bytes": store.budget_bytes, **asdict(totals)}
        standard_output().print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
        return
    kinds = {"snapshot": "states", "block": "keys and values", "features": "pictures"}
    lines = {
        "folder": str(store.folder),
        "states": f"{totals.snapshots:,}",
        "size": f"{size(totals.size_bytes)} of at most {size(store.budget_bytes)} (QWEN_CACHE_DISK)",
    }
    parts = {f"  {kinds[kind]}": size(totals.by_kind[kind]) for kind in kinds if kind in totals.by_kind}
    standard_output().write_text(facts(lines | parts))


@cache.command("verify", short_help="Read every saved state, and compute a sample anew.")
def verify_cache(
    model: options.Model = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="States to compute anew.", min=0)] = 8,
    json: options.Json = False,
) -> None:
    """Read every saved state, and compute a sample anew: those of text alone, of one model.

    What is damaged or differs is removed, and the exit code is 3.
    """
    from qwencli.render.aside import Aside, Verbosity
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    store = _store()
    with Aside(Verbosity.NORMAL) as aside:
        checked = _told(lambda: _check(store, aside))
        damaged = {name: trouble for name, trouble in checked.items() if trouble}
        store.drop(list(damaged))
        is_asked = sample and _rows(store)
        same, different = _told(lambda: _compute_anew(model, sample, aside)) if is_asked else (0, [])
        store.forget(different)
    num_computed = same + len(different)
    values = {"read": len(checked), "damaged": damaged, "computed": num_computed, "different": different}
    if json:
        standard_output().print_json({"schema_version": SCHEMA_VERSION, **values, "error": None})
    else:
        lines = [f"damaged, removed: {trouble}\n" for trouble in damaged.values()]
        lines += [f"differs from what is computed now, removed: {key}\n" for key in different]
        lines.append(f"{len(checked):,} files read, {len(damaged):,} damaged; ")
        states = f"{num_computed:,} state{'s'[: num_computed != 1]}"
        lines.append(f"{states} computed anew, {len(different):,} different\n")
        standard_output().write_text("".join(lines))
    if damaged or different:
        raise typer.Exit(ExitCode.INPUT)


@cache.command("clear")
def clear_cache(json: options.Json = False) -> None:
    """Remove all saved states. Conversations and models stay."""
    from qwencli.render.columns import size
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    freed = _told(_store().clear)
    if json:
        values = {"schema_version": SCHEMA_VERSION, "freed_bytes": freed, "error": None}
        standard_output().print_json(values)
    else:
        standard_output().write_text(f"{size(freed)} freed\n")


def _store() -> "Store":
    from qwen35.cache.store import Store
    from qwencli import runtime
    from qwencli.folders import Folders
    from qwencli.settings import Settings

    folders = Folders.locate(os.environ)
    settings = Settings.resolve({}, os.environ, folders.config_file)
    states = runtime.states_of(settings, folders.states, is_private=False)
    assert states.folder is not None
    return Store(states.folder, states.disk_bytes)


def _check(store: "Store", aside: Any) -> dict[str, str | None]:
    """Every blob's name, and what is wrong with it."""
    num_blobs = sum(1 for _ in store.folder.glob("blobs/*.safetensors"))
    checked: dict[str, str | None] = {}
    for name, trouble in store.check():
        checked[name] = trouble
        aside.progress.update("reading saved states", len(checked), num_blobs, "files")
    return checked


def _told(call: Any) -> Any:
    """What `call` gives; a cache that cannot be used is the user's error here, not a note."""
    from qwen35.cache.store import CacheTrouble
    from qwen35.errors import UnwritableError

    try:
        return call()
    except CacheTrouble as trouble:
        raise UnwritableError(f"{trouble}. If it stays so: remove the folder.") from None


def _rows(store: "Store") -> "list[Row]":
    rows: list[Row] = _told(store.rows)
    return rows


def _table(rows: "list[Row]") -> str:
    from datetime import datetime

    from qwencli.render.columns import size, table
    from qwencli.render.safe import one_line

    if not rows:
        return "No saved states.\n"
    lines = [
        (
            row.key[:12],
            f"{row.num_tokens:,}",
            size(row.size_bytes),
            f"{row.uses:,}",
            datetime.fromtimestamp(row.used).strftime("%Y-%m-%d %H:%M"),
            one_line(row.label)[-48:],
        )
        for row in rows
    ]
    return table(("STATE", "TOKENS", "SIZE", "USES", "LAST USED", "ENDS WITH"), lines)


def _compute_anew(name: str | None, sample: int, aside: Any) -> tuple[int, list[str]]:
    """How many states of a model are the same when they are computed anew, and the keys of the others."""
    from qwencli import runtime
    from qwencli.folders import Folders
    from qwencli.known_models import find_or_choose_model
    from qwencli.settings import Settings

    folders = Folders.locate(os.environ)
    settings = Settings.resolve({"model": name}, os.environ, folders.config_file)
    model = find_or_choose_model(settings.model, folders, settings.ram)
    states = runtime.states_of(settings, folders.states, is_private=True)
    processor = runtime.open_processor(model.folder)
    engine = runtime.load(
        model.folder,
        processor,
        settings,
        folders.cache,
        states,
        lambda done, total: aside.progress.update(f"loading {model.name}", done, total, "bytes"),
        lambda text: None,
    )
    assert engine.cache is not None
    return engine.cache.compute_anew(
        engine.backend, sample, lambda done, total: aside.progress.update("computing", done, total, "states")
    )
