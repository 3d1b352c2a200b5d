"""Many small pictures: `python benchmarks/batch_command.py`.

One `qwen batch` beside the same questions asked one by one within one process, in a shell loop over `qwen
ask`, and by `xargs -P4 qwen ask`. Each round is a run of each, in turns, on an empty home; loops take the
first --loop pictures, as each of their items costs the same. Processes are measured from their start to their
end; what they cost is the processor time of all of them, and the memory that they held at most, together.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks import harness

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
QUESTION = "describe"
OPTIONS = ("--temperature", "0", "-q")
PARALLEL = 4
_LOOK_S = 0.02  # between two looks at the memory


@dataclass(frozen=True, slots=True)
class Run:
    """One way to ask, once. `items_per_s`: with the start of its processes; `at_work`: without."""

    items: int
    seconds: float
    at_work_s: float
    cpu_s: float
    peak_bytes: int

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds

    @property
    def at_work(self) -> float:
        return self.items / self.at_work_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="as qwen batch -m takes it; default mini")
    parser.add_argument("--pictures", type=int, default=200, help="default 200")
    parser.add_argument("--loop", type=int, default=40, help="of them in loops over qwen ask; default 40")
    parser.add_argument("--side", type=int, default=160, help="of a picture in pixels; default 160")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; the table has medians")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run into FILE")
    parser.add_argument("--one-by-one", nargs="+", help=argparse.SUPPRESS)  # the process that does it
    options = parser.parse_args()
    if options.one_by_one:
        one_by_one(options.model, options.one_by_one)
        return
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw(Path(folder) / "pictures", options.pictures, options.side)
        ways = ways_to_ask(options.model, Path(folder), pictures, options.loop)
        for number in range(options.rounds):
            for name, ask in ways.items():
                with tempfile.TemporaryDirectory() as home:
                    run = ask(home)
                runs.setdefault(name, []).append(run)
                harness.say(f"round {number + 1}/{options.rounds}, {name}: {run.items_per_s:.1f} items/s")
    print(table(runs))
    if options.json:
        values = {name: [asdict(run) for run in column] for name, column in runs.items()}
        options.json.write_text(json.dumps(values, indent=1) + "\n")


def ways_to_ask(
    model: str, folder: Path, pictures: list[Path], num_loop: int
) -> dict[str, Callable[[str], Run]]:
    """By name, in the order of the table: each is given a home."""
    qwen = [sys.executable, "-m", "qwencli"]
    ask = [*qwen, "ask", "-m", model, *OPTIONS]
    some = pictures[:num_loop]
    listed = folder / "list"
    listed.write_text("".join(f"{path}\n" for path in some))
    words = " ".join(f"'{word}'" for word in ask)

    def batch(home: str) -> Run:
        out = Path(home) / "out.jsonl"
        command = [*qwen, "batch", "-m", model, *OPTIONS, str(folder / "pictures"), QUESTION]
        run, summary = measured([*command, "-o", str(out), "--json"], home, len(pictures))
        assert len(out.read_text().splitlines()) == len(pictures)
        return replaced(run, json.loads(summary)["timings"]["run_s"])

    def alone(home: str) -> Run:
        paths = list(map(str, pictures))
        run, seconds = measured([sys.executable, __file__, model, "--one-by-one", *paths], home, len(paths))
        return replaced(run, float(seconds))

    def loop(home: str) -> Run:
        line = f"while read f; do {words} $f {QUESTION} < /dev/null; done < '{listed}'"
        return measured(["bash", "-c", line], home, len(some))[0]

    def xargs(home: str) -> Run:
        line = f"xargs -P{PARALLEL} -I% {words} % {QUESTION} < '{listed}'"
        return measured(["bash", "-c", line], home, len(some))[0]

    return {
        "one `qwen batch`": batch,
        "one process, one by one": alone,
        "shell loop over `qwen ask`": loop,
        f"`xargs -P{PARALLEL} qwen ask`": xargs,
    }


def replaced(run: Run, at_work_s: float) -> Run:
    return Run(run.items, run.seconds, at_work_s, run.cpu_s, run.peak_bytes)


def measured(command: list[str], home: str, num_items: int) -> tuple[Run, str]:
    """A command with all its processes, and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | {"QWEN_HOME": home}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(_LOOK_S)
        seconds = time.perf_counter() - start
        assert process.stdout is not None
        out = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{command[:5]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(num_items, seconds, seconds, cpu_s, peak), out


def memory_of(pid: int) -> int:
    """Bytes that a process and those below it hold, what they share counted once for each sharer's part."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += memory_of(int(child))
    except OSError:  # it has ended
        pass
    return total


def one_by_one(model: str, paths: list[str]) -> None:
    """What `qwen ask` does with a picture, again and again in this process; prints the seconds of it."""
    from qwen35.engine.engine import prepare
    from qwencli import runtime
    from qwencli.conversation import messages_of
    from qwencli.folders import Folders
    from qwencli.known_models import find_model
    from qwencli.media.attach import Attacher
    from qwencli.settings import Settings

    folders = Folders.locate(os.environ)
    settings = Settings(temperature=0.0)
    folder = find_model(model, folders).folder
    processor = runtime.open_processor(folder)
    states = runtime.states_of(settings, folders.states, is_private=False)
    engine = runtime.load(
        folder, processor, settings, folders.cache, states, lambda done, total: None, lambda text: None
    )
    attacher = Attacher(None, lambda text: None, lambda *progress: None)
    start = time.perf_counter()
    for path in paths:
        attachments = attacher.attach_all([path])
        messages = messages_of(None, attachments, QUESTION)
        request, _ = runtime.plan(processor, settings, messages, attachments, lambda text: None)
        for _ in engine.generate(request, prepare(processor, request)):
            pass
    print(time.perf_counter() - start)
    engine.close()


def draw(folder: Path, number: int, side: int) -> list[Path]:
    """Pictures of two shapes, each another one."""
    folder.mkdir()
    paths = []
    for index in range(number):
        picture = Image.new("RGB", (side, side), "white")
        pen = ImageDraw.Draw(picture)
        size, step = side // 3, side // 20
        x, y = step * (index % 10), step * (index // 10 % 10)
        pen.ellipse((x, y, x + size, y + size), fill=COLOURS[index % 6])
        x, y = side - size - step * (index // 3 % 5), side - size
        pen.rectangle((x, y, x + size, y + size), fill=COLOURS[index // 6 % 6])
        paths.append(folder / f"{index:05}.png")
        picture.save(paths[-1])
    return paths


def table(runs: dict[str, list[Run]]) -> str:
    """Markdown; medians."""

    def median(name: str, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in runs[name])

    first = next(iter(runs))
    rows = [
        (
            name,
            str(column[-1].items),
            f"{median(name, 'items_per_s'):.2f}",
            f"{median(first, 'items_per_s') / median(name, 'items_per_s'):.1f}",
            f"{median(name, 'at_work'):.2f}",
            f"{1000 * statistics.median(run.cpu_s / run.items for run in column):.0f} ms",
            f"{median(name, 'peak_bytes') / 1e6:.0f} MB",
        )
        for name, column in runs.items()
    ]
    header = (
        "",
        "items",
        "items/s",
        "batch is faster by",
        "without starting",
        "processor per item",
        "memory",
    )
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
