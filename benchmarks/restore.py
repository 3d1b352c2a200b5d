"""What saving a state costs, and what restoring it spares: `python benchmarks/restore.py [MODEL]`.

For each length of `--tokens`: a question about a document of that length, with the state cache and without,
in turns; then another question about it in new processes, which restore its state from files that are in the
system's cache, and from the disk, and one more, from memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from qwen35.backends.base import PREFILL_CHUNK
from qwen35.cache import blobs
from qwen35.cache.prompt import PromptCache
from qwen35.cache.store import Store
from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.events import Finished, PrefillProgress, ReasoningDelta, TextDelta
from qwen35.messages import Message, TextPart
from qwen35.processing.processor import Processor
from qwen35.state import BLOCK_TOKENS, ModelState, kv_bytes_per_token
from qwencli.folders import Folders
from qwencli.known_models import find_model
from qwencli.speed import endless

WORDS = ("river", "stone", "old", "house", "under", "small", "nobody", "counts", "light", "garden")
PLENTY = 10**12


@dataclass(frozen=True, slots=True)
class Saving:
    """A first question. `closed_s`: until its answer was there and all of its states were on the disk.

    Of the cache's own work, `keep_s` is in the way of the first token, `save_s` is another thread's time on a
    processor, `step_s` what a prompt costs more for the pause in which its state is kept.
    """

    prompt_tokens: int
    prefill_s: float
    first_token_s: float
    closed_s: float
    keep_s: float = 0.0
    save_s: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Restoring:
    """A question that goes on from a saved state. `restore_s`: to find it and have it in memory."""

    reused_tokens: int
    computed_tokens: int
    restore_s: float
    first_token_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="as qwen ask -m takes it; default mini")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; the tables have medians")
    parser.add_argument(
        "--tokens",
        type=lambda text: tuple(int(length) for length in text.split(",")),
        default=(2000, 4000, 10000),
        metavar="N,N",
        help="lengths of documents; default 2000,4000,10000",
    )
    parser.add_argument("--max-tokens", type=int, default=16, help="of each answer; default 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure into FILE")
    parser.add_argument("--restore", nargs=3, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.restore:
        states, tokens, seed = options.restore
        print(json.dumps(restore(options, Path(states), int(tokens), int(seed))))
        return
    figures = [measure(options, num_tokens) for num_tokens in options.tokens]
    print(saving_table(figures))
    print(restoring_table(figures))
    print(bytes_table(options, figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(options: argparse.Namespace, num_tokens: int) -> dict[str, Any]:
    """All figures of documents of one length."""
    found: dict[str, Any] = {"tokens": num_tokens}
    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder)
        for name, figure in save(options, states, num_tokens):
            found.setdefault(name, []).append(asdict(figure))
            harness.say(f"{num_tokens:,} tokens, {name}: {figure}")
        files = sorted((states / "blobs").glob("*.safetensors"))
        found["bytes"] = sizes(files)
        for seed in range(options.rounds):
            for name, warm_or_cold in (("warm", harness.read_into_cache), ("cold", harness.drop_from_cache)):
                warm_or_cold(files)
                command = [sys.executable, __file__, *sys.argv[1:]]
                command += ["--restore", folder, str(num_tokens), str(seed)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                for kind, figure in json.loads(done.stdout).items():
                    name_of_it = f"{kind}, {name}" if kind == "disk" else kind
                    found.setdefault(name_of_it, []).append(figure)
                    harness.say(f"{num_tokens:,} tokens, {name_of_it}: {figure}")
    return found


def save(options: argparse.Namespace, states: Path, num_tokens: int) -> Sequence[tuple[str, Saving]]:
    """A document for each round, with and without the cache; which one comes first alternates."""
    engine = load(options.model, states)
    figures = []
    ask(replace(engine, cache=None), document(engine.processor, 64, seed=99), "Warm?", options.max_tokens)
    keeping = Meter(time.perf_counter)
    saving = Meter(time.thread_time)
    assert engine.cache is not None
    engine.cache.open = keeping.around(engine.cache.open)  # type: ignore[method-assign]
    PromptCache.keep = keeping.around(PromptCache.keep)  # type: ignore[method-assign]
    Store.save = saving.around(Store.save)  # type: ignore[method-assign]
    for seed in range(options.rounds):
        text = document(engine.processor, num_tokens, seed)
        turns = [("computed", replace(engine, cache=None)), ("computed and saved", engine)]
        for name, one in turns if seed % 2 else turns[::-1]:
            keeping.seconds = saving.seconds = 0.0
            start = time.perf_counter()
            answer = ask(one, text, "What is this?", options.max_tokens)
            one.close()
            closed_s = time.perf_counter() - start
            figure = Saving(
                answer.finished.usage.prompt_tokens,
                answer.finished.timings.prefill_s,
                answer.first_token_s,
                closed_s,
                keeping.seconds,
                saving.seconds,
                cost_of_pauses(answer.steps) if one.cache else 0.0,
            )
            figures.append((name, figure))
    return figures


class Meter:
    """Seconds that are spent in functions."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            start = self._clock()
            try:
                return function(*args, **named)
            finally:
                self.seconds += self._clock() - start

        return timed


