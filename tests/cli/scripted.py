"""`qwen` with an engine that follows a script, for endings that no model gives on demand.

Run as a process: `python -m tests.cli.scripted ask ...` with the script's name in SCRIPTED_ENGINE.
All else is the real program: only `runtime.load` is another.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen35.engine.request import Request
from qwen35.errors import CheckpointError, DoesNotFit
from qwen35.events import (
    Event,
    Finished,
    FinishReason,
    Note,
    Prefilled,
    PrefillProgress,
    ReasoningDelta,
    TextDelta,
    Timings,
    Usage,
)
from qwen35.processing.processor import ModelInput, Processor
from qwencli import app, runtime
from qwencli.settings import Settings

Script = Callable[[], Iterator[Event]]


def _finished(answer: str, reason: FinishReason = "stop", reasoning: str = "") -> Finished:
    usage = Usage(100, 0, 64, 0, 7, 3 if reasoning else 0)
    return Finished(reason, answer, reasoning, usage, Timings(0.1, 0.2, 0.3, 0.4, 500.0, 17.5))


def plain() -> Iterator[Event]:
    yield PrefillProgress(100, 100)
    yield Prefilled(100, 0, 0.3)
    for text in ("Two ", "circles", ".\n", "\n"):
        yield TextDelta(text)
    yield _finished("Two circles.\n\n")


def thinking() -> Iterator[Event]:
    yield Note("scan.png: 4000x3000 resized to 1024x768 (768 image tokens)")
    yield ReasoningDelta("Let me ")
    yield ReasoningDelta("look.")
    yield TextDelta("Two.")
    yield _finished("Two.", reasoning="Let me look.")


def cut() -> Iterator[Event]:
    yield TextDelta("Two cir")
    yield _finished("Two cir", "length")


def loop() -> Iterator[Event]:
    yield TextDelta("again and again")
    yield _finished("again and again", "loop")


def fenced() -> Iterator[Event]:
    text = "Here it is:\n\n```python\nprint(1)\n\n# ~~~\n```\nGood luck.\n```\nno\n```\n"
    yield TextDelta(text)
    yield _finished(text)


def person() -> Iterator[Event]:
    """Valid JSON of another schema than one might ask for."""
    yield ReasoningDelta("Hm.")
    yield TextDelta('{"name": "Zoë", ')
    yield TextDelta('"born": "2024-02-30"}')
    yield _finished('{"name": "Zoë", "born": "2024-02-30"}', reasoning="Hm.")


def endless() -> Iterator[Event]:
    number = 0
    while True:
        number += 1
        yield TextDelta(f"line {number}\n")
        time.sleep(0.02)


def waiting() -> Iterator[Event]:
    yield TextDelta("a line\nand")
    time.sleep(600)


def hostile() -> Iterator[Event]:
    yield TextDelta("\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202egnp.exe\r")
    yield _finished("...")


def markdown() -> Iterator[Event]:
    text = "# Title\n\nTOTAL  12.50\nDATE <b>2024</b>\n\n" + "\n".join(f"- item {n}" for n in range(40))
    text += "\n\n```python\nprint('x')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThe end."
    for start in range(0, len(text), 3):
        yield TextDelta(text[start : start + 3])
    yield _finished(text)


def slow_prefill() -> Iterator[Event]:
    yield Note("a note before the work")
    for done in range(0, 1001, 100):
        yield PrefillProgress(done, 1000)
        time.sleep(0.15)
        if done == 800:
            yield Note("a note while the line is there")
    yield Prefilled(1000, 0, 1.5)
    yield TextDelta("Done.")
    yield _finished("Done.")


def bug() -> Iterator[Event]:
    yield TextDelta("Two ")
    raise ZeroDivisionError("a bug of ours")


def too_big() -> Iterator[Event]:
    raise DoesNotFit("The prompt has 9,000 tokens, the context holds 4,096.")
    yield


def no_memory() -> Iterator[Event]:
    raise MemoryError
    yield


@dataclass(frozen=True)
class ScriptedEngine:
    processor: Processor
    script: Script
    backend_name: str = "script"

    def generate(self, request: Request, prompt: ModelInput | None = None) -> Iterator[Event]:
        return self.script()

    def close(self) -> list[str]:
        return []


def load(
    folder: Path,
    processor: Processor,
    settings: Settings,
    cache: Path,
    states: object,
    on_progress: Callable[[int, int], None],
    notify: Callable[[str], None],
) -> ScriptedEngine:
    name = os.environ["SCRIPTED_ENGINE"]
    if sign := os.environ.get("SCRIPTED_READY"):
        Path(sign).touch()  # "the engine is at work"
    if name == "slow_load":
        for done in range(100):
            on_progress(done * 10**6, 10**8)
            time.sleep(0.1)
    if name == "half_import":  # what an interrupted import may turn KeyboardInterrupt into
        try:
            time.sleep(20)
        except KeyboardInterrupt:
            raise ImportError("numpy._core.multiarray failed to import") from None
    if name == "broken_load":
        raise CheckpointError(f"{folder}: bad\nname", path=str(folder))
    return ScriptedEngine(processor, globals()[name])


if __name__ == "__main__":
    runtime.load = load
    sys.exit(app.main())
