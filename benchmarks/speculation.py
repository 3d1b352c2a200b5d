"""What drafts of the MTP module bring: `python benchmarks/speculation.py 0.8b`.

Tokens a second of one answer, for so many drafts at a time and as "auto" chooses. A random module's drafts
never come: after it has made them, and taken its time, they are replaced by the right tokens, each with the
probability of the column. Every answer has to be the one without drafts.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import harness, peers
from benchmarks.job import Job
from benchmarks.run_qwen import load, prompt, warm_up
from benchmarks.synthetic_packed import RECIPES, layout_hash, write_packed
from qwen35.backends.base import Backend, Lookahead
from qwen35.cores import num_cores
from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.engine.speculation import Speculate, Speculating
from qwen35.events import Finished
from qwen35.processing.processor import ModelInput
from qwen35.state import ModelState
from qwencli.speed import endless


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 2, 3, 4], metavar="N")
    parser.add_argument("--acceptance", type=int, nargs="+", default=[50, 70, 90], metavar="PERCENT")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens before; default 128")
    parser.add_argument("--tokens", type=int, default=96, metavar="N", help="of an answer; default 96")
    parser.add_argument("--threads", type=int, default=num_cores(), help="default: one for each core")
    parser.add_argument("--work", type=Path, default=Path("synthetic-models"), metavar="FOLDER")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    size, recipe = replace(shape.size, has_mtp=True), RECIPES["all-q4"]
    folder = options.work / f"{shape.stem}-mtp-{layout_hash(size, recipe)}"
    if not folder.exists():
        aside = folder.with_suffix(".partial")
        write_packed(size, aside, recipe)
        aside.rename(folder)
    job = Job("decode", str(folder), options.threads, vocab_size=size.vocab_size, load="read")
    engine = endless(load(job))
    warm_up(job, engine)
    rates = compare(engine, prompt(job, engine, options.prompt, 0), options)
    engine.close()
    print(
        f"Decode, {options.tokens} tokens after {options.prompt}. {shape.title}, {options.threads} threads.\n"
    )
    print(table(rates, options.acceptance))
    print(f"`{harness.command_line()}`\n")
    print(harness.machine_line(harness.Machine.inspect()))


class Imposed:
    """What is made of a lookahead: its drafts are right with a given probability."""

    def __init__(
        self, lookahead: Lookahead, num_prompt: int, answer: Sequence[int], acceptance: float
    ) -> None:
        self._lookahead, self._num_prompt, self._answer = lookahead, num_prompt, answer
        self._acceptance, self._random = acceptance, np.random.default_rng(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._lookahead, name)

    def draft(self, state: ModelState, token: int, count: int) -> list[int]:
        drafts = self._lookahead.draft(state, token, count)
        first = state.num_tokens - self._num_prompt + 1
        right = self._answer[first : first + len(drafts)]
        return [one if self._random.random() < self._acceptance else one ^ 1 for one in right]


class Imposing:
    """A backend that looks ahead so."""

    def __init__(self, backend: Backend, num_prompt: int, answer: Sequence[int], acceptance: float) -> None:
        self._backend, self._rest = backend, (num_prompt, answer, acceptance)

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def look_ahead(self, state: ModelState) -> Imposed:
        lookahead = self._backend.look_ahead(state)
        assert lookahead is not None
        return Imposed(lookahead, *self._rest)


def compare(
    engine: Engine, asked: ModelInput, options: argparse.Namespace
) -> dict[Speculate, dict[int, list[float]]]:
    """Tokens a second, by drafts (0: none) and acceptance, of all rounds."""
    request = Request((), max_tokens=options.tokens, seed=0)
    plain = finish(engine, request, asked)
    found: dict[Speculate, dict[int, list[float]]] = {
        drafts: {percent: [] for percent in options.acceptance} for drafts in (0, *options.drafts, "auto")
    }
    learnt = Speculating("auto")
    for _ in range(options.rounds):
        for percent in options.acceptance:
            for drafts, rates in found.items():
                backend = Imposing(engine.backend, len(asked.ids), plain.token_ids, percent / 100)
                speculating = learnt if drafts == "auto" else Speculating(drafts) if drafts else None
                got = finish(replace(engine, backend=backend, speculating=speculating), request, asked)
                assert got.token_ids == plain.token_ids
                rates[percent].append(got.timings.decode_tokens_per_s)
    return found


def finish(engine: Engine, request: Request, asked: ModelInput) -> Finished:
    *_, last = engine.generate(request, asked)
    assert isinstance(last, Finished)
    return last


def table(rates: dict[Speculate, dict[int, list[float]]], acceptance: Sequence[int]) -> str:
    rows = []
    for drafts, own in rates.items():
        cells = [
            f"{median(own[percent]):.1f} ({median(own[percent]) / median(rates[0][percent]):.2f})"
            for percent in acceptance
        ]
        rows.append(("none" if drafts == 0 else str(drafts), *cells))
    head = ("drafts", *(f"tokens/s at {percent} % (times none)" for percent in acceptance))
    return harness.markdown(head, rows)


if __name__ == "__main__":
    main()