def cost_of_pauses(steps: Sequence[tuple[int, float]]) -> float:
    """What short steps of a prefill, but for the longest of them, cost beyond as many tokens of a whole step.

    `steps`: tokens that were through after so many seconds. One short step there would be in any case.
    """
    parts = [
        (end - begin, after_s - before_s)
        for (begin, before_s), (end, after_s) in zip([(0, 0.0), *steps], steps, strict=False)
    ]
    whole = [part for part in parts if part[0] == PREFILL_CHUNK]
    if not whole:
        return 0.0
    token_s = whole[-1][1] / PREFILL_CHUNK
    short = sorted(part for part in parts if part[0] < PREFILL_CHUNK)
    return sum(seconds - count * token_s for count, seconds in short[:-1])


def restore(options: argparse.Namespace, states: Path, num_tokens: int, seed: int) -> dict[str, Any]:
    """Two more questions about a document: from the disk, then from memory."""
    engine = load(options.model, states)
    assert engine.cache is not None
    text = document(engine.processor, num_tokens, seed)
    ask(replace(engine, cache=None), document(engine.processor, 64, seed=99), "Warm?", options.max_tokens)
    finding = Meter(time.perf_counter)
    engine.cache.find = finding.around(engine.cache.find)  # type: ignore[method-assign]
    figures = {}
    for kind, question in (("disk", "How many are there?"), ("memory", "Who counts them?")):
        finding.seconds = 0.0
        answer = ask(engine, text, question, options.max_tokens)
        usage = answer.finished.usage
        computed = usage.prompt_tokens - usage.cached_tokens
        figures[kind] = asdict(
            Restoring(usage.cached_tokens, computed, finding.seconds, answer.first_token_s)
        )
    engine.close(abandon=True)
    return figures


def load(model: str, states: Path) -> Engine:
    folder = find_model(model, Folders.locate(os.environ)).folder
    return endless(load_engine(folder, device="cpu", states=States(states, PLENTY, PLENTY)))


@dataclass(frozen=True, slots=True)
class Answer:
    """Its end, seconds to its first text, and when how much of the prompt was through."""

    finished: Finished
    first_token_s: float
    steps: list[tuple[int, float]]


def ask(engine: Engine, text: str, question: str, num_tokens: int) -> Answer:
    request = Request(
        (Message("user", (TextPart(text), TextPart(f"\n\n{question}"))),),
        sampling=SamplingOverrides(temperature=0.0),
        max_tokens=num_tokens,
    )
    start, first, steps = time.perf_counter(), 0.0, []
    with closing(engine.generate(request)) as events:
        for event in events:
            if isinstance(event, TextDelta | ReasoningDelta):
                first = first or time.perf_counter()
            elif isinstance(event, PrefillProgress):
                steps.append((event.done, time.perf_counter() - start))
    assert isinstance(event, Finished)
    return Answer(event, first - start, steps)


def document(processor: Processor, num_tokens: int, seed: int) -> str:
    """Words of about that many tokens."""
    words = np.random.default_rng(seed).choice(WORDS, num_tokens)  # a word is a token or more
    ids = processor.tokenizer.encode(" ".join(words))
    return processor.tokenizer.decode(ids[:num_tokens])


