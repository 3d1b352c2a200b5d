"""A long chat, turn by turn: `python benchmarks/chat_turns.py [MODEL]`.

What `qwen chat` runs, with a person at the prompt who is this program: who waits a while before each line, so
that the last answer is read once more meanwhile, or who does not. After the last turn the process is killed,
and another goes on with the conversation. The first token's time is from the end of the line to where its
text would be on the screen; tokens are counted where they enter the model.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from qwen35.backends.base import Backend
from qwen35.events import Event, ReasoningDelta, TextDelta
from qwen35.state import ModelState
from qwencli.chat.loop import run
from qwencli.chat.screen import Screen
from qwencli.chat.session import Session
from qwencli.conversations.store import LAST, open_store
from qwencli.folders import Folders
from qwencli.render.aside import Aside, Verbosity
from qwencli.render.base import Renderer
from qwencli.render.output import Output
from qwencli.settings import Settings

SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)  # turns in the table; and the last one
WORDS = ("river", "stone", "old", "house", "under", "small", "nobody", "counts", "light", "garden")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question: what its answer says of its prompt, and what was seen. Seconds are from its line on."""

    number: int
    prompt_tokens: int
    reused_tokens: int
    computed_before: int  # tokens, from the answer before it to its line
    computed: int  # from there to its first token
    first_token_s: float
    model_s: float  # of these, within the model
    load_s: float  # of the process


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="as qwen chat -m takes it; default mini")
    parser.add_argument("--turns", type=int, default=50, help="before the process is killed; default 50")
    parser.add_argument("--words", type=int, default=15, help="of each question; default 15")
    parser.add_argument("--max-tokens", type=int, default=16, help="of each answer; default 16")
    parser.add_argument(
        "--pauses",
        type=lambda text: tuple(float(number) for number in text.split(",")),
        default=(2.0, 0.0),
        metavar="S,S",
        help="a chat for each: seconds before each line; default 2,0",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every turn into FILE")
    parser.add_argument(
        "--person", help=argparse.SUPPRESS
    )  # the process that is killed, and the one after it
    options = parser.parse_args()
    if options.person:
        chat(options, json.loads(options.person))
        return
    chats = {}
    for pause_s in options.pauses:
        with tempfile.TemporaryDirectory() as home:
            before = talk(home, pause_s, 1, options.turns)
            after = talk(home, pause_s, options.turns + 1, options.turns + 1)
            states = sum(file.stat().st_size for file in Path(home).rglob("*.safetensors"))
        chats[pause_s] = [*before, *after]
        title = (
            f"{pause_s:g} s before each line" if pause_s else "No time between an answer and the next line"
        )
        print(f"{title}; {states / 1e6:,.0f} MB of states on disk at the end:\n")
        print(table(chats[pause_s], options.turns))
    if options.json:
        values = {f"{pause_s:g}": [asdict(turn) for turn in turns] for pause_s, turns in chats.items()}
        options.json.write_text(json.dumps(values, indent=1) + "\n")


def talk(home: str, pause_s: float, first: int, last: int) -> list[Turn]:
    """The turns of one process, which is killed where it waits for the line after them."""
    person = json.dumps({"pause_s": pause_s, "first": first, "last": last})
    command = [sys.executable, __file__, *sys.argv[1:], "--person", person]
    environment = os.environ | {"QWEN_HOME": home}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            harness.say(f"pause {pause_s:g} s: {line.strip()}")
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the chat ended by itself, with {process.returncode}")
    return [Turn(**json.loads(line)) for line in lines]


def chat(options: argparse.Namespace, person: dict[str, float]) -> None:
    """The process that talks, from its first turn to its end."""
    folders = Folders.locate(os.environ)
    flags = {"model": options.model, "temperature": 0.0, "max_tokens": options.max_tokens}
    settings = Settings.resolve(flags, os.environ, folders.config_file)
    with Path(os.devnull).open("w") as nowhere, open_store(folders, is_private=False, notify=print) as store:
        screen = TimedScreen(Output(nowhere), Verbosity.QUIET)
        session = Session(settings, folders, screen, store, pages=None, is_private=False, uses_cache=True)
        first, last = int(person["first"]), int(person["last"])
        if first > 1:
            session.resume(LAST)
        session.open_model()
        rows = Rows(session.model.engine(lambda done, total: None).backend)
        run(session, Person(session, screen, rows, options.words, person["pause_s"], first, last))


class Rows:
    """When a backend took how many tokens of prompts, and how long that was."""

    def __init__(self, backend: Backend) -> None:
        self._done: list[tuple[float, float, int]] = []
        prefill = backend.prefill

        def counted(state: ModelState, ids: np.ndarray, *rest: Any) -> np.ndarray:
            start = time.perf_counter()
            logits = prefill(state, ids, *rest)
            self._done.append((start, time.perf_counter(), len(ids)))
            return logits

        backend.prefill = counted  # type: ignore[assignment, method-assign]

    def between(self, start: float, end: float) -> tuple[int, float]:
        """Tokens that were through between these times, and the seconds of it."""
        done = [part for part in self._done if start <= part[1] < end]
        return sum(part[2] for part in done), sum(part[1] - max(start, part[0]) for part in done)


class Person:
    """Types the questions, and says on standard output how fast each was answered."""

    is_interactive = True

    def __init__(
        self,
        session: Session,
        screen: "TimedScreen",
        rows: Rows,
        num_words: int,
        pause_s: float,
        first: int,
        last: int,
    ) -> None:
        self._session, self._screen, self._rows = session, screen, rows
        self._num_words, self._pause_s = num_words, pause_s
        self._number, self._first, self._last = first - 1, first, last
        self._answered = self._typed = time.perf_counter()

    def read(self, draft: str) -> str:
        if self._number >= self._first:
            self._tell()
            self._answered = time.perf_counter()
        time.sleep(self._pause_s)
        if self._number == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._number += 1
        words = np.random.default_rng(self._number).choice(WORDS, self._num_words)
        self._typed = time.perf_counter()
        return " ".join(words)

    def _tell(self) -> None:
        record, first_text = self._session.answered[-1], self._screen.first_text
        computed, model_s = self._rows.between(self._typed, first_text)
        turn = Turn(
            self._number,
            record.usage.prompt_tokens,
            record.usage.cached_tokens,
            self._rows.between(self._answered, self._typed)[0],
            computed,
            round(first_text - self._typed, 4),
            round(model_s, 4),
            round(record.load_s, 4),
        )
        print(json.dumps(asdict(turn)), flush=True)


class TimedScreen(Screen):
    """Shows nothing, but notes when it would show an answer's `first_text`."""

    first_text = 0.0

    @contextmanager
    def answering(self, *, is_markdown: bool = True) -> Iterator[tuple[Renderer, Aside]]:
        self.first_text = 0.0
        with super().answering(is_markdown=is_markdown) as (renderer, aside):
            show = renderer.show

            def timed(event: Event) -> None:
                show(event)
                if isinstance(event, TextDelta | ReasoningDelta):
                    self.first_text = self.first_text or time.perf_counter()

            renderer.show = timed  # type: ignore[method-assign]
            yield renderer, aside


def table(turns: list[Turn], num_turns: int) -> str:
    rows = []
    for turn in turns:
        if turn.number in SHOWN or turn.number >= num_turns:
            name = f"{turn.number}, after kill -9" if turn.number > num_turns else str(turn.number)
            counts = turn.prompt_tokens, turn.reused_tokens, turn.computed_before, turn.computed
            seconds = turn.first_token_s, turn.first_token_s - turn.model_s
            rows.append(
                (name, *(f"{count:,}" for count in counts), *(f"{figure:.2f} s" for figure in seconds))
            )
    header = (
        *("turn", "prompt, tokens", "reused", "computed before the line", "after it"),
        *("first token", "of it not in the model"),
    )
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
