"""Between two turns: what the template's rewriting of the last answer costs is paid before the next one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35.backends.base import Backend
from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.events import Finished, Prefilled
from qwen35.messages import Message
from qwen35.state import ModelState
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import MOE, reference_model

GREEDY = SamplingOverrides(temperature=0)
QUESTION = Message.of_text("user", "Where is " + "the very " * 20 + "red circle?")
NEXT = Message.of_text("user", "And the star?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read-ahead")
    write_checkpoint(folder, reference_model(MOE), MOE)
    return folder


def engine_of(folder: Path, *, has_cache: bool) -> Engine:
    states = States(folder=None, disk_bytes=0, ram_bytes=10**8) if has_cache else None
    return load_engine(folder, device="cpu", states=states)


def ask(engine: Engine, *messages: Message) -> tuple[str, int, int]:
    """The answer, the tokens of the prompt, and those reused."""
    events = list(engine.generate(Request(messages, sampling=GREEDY, max_tokens=12)))
    finished = next(event for event in events if isinstance(event, Finished))
    prefilled = next(event for event in events if isinstance(event, Prefilled))
    return finished.answer, prefilled.prompt_tokens, prefilled.cached_tokens


def test_the_next_turn_computes_its_own_message_alone(folder: Path) -> None:
    engine, fresh = engine_of(folder, has_cache=True), engine_of(folder, has_cache=False)
    answer, _, reused = ask(engine, QUESTION)
    assert reused == 0
    turns = (QUESTION, Message.of_text("assistant", answer))
    computed = engine.read_ahead(Request(turns), lambda: True)
    assert computed > 0
    assert engine.read_ahead(Request(turns), lambda: True) == 0  # it is there
    after, num_prompt, reused = ask(engine, *turns, NEXT)
    assert (after, num_prompt) == ask(fresh, *turns, NEXT)[:2]
    own = "<|im_start|>user\nAnd the star?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert num_prompt - reused <= len(engine.processor.tokenizer.encode(own))


class Recorder:
    """A backend that remembers how many tokens it was given at a time."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.lengths: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def prefill(self, state: ModelState, ids: np.ndarray, *others: Any) -> np.ndarray:
        self.lengths.append(len(ids))
        return self.backend.prefill(state, ids, *others)


def test_where_all_is_there_a_model_runs_once_before_it_is_asked(folder: Path, tmp_path: Path) -> None:
    """So the first question to a resumed conversation does not pay for a first pass."""

    def opened() -> Engine:
        return load_engine(folder, device="cpu", states=States(tmp_path, 10**9, 10**8))

    engine = opened()
    answer, _, _ = ask(engine, QUESTION)
    turns = (QUESTION, Message.of_text("assistant", answer))
    engine.read_ahead(Request(turns), lambda: True)
    engine.close()
    resumed = opened()
    recorder = Recorder(resumed.backend)
    assert replace(resumed, backend=recorder).read_ahead(Request(turns), lambda: True) == 0
    assert recorder.lengths == [1]
    again = ask(resumed, *turns, NEXT)
    assert again[0] == ask(engine_of(folder, has_cache=False), *turns, NEXT)[0]
    assert again[2] > 0
    resumed.close()


def test_it_stops_when_it_is_not_wanted(folder: Path) -> None:
    engine = engine_of(folder, has_cache=True)
    turns = (QUESTION, Message.of_text("assistant", "There."))
    assert engine.read_ahead(Request(turns), lambda: False) == 0
    assert ask(engine, *turns, NEXT)[2] == 0


def test_without_a_cache_nothing_is_done(folder: Path) -> None:
    engine = engine_of(folder, has_cache=False)
    assert engine.read_ahead(Request((QUESTION, Message.of_text("assistant", "There."))), lambda: True) == 0
