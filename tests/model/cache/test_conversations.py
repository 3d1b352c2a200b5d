"""Random conversations through one cache, with edits, branches and pictures: no answer may change."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35.engine.engine import Engine
from qwen35.messages import ImagePart, Message
from tests.model.cache.asking import (
    ask,
    assert_tidy,
    assistant,
    blobs_of,
    engine_of,
    picture,
    system,
    user,
    words,
)

PICTURES = [picture(0, 64, 64), picture(1, 64, 64), picture(2, 250, 256)]
TEXTS = [
    "Hi",
    words(40),
    words(150, 1),
    words(240, 2),
    "\n\nand",
    "'s",
    "e\u0301",
    "\u0301",
    "1",
    "東",
    "🙂 ",
]

parts = st.lists(st.sampled_from([*TEXTS, *PICTURES]), min_size=1, max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), parts),
        st.tuples(st.just("undo"), st.just(None)),
        st.tuples(st.just("edit"), parts),  # the last question, asked otherwise
        st.tuples(st.just("system"), st.sampled_from(["Be brief.", words(100, 3)])),
        st.tuples(st.just("branch"), st.integers(0, 5)),  # go on from an earlier point
        st.tuples(st.just("restart"), st.sampled_from([10**9, 250_000, 0])),
        st.tuples(st.just("damage"), st.integers(0, 99)),
    ),
    min_size=2,
    max_size=6,
)
Step = tuple[str, object]


class Drive:
    """One conversation, asked of an engine with a cache and of one without."""

    def __init__(self, model: Path, states: Path) -> None:
        self.model, self.states = model, states
        self.plain = engine_of(model)
        self.engine: Engine = engine_of(model, states)
        self.messages: list[Message] = []
        self.earlier: list[list[Message]] = [[]]

    def take(self, act: str, value: object) -> None:
        if act == "undo":
            self.messages = self.messages[:-2] if len(self.messages) > 1 else self.messages
        elif act == "system":
            rest = self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages
            self.messages = [system(str(value)), *rest]
        elif act == "branch":
            assert isinstance(value, int)
            self.messages = self.earlier[value % len(self.earlier)]
        elif act == "restart":
            assert isinstance(value, int)
            self.engine.close()
            self.engine = engine_of(self.model, self.states, disk=value, ram=value)
        elif act == "damage":
            assert isinstance(value, int)
            if there := blobs_of(self.states) if self.states.exists() else []:
                path = there[value % len(there)]
                data = bytearray(path.read_bytes())
                data[value * len(data) // 100] ^= 1
                path.write_bytes(data)
        else:
            assert isinstance(value, list)
            if act == "edit" and self.messages and self.messages[-1].role == "assistant":
                self.messages = self.messages[:-2]
            self.ask(value)

    def ask(self, value: list[str | ImagePart]) -> None:
        question = [*self.messages, user(*value)]
        answer = ask(self.engine, question, close=False)
        again = ask(self.plain, question)
        assert answer.result == again.result
        said = replace(assistant(answer.text), token_ids=answer.token_ids)
        self.messages = [*question, said]
        self.earlier.append(self.messages)


def drive(model: Path, states: Path, steps: list[Step]) -> None:
    conversation = Drive(model, states)
    for act, value in steps:
        conversation.take(act, value)
    conversation.ask(["Hi"])
    conversation.engine.close()
    conversation.engine = engine_of(model, states)
    conversation.ask(["Well?"])  # what the last process left is of use or not, and is swept
    conversation.engine.close()
    assert_tidy(states)


@settings(deadline=None, max_examples=12)
@given(steps=steps)
def test_no_answer_depends_on_the_cache(
    tmp_path_factory: pytest.TempPathFactory, model: Path, steps: list[Step]
) -> None:
    drive(model, tmp_path_factory.mktemp("conversation") / "states", steps)


@pytest.mark.long
@settings(deadline=None, max_examples=300)
@given(steps=steps)
def test_no_answer_of_many_depends_on_the_cache(
    tmp_path_factory: pytest.TempPathFactory, model: Path, steps: list[Step]
) -> None:
    drive(model, tmp_path_factory.mktemp("conversation") / "states", steps)