def sizes(files: Sequence[Path]) -> dict[str, float]:
    """Bytes, as the files have them: of a token, of what does not grow with tokens, and of all."""
    per_token = fixed = 0.0
    for file in files:
        size, about = file.stat().st_size, blobs.describe(file)
        if about["kind"] == "block":
            per_token = size / BLOCK_TOKENS
    for file in files:
        size, about = file.stat().st_size, blobs.describe(file)
        if about["kind"] == "snapshot":
            fixed = size - about["num_tokens"] % BLOCK_TOKENS * per_token
    return {"per_token": per_token, "fixed": fixed, "total": sum(file.stat().st_size for file in files)}


def saving_table(figures: Sequence[dict[str, Any]]) -> str:
    """`cost` is the median of the rounds' differences, which also shows how steady the machine is; behind it
    the cache's own work, as it was metered. Both in parts of the median prefill without the cache."""
    rows = []
    for found in figures:
        without, saved = found["computed"], found["computed and saved"]
        prefill_s = statistics.median(run["prefill_s"] for run in without)
        pairs = zip(without, saved, strict=True)
        cost_s = statistics.median(after["closed_s"] - before["closed_s"] for before, after in pairs)
        parts = [statistics.median(run[figure] for run in saved) for figure in ("keep_s", "step_s", "save_s")]
        rows.append(
            (
                f"{without[0]['prompt_tokens']:,}",
                harness.spread([run["prefill_s"] for run in without], 2),
                *(harness.spread([run["closed_s"] for run in runs], 2) for runs in (without, saved)),
                f"{100 * cost_s / prefill_s:+.1f} %",
                " + ".join(f"{1000 * seconds:.0f}" for seconds in parts),
                f"{100 * sum(parts) / prefill_s:.1f} %",
            )
        )
    header = (
        *("prompt, tokens", "prefill s", "answered s", "answered and saved s", "cost"),
        *("keep + pause + save, ms", "of the prefill"),
    )
    return harness.markdown(header, rows)


def restoring_table(figures: Sequence[dict[str, Any]]) -> str:
    """`x less` is to the first token of the question that was computed whole."""
    rows = []
    for found in figures:
        computed = found["computed"]
        prefill_s, first_s = (
            statistics.median(run[figure] for run in computed) for figure in ("prefill_s", "first_token_s")
        )
        name = f"{computed[0]['prompt_tokens']:,} tokens, computed"
        rows.append([name, "0", f"{prefill_s:.2f} s", "1", f"{first_s:.2f} s", "1"])
        for kind in ("disk, cold", "disk, warm", "memory"):
            runs = found[kind]
            restore_s, first_token_s = (
                statistics.median(run[figure] for run in runs) for figure in ("restore_s", "first_token_s")
            )
            rows.append(
                [
                    f"from {kind}",
                    f"{runs[0]['reused_tokens']:,}",
                    f"{restore_s:.3f} s",
                    f"{prefill_s / restore_s:,.0f}",
                    f"{first_token_s:.2f} s",
                    f"{first_s / first_token_s:.0f}",
                ]
            )
    header = ("another question", "reused", "state there after", "x less", "first token", "x less")
    return harness.markdown(header, rows)


def bytes_table(options: argparse.Namespace, figures: Sequence[dict[str, Any]]) -> str:
    """Beside what the shape makes necessary: matrices in 32 bits, keys and values in 16."""
    folder = find_model(options.model, Folders.locate(os.environ)).folder
    text = Processor.from_folder(folder).config.text
    state = ModelState(text, "bfloat16")
    fixed = sum(layer.size_bytes for layer in state.layers)
    per_token = kv_bytes_per_token(text, "bfloat16")
    rows = [["the shape alone", f"{fixed / 1e6:.2f} MB", f"{per_token:,}", ""]]
    for found in figures:
        sizes = found["bytes"]
        rows.append(
            [
                f"documents of {found['tokens']:,} tokens",
                f"{sizes['fixed'] / 1e6:.2f} MB ({100 * (sizes['fixed'] / fixed - 1):+.1f} %)",
                f"{sizes['per_token']:,.0f} ({100 * (sizes['per_token'] / per_token - 1):+.1f} %)",
                f"{sizes['total'] / options.rounds / 1e6:.1f} MB",
            ]
        )
    header = ("bytes on disk", "a snapshot, fixed part", "a token", "a question's states in all")
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
