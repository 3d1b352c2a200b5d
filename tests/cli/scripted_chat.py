"""`qwen` with an engine that answers a chat as its questions say, for what no model does on demand.

Run as a process: `python -m tests.cli.scripted_chat chat ...`. All else is the real program: only
`runtime.load` is another.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35.engine.engine import prepare
from qwen35.engine.request import Request
from qwen35.errors import CheckpointError
from qwen35.events import Event, Finished, FinishReason, Prefilled, ReasoningDelta, TextDelta, Timings, Usage
from qwen35.processing.processor import ModelInput, Processor
from qwencli import app, runtime


@dataclass(frozen=True)
class ScriptedEngine:
    processor: Processor
    backend_name: str = "script"

    def close(self) -> list[str]:
        return []

    def read_ahead(self, request: Request, is_wanted: Callable[[], bool]) -> int:
        return 0

    def generate(self, request: Request, prompt: ModelInput | None = None) -> Iterator[Event]:
        prompt = prompt or prepare(self.processor, request)
        question = request.messages[-1].text
        word = question.split()[0] if question.split() else ""
        num_prompt = len(prompt.ids)
        yield Prefilled(num_prompt, num_prompt // 2, 0.1)
        reasoning, reason = "", "stop"
        if word == "count":  # without end
            for number in range(1, 10**6):
                yield TextDelta(f"line {number}\n")
                time.sleep(0.02)
        elif word in ("slow", "Sum"):  # the latter is /compact's
            yield TextDelta("begun\n\n")
            time.sleep(3)
        elif word == "hang":
            yield TextDelta("begun")
            time.sleep(600)
        elif word == "bug":
            yield TextDelta("begun")
            raise ZeroDivisionError("a bug of ours")
        elif word == "think":
            reasoning = "Let me see."
            yield ReasoningDelta(reasoning)
        elif word == "cut":
            reason = "length"
        text = f"You said {question!r}, message {len(request.messages)}."
        for start in range(0, len(text), 5):
            yield TextDelta(text[start : start + 5])
        yield finished(reason, text, reasoning, num_prompt)


def finished(reason: Any, text: str, reasoning: str, num_prompt: int) -> Finished:
    ended: FinishReason = reason
    usage = Usage(num_prompt, num_prompt // 2, 0, 0, 7, 3 if reasoning else 0)
    return Finished(ended, text, reasoning, usage, Timings(0.1, 0.2, 0.3, 0.4, 500.0, 17.5))


def load(folder: Path, processor: Processor, *others: Any) -> ScriptedEngine:
    if os.environ.get("SCRIPTED_LOAD") == "broken":
        raise CheckpointError(f"{folder}: bad", path=str(folder))
    if os.environ.get("SCRIPTED_LOAD") == "slow":
        time.sleep(600)
    return ScriptedEngine(processor)


if __name__ == "__main__":
    runtime.load = load  # type: ignore[assignment]
    sys.exit(app.main())
