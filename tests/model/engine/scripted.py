"""An engine with mini's vocabulary and a model that says what it is told to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwen35.engine.engine import Engine
from qwen35.engine.grammar import Grammars
from qwen35.engine.request import GenerationDefaults
from qwen35.processing.processor import Processor
from qwen35.state import ModelState

MINI = Path(__file__).parents[3] / "model/qwen35/builtin/mini"


class ScriptedBackend:
    """Runs no model: what is likeliest continues a script from as far as the answer has come.

    A first answer follows the first script, the next one the next; others the last. Newlines do not count,
    which a template may put between. It counts its calls.
    """

    name, numerics, prefill_chunk = "scripted", "scripted", 4096
    expert_use = layer_use = None

    def __init__(self, processor: Processor, stop_id: int, *scripts: str) -> None:
        self.config, self.bytes_of = processor.config, processor.tokenizer.token_bytes()
        encode = processor.tokenizer.encode
        self.scripts = [[*encode(script.replace("\n", "")), stop_id] for script in scripts]
        self.places = [[self._length(ids[:i]) for i in range(len(ids))] for ids in self.scripts]
        self.given: list[list[int]] = []  # of each answer, after its prompt
        self.states: list[ModelState] = []  # theirs
        self.calls = 0

    def _length(self, ids: Sequence[int]) -> int:
        return len(b"".join(self.bytes_of[i] for i in ids).replace(b"\n", b""))

    def new_state(self) -> ModelState:
        return ModelState(self.config.text, "bfloat16")

    def device_room(self) -> int | None:
        return None

    def close(self) -> None:
        pass

    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        return np.zeros((len(patches) // self.config.vision.spatial_merge_size**2, 1), np.float32)

    def prefill(
        self, state: ModelState, ids: np.ndarray, position_ids: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        assert position_ids.shape == (3, len(ids))
        if features is None:
            first = state.num_tokens + (state.mrope_delta if state.num_tokens else 0)
            assert (position_ids[0] == np.arange(len(ids)) + first).all()
        if any(known is state for known in self.states):
            self.given[self._number(state)] += ids.tolist()
        else:
            self.states.append(state)
            self.given.append([])
        state.num_tokens += len(ids)
        self.calls += 1
        return self._logits(state)

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        for state, token in zip(states, ids.tolist(), strict=True):
            state.num_tokens += 1
            self.given[self._number(state)].append(token)
        self.calls += 1
        return np.stack([self._logits(state) for state in states])

    def _number(self, state: ModelState) -> int:
        return next(number for number, known in enumerate(self.states) if known is state)

    def _logits(self, state: ModelState) -> np.ndarray:
        logits = np.zeros(self.config.text.vocab_size, np.float32)
        number = self._number(state)
        said, number = self._length(self.given[number]), min(number, len(self.scripts) - 1)
        for place, token in zip(self.places[number], self.scripts[number], strict=True):
            if place >= said:
                logits[token] = max(logits[token], 1000 + said - place)
        return logits


def engine_of(processor: Processor, *texts: str) -> tuple[Engine, ScriptedBackend]:
    """An engine whose model wants to say one of the `texts` after the other, each time to its end."""
    defaults = GenerationDefaults.from_folder(MINI)
    backend = ScriptedBackend(processor, min(defaults.stop_ids), *texts)
    return Engine(backend, processor, defaults, Grammars(processor.tokenizer, defaults.stop_ids)), backend
