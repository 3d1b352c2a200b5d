"""Whether memory stays flat over hours of questions: `python benchmarks/soak.py FOLDER --ram 3G`.

FOLDER is a packed model (`python benchmarks/synthetic_packed.py` writes one). Prompts of random lengths, some
of which begin as earlier ones did, are answered for --minutes, with saved states in small budgets, so that
all that makes room for something else does so over and over. Each line: minutes, memory that the process
holds, its threads and open files, tokens so far. The last one: how far the second half lies above the first.
"""

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import command_line, machine_line, markdown
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request
from qwencli.machine import Machine
from qwencli.speed import endless, prompt_of
from qwencli.values import parse_bytes

BUDGET_BYTES = 200 << 20  # of saved states, on disk and in memory each
MAX_PROMPT, MAX_TOKENS = 700, 48


@dataclass(frozen=True, slots=True)
class Sample:
    minutes: float
    resident_bytes: int
    num_threads: int
    num_files: int
    num_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ram", type=parse_bytes, help="as `qwen ask --ram`")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lines", type=int, default=12, help="of the table; default 12")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as states:
        samples = soak(options.folder, options.ram, options.minutes, Path(states))
    print(table(samples, options.lines))
    print(f"{verdict(samples)}\n\n`{command_line()}`\n\n{machine_line(Machine.inspect())}")


def soak(folder: Path, ram: int | None, minutes: float, states: Path) -> list[Sample]:
    """Samples, one for each question."""
    process, generator = psutil.Process(), np.random.default_rng(0)
    engine = endless(
        load_engine(folder, device="cpu", ram=ram, states=States(states, BUDGET_BYTES, BUDGET_BYTES))
    )
    vocab_size = int(0.8 * engine.processor.tokenizer.size)
    beginnings = generator.integers(0, vocab_size, (4, MAX_PROMPT))
    samples: list[Sample] = []
    start, num_tokens = time.perf_counter(), 0
    while (now := (time.perf_counter() - start) / 60) < minutes:
        known, new = generator.integers(1, MAX_PROMPT, 2)
        ids = np.concatenate([generator.choice(beginnings)[:known], generator.integers(0, vocab_size, new)])
        request = Request((), max_tokens=int(generator.integers(1, MAX_TOKENS)))
        for _ in engine.generate(request, prompt_of(ids, engine.processor.config)):
            pass
        num_tokens += len(ids) + (request.max_tokens or 0)
        threads, files = threading.active_count(), process.num_fds()
        samples.append(Sample(now, process.memory_info().rss, threads, files, num_tokens))
    engine.close()
    return samples


def table(samples: list[Sample], num_lines: int) -> str:
    shown = [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, num_lines).astype(int))]
    rows = [
        (
            f"{sample.minutes:.1f}",
            f"{sample.resident_bytes / 1e9:.3f} GB",
            str(sample.num_threads),
            str(sample.num_files),
            f"{sample.num_tokens:,}",
        )
        for sample in shown
    ]
    return markdown(("minutes", "memory", "threads", "files", "tokens"), rows)


def verdict(samples: list[Sample]) -> str:
    """Of all but the first tenth, in which caches fill."""
    steady = [sample.resident_bytes for sample in samples[len(samples) // 10 :]]
    first, second = steady[: len(steady) // 2], steady[len(steady) // 2 :]
    if not first or not second:
        return "Too few questions to tell."
    grown = statistics.median(second) / statistics.median(first) - 1
    peak = max(sample.resident_bytes for sample in samples)
    return (
        f"{len(samples)} questions; peak {peak / 1e9:.3f} GB; "
        f"the second half's median lies {grown:+.2%} above the first's."
    )


if __name__ == "__main__":
    main()
