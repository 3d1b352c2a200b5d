"""An answer is not computed again where the next prompt shows it as it was written, whatever its tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen35.backends.base import Backend
from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.events import Finished
from qwen35.messages import Message, TextPart
from qwen35.processing.template import ChatTemplate
from qwen35.state import ModelState
from tests.model.cache.asking import GREEDY, Counting, ask, engine_of, user
from tests.model.cache.saved import MINI

ANSWER = "There is a red circle at the top left, and a blue square below it."
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' -}}
"""


class Steered(Counting):
    """Runs the model, and lets `ids` be drawn whatever it says."""

    def __init__(self, backend: Backend, ids: Sequence[int]) -> None:
        super().__init__(backend)
        self._ids = list(ids)

    def prefill(
        self, state: ModelState, ids: np.ndarray, positions: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        logits = super().prefill(state, ids, positions, features)
        return self._steer(logits)

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        self._ids.pop(0)
        return self._steer(super().decode(states, ids)[0])[None]

    def _steer(self, logits: np.ndarray) -> np.ndarray:
        steered = np.zeros_like(logits)
        steered[self._ids[0]] = 100
        return steered


def engine_with(states: Path | None = None) -> Engine:
    """mini with a template that leaves past answers as they are; as a new process loads it."""
    engine = engine_of(MINI, states)
    return replace(engine, processor=replace(engine.processor, template=ChatTemplate(TEMPLATE)))


@pytest.mark.parametrize("is_cut", [False, True])
def test_the_next_turn_reuses_every_token_of_an_answer_written_letter_by_letter(
    tmp_path: Path, is_cut: bool
) -> None:
    states = tmp_path / "states"
    engine = engine_with(states)
    tokenizer = engine.processor.tokenizer
    letters = [i for letter in ANSWER for i in tokenizer.encode(letter)]
    assert len(letters) > 1.5 * len(tokenizer.encode(ANSWER))
    question = user("What do you see?")
    steered = replace(engine, backend=Steered(engine.backend, [*letters, *tokenizer.encode("<|im_end|>")]))
    limit = len(letters) if is_cut else None
    finished = list(steered.generate(Request((question,), sampling=GREEDY, max_tokens=limit)))[-1]
    assert isinstance(finished, Finished)
    assert (finished.answer, finished.token_ids) == (ANSWER, tuple(letters))
    assert finished.reason == ("length" if is_cut else "stop")
    engine.close()

    said = Message("assistant", (TextPart(ANSWER),), None, finished.token_ids)
    turns = [question, said, user("And now?")]
    after = ask(engine_with(states), turns)  # as another process
    own = len(tokenizer.encode("<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"))
    num_unread = 1 if is_cut else 0  # the last token that is drawn before the limit goes through no layer
    assert after.rows == own + num_unread
    assert after.cached_tokens == finished.usage.prompt_tokens + len(letters) - num_unread
    anew = ask(engine_with(), turns)
    assert (anew.prompt_tokens, anew.text) == (after.prompt_tokens, after.text)
    np.testing.assert_allclose(after.logits, anew.logits, atol=0.02 * np.abs(anew.logits).max())


def test_without_its_tokens_it_is_computed_again(tmp_path: Path) -> None:
    engine = engine_with(tmp_path / "states")
    letters = [i for letter in ANSWER for i in engine.processor.tokenizer.encode(letter)]
    steered = replace(engine, backend=Steered(engine.backend, letters))
    question = user("What do you see?")
    finished = list(steered.generate(Request((question,), sampling=GREEDY, max_tokens=len(letters))))[-1]
    assert isinstance(finished, Finished)
    again = ask(engine, [question, Message.of_text("assistant", ANSWER), user("And now?")])
    assert again.cached_tokens <= finished.usage.prompt_tokens
