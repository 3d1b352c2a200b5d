"""What it brings to answer several at once: `python benchmarks/batch.py 0.8b`.

Decode: tokens a second, of all rows together, of 1, 2, 4, 8 rows that decode side by side, sampled and made
text, in turns; and where a step's time goes. Pictures: so many of one size as `--pictures` says, each with an
answer of `--tokens` tokens, one after another and side by side; the answers have to be the same.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import harness, peers
from benchmarks.job import Job
from benchmarks.kernels import CALLS, OTHER, Profile
from benchmarks.run_qwen import load, prompt, warm_up
from qwen35.backends.base import Backend
from qwen35.backends.native.backend import NativeBackend
from qwen35.cores import num_cores
from qwen35.engine.batching import Failed, Item, answer_all
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.request import Request
from qwen35.events import Event, Finished
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.state import ModelState
from qwencli.bandwidth import read_bandwidth
from qwencli.speed import endless


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="turns of the decode table; default 3"
    )
    parser.add_argument("--steps", type=int, default=32, metavar="N", help="of a turn; default 32")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens before; default 128")
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="default 0: decode alone")
    parser.add_argument("--side", type=int, default=512, metavar="N", help="pixels of a picture; default 512")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="about a picture; default 256")
    parser.add_argument("--recipe", choices=peers.RECIPE_OF, default="qwen-q4")
    parser.add_argument("--threads", type=int, default=num_cores(), help="default: one for each core")
    parser.add_argument("--work", type=Path, default=Path("synthetic-models"), metavar="FOLDER")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    contender = peers.contender(
        options.recipe, shape, Job("decode", "", options.threads, load="read"), options
    )
    title = f"{contender.name}. {shape.title}, {options.threads} threads"
    engine = endless(load(contender.job))
    assert isinstance(engine.backend, NativeBackend)
    warm_up(contender.job, engine)
    if options.pictures:
        compare_pictures(title, engine, options)
    else:
        compare_rows(title, engine, contender.job, options)
    engine.close()
    print(f"`{harness.command_line()}`\n")
    print(harness.machine_line(harness.Machine.inspect()))


class Stopwatch:
    """A backend that adds up the time of steps of `num_rows` rows, from each to the next, and its parts."""

    def __init__(self, backend: Backend, num_rows: int, profile: Profile) -> None:
        self._backend, self._num_rows, self._profile = backend, num_rows, profile
        self._is_counted = False
        self.num_steps = 0
        self.seconds: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        seconds, _ = self._profile.taken()
        if self._is_counted:
            self.num_steps += 1
            for name, value in seconds.items():
                self.seconds[name] += value
        self._is_counted = len(states) == self._num_rows
        return self._backend.decode(states, ids)

    @property
    def step_s(self) -> float:
        return sum(self.seconds.values()) / self.num_steps


def compare_rows(title: str, engine: Engine, job: Job, options: argparse.Namespace) -> None:
    assert isinstance(engine.backend, NativeBackend)
    watches: dict[int, list[Stopwatch]] = {num_rows: [] for num_rows in options.rows}
    bandwidths = [read_bandwidth(options.threads)]
    profile = Profile.of(engine.backend)
    for number in range(options.rounds):
        for num_rows, own in watches.items():
            own.append(Stopwatch(engine.backend, num_rows, profile))
            # Prompts are read one after another: those that are through take a step after each of the others.
            items = (
                Item(
                    str(row),
                    Request((), max_tokens=options.steps + num_rows - row + 1),
                    prompt(job, engine, options.prompt, number * 100 + row),
                )
                for row in range(num_rows)
            )
            for _ in answer_all(replace(engine, backend=own[-1]), items, num_rows):
                pass
    bandwidths.append(read_bandwidth(options.threads))
    print(f"Decode, {options.steps} steps after {options.prompt} tokens. {title}.\n")
    print(rows_table(watches))
    print(f"Memory read before and after: {', '.join(f'{b / 1e9:.1f}' for b in bandwidths)} GB/s.\n")


def rows_table(watches: dict[int, list[Stopwatch]]) -> str:
    """Of the median turn of each number of rows."""
    typical = {
        num_rows: sorted(own, key=lambda w: w.step_s)[len(own) // 2] for num_rows, own in watches.items()
    }
    names = [name for name in (*CALLS, OTHER) if any(watch.seconds.get(name) for watch in typical.values())]
    one = next(num_rows / watch.step_s for num_rows, watch in typical.items())
    rows = []
    for num_rows, watch in typical.items():
        rate = num_rows / watch.step_s
        parts = [f"{1e3 * watch.seconds[name] / watch.num_steps:.2f}" for name in names]
        rows.append((str(num_rows), f"{rate:.1f}", f"{rate / one:.2f}", f"{1e3 * watch.step_s:.2f}", *parts))
    return harness.markdown(("rows", "tokens/s", "times one row", "ms a step", *names), rows)


def compare_pictures(title: str, engine: Engine, options: argparse.Namespace) -> None:
    seconds, answers = {}, {}
    for num_rows in options.rows:
        start = time.perf_counter()
        events = answer_all(engine, pictures(engine, options), num_rows)
        answers[num_rows] = answers_of(events)
        seconds[num_rows] = time.perf_counter() - start
    assert all(answers[num_rows] == answers[options.rows[0]] for num_rows in options.rows)
    assert len(answers[options.rows[0]]) == options.pictures
    print(
        f"{options.pictures} pictures of {options.side} x {options.side} pixels, {options.tokens} tokens "
        f"about each. {title}.\n"
    )
    one = seconds[options.rows[0]]
    print(
        harness.markdown(
            ("rows", "seconds", "seconds a picture", "times as fast"),
            [
                (str(rows), f"{own:.1f}", f"{own / options.pictures:.2f}", f"{one / own:.2f}")
                for rows, own in seconds.items()
            ],
        )
    )
    print("The answers are the same.\n")


def pictures(engine: Engine, options: argparse.Namespace) -> Iterator[Item]:
    for number in range(options.pictures):
        pixels = np.random.default_rng(number).integers(0, 256, (options.side, options.side, 3), np.uint8)
        parts = (ImagePart(pixels, f"{number}.png"), TextPart("Describe the picture."))
        request = Request((Message("user", parts),), max_tokens=options.tokens, seed=number)
        yield Item(str(number), request, prepare(engine.processor, request))


def answers_of(events: Iterator[tuple[str, Event | Failed]]) -> dict[str, tuple[int, ...]]:
    return {key: event.token_ids for key, event in events if isinstance(event, Finished)}


if __name__ == "__main__":
    main()
