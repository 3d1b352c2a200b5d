"""Engines side by side: whole runs in turns, each a process of its own, and the memory's speed in between.

A benchmark makes Contenders, lets `take_turns` run them, and prints what it reads off the Runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.job import Job
from qwen35.cores import num_cores
from qwencli.bandwidth import read_bandwidth
from qwencli.machine import Machine

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qwen", "numpy", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine with one model, as a row of the table. `facts` are what the row says beside figures."""

    name: str
    engine: str  # the module run_ENGINE
    python: str  # the interpreter that runs it
    job: Job
    facts: dict[str, Any] = field(default_factory=dict)
    num_busy: int = 0  # neighbours that keep a core busy each, meanwhile
    cold_files: tuple[Path, ...] = ()  # put out of the system's cache before each run
    warm_files: tuple[Path, ...] = ()  # put into it
    memory_limit: int | None = None  # of a control group for the process: what it caches of files counts


@dataclass(frozen=True, slots=True)
class Run:
    """One process. `bandwidth`: bytes per second, the mean of a probe before it and one after it."""

    name: str
    round: int
    seconds: float
    bandwidth: float
    figures: dict[str, Any]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each engine, in turns; default 3")
    parser.add_argument("--threads", type=int, default=num_cores(), help="default: one for each core")
    parser.add_argument("--engines", help="some of the engines, by comma; default: all that are here")
    parser.add_argument(
        "--llama-python",
        default=sys.executable,
        metavar="PATH",
        help="an interpreter that has llama-cpp-python; default: this one",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("synthetic-models"),
        metavar="FOLDER",
        help="where models are written, and found again; default: ./synthetic-models",
    )
    parser.add_argument(
        "--probe-gb", type=float, default=1.0, metavar="GB", help="read by the bandwidth probe; default 1.0"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run into FILE")
    return parser


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def take_turns(
    contenders: Sequence[Contender], options: argparse.Namespace, headline: Callable[[Run], str]
) -> list[Run]:
    """All runs, round by round. One that fails is said and left out; `headline` sums up a run for stderr."""

    def probe() -> float:
        return read_bandwidth(options.threads, int(1e9 * options.probe_gb))

    runs = []
    before = probe()
    for number in range(1, options.rounds + 1):
        for contender in contenders:
            label = f"round {number}/{options.rounds}, {contender.name}"
            drop_from_cache(contender.cold_files)
            read_into_cache(contender.warm_files)
            start = time.perf_counter()
            with neighbours(contender.num_busy):
                figures = run_process(contender)
            seconds = time.perf_counter() - start
            after = probe()
            if "error" in figures:
                say(f"{label}: FAILED: {figures['error']}")
            else:
                run = Run(contender.name, number, seconds, (before + after) / 2, figures)
                runs.append(run)
                say(f"{label}: {headline(run)} ({seconds:.0f} s; memory {run.bandwidth / 1e9:.1f} GB/s)")
            before = after
    return runs


def run_process(contender: Contender) -> dict[str, Any]:
    """The figures, or `error` with the last line that the process wrote."""
    command = [
        contender.python,
        "-m",
        f"benchmarks.run_{contender.engine}",
        json.dumps(asdict(contender.job)),
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    with memory_group(contender.memory_limit) as group:
        done = subprocess.run(
            [*group, *command], capture_output=True, text=True, errors="replace", env=environment
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@contextmanager
def memory_group(limit: int | None) -> Iterator[list[str]]:
    """A prefix for a command that then has at most `limit` bytes of memory (None: no limit), swap excluded.

    Raises SystemExit where this user may make no control group.
    """
    if limit is None:
        yield []
        return
    root = Path("/sys/fs/cgroup")
    is_v1 = (root / "memory").is_dir()
    group = (
        root / "memory" / f"qwen-benchmark-{os.getpid()}" if is_v1 else root / f"qwen-benchmark-{os.getpid()}"
    )
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit))
    except OSError as error:
        raise SystemExit(f"no control group for a limit of memory ({error.strerror}); run as root") from None
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def drop_from_cache(files: Sequence[Path]) -> None:
    """The next read of `files` comes from the disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not written yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_into_cache(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def of(runs: Sequence[Run], contender: Contender) -> list[Run]:
    return [run for run in runs if run.name == contender.name]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median, and the least and greatest where there are several."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """Of the medians."""
    if not values or not base:
        return "-"
    return f"{statistics.median(values) / statistics.median(base):.2f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns line up; all but the first are to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (header, rule, *rows)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def report(
    title: str, options: argparse.Namespace, contenders: Sequence[Contender], runs: Sequence[Run], table: str
) -> None:
    """Print the table with what it was made by and on; write all runs as JSON where that is asked for."""
    machine, engines = Machine.inspect(), abouts(contenders, runs)
    bandwidths = [run.bandwidth / 1e9 for run in runs]
    print(f"{title}, {options.threads} threads, medians of {options.rounds} (least to greatest), in turns.\n")
    print(table)
    print(f"`{command_line()}`\n")
    print(machine_line(machine))
    if bandwidths:
        print(f"Memory read meanwhile: {spread(bandwidths)} GB/s with {options.threads} threads.")
    for engine, about in engines.items():
        print(f"{engine} {about['version']}: {about['settings']}.")
        if about.get("system_info"):
            print(f"{engine} system_info: {about['system_info']}")
    for name in dict.fromkeys(contender.name for contender in contenders):
        if not any(run.name == name for run in runs):
            print(f"{name}: no run succeeded; see standard error.")
    if options.json:
        values = {
            "benchmark": Path(sys.argv[0]).stem,
            "command": command_line(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": asdict(machine) | {"packages": {name: _version(name) for name in PACKAGES}},
            "engines": engines,
            "contenders": [
                {"name": item.name, "job": asdict(item.job), "num_busy": item.num_busy} | item.facts
                for item in contenders
            ],
            "runs": [asdict(run) for run in runs],
        }
        options.json.write_text(json.dumps(values, indent=1), encoding="utf-8")


def abouts(contenders: Sequence[Contender], runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Version and settings of each engine, as its first process told them."""
    found: dict[str, dict[str, str]] = {}
    for contender in contenders:
        for run in of(runs, contender)[:1]:
            found.setdefault(contender.engine, run.figures["about"])
    return found


def command_line() -> str:
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine_line(machine: Machine) -> str:
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"{machine.processor}, {machine.num_cores} cores ({' '.join(machine.instruction_sets)}), "
        f"{machine.memory_total / 2**30:.0f} GiB RAM, {machine.system}; "
        f"Python {platform.python_version()}, {packages}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
