"""What one engine's process is asked, and what it measures itself. Standard library and numpy alone.

A benchmark runs each engine as `python -m benchmarks.run_ENGINE JOB`, a process of its own, perhaps of
another environment: a Job goes in as JSON, an object of figures comes out as the last line.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Task = Literal["decode", "prefill", "vision", "load", "same_document", "restarted"]

WARM_UP_TOKENS = 32  # before anything is timed: pages, threads and tables are then in place
WARM_UP_SEED = 99  # no other prompt's: what is measured shares no beginning with it
LOAD_PROMPT_TOKENS = 32  # of the question whose first token ends a `load`
# The sampling of the checkpoints' instruct mode, for engines that do not read it from the folder.
TEMPERATURE, TOP_P, TOP_K = 0.7, 0.8, 20


@dataclass(frozen=True, slots=True)
class Job:
    """`prompts`: tokens of each prompt in turn; `num_tokens`: to decode after it."""

    task: Task
    model: str
    num_threads: int
    vocab_size: int = 0
    prompts: tuple[int, ...] = ()
    num_tokens: int = 0
    load: str = "auto"  # read, mmap
    picture: tuple[int, int] = (0, 0)  # (height, width) in pixels
    ubatch: int = 512  # llama.cpp's tokens at a time
    ram: int | None = None  # bytes that the process may take
    routing: str = ""  # "local": choices of experts as real models make them, imposed
    guesses: bool = True  # whether experts are read before they are chosen
    folder: str = ""  # where states are saved, and found by the process after it

    @classmethod
    def from_json(cls, text: str) -> "Job":
        values = json.loads(text)
        return cls(**values | {key: tuple(values[key]) for key in ("prompts", "picture")})


def serve(tasks: dict[str, Callable[[Job], dict[str, Any]]]) -> None:
    """Do the job of the command line, print its figures with this process's peak memory."""
    job = Job.from_json(sys.argv[1])
    figures = tasks[job.task](job)
    print(json.dumps({"peak_bytes": memory()["peak"]} | figures))


def prompt_ids(job: Job, num_tokens: int, seed: int) -> np.ndarray:
    """Ordinary tokens at random, the same for every engine; the last ids are special or padding."""
    return np.random.default_rng(seed).integers(0, int(0.8 * job.vocab_size), num_tokens)


def memory() -> dict[str, int]:
    """Bytes of this process: `peak` and `resident`; of these, `own` and, mapped from files, `shared`."""
    names = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "own", "RssFile": "shared"}
    found = dict.fromkeys(names.values(), 0)
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in names:
            found[names[key]] = 1024 * int(value.split()[0])
    return found


def reset_peak() -> None:
    """Let the peak of `memory` begin anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
