"""Experts whose reads begin before they are chosen: believed while right, harmless when wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qwen35
from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.experts.guesses import MEMORY, Guesses
from qwen35.experts.store import ExpertStore
from qwen35.weights.manifest import ExpertsEntry
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import text_experts

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"
STAGING = 8  # slots that no layer owns
Chosen = NDArray[np.int32]


@pytest.fixture(scope="module")
def mini() -> Iterator[PackedModel]:
    with PackedModel.open(MINI, "read") as model:
        yield model


@pytest.fixture(scope="module")
def layers(mini: PackedModel) -> list[ExpertsEntry]:
    return text_experts(mini.manifest)


def tokens(*rows: list[int]) -> Chosen:
    return np.array(rows, np.int32)


def used(store: ExpertStore, layer: int, chosen: Chosen) -> list[bytes]:
    """What lies where the kernels are told to look for each of the chosen experts."""
    found: dict[int, bytes] = {}
    batches = store.fetch(layer, chosen)
    for mask in [None] if batches is None else batches:
        for expert in np.unique(chosen).tolist():
            if mask is None or mask[expert]:
                found[expert] = record_at(store, layer, expert)
    return [found[expert] for expert in chosen.ravel().tolist()]


def record_at(store: ExpertStore, layer: int, expert: int) -> bytes:
    at = int(store.tables[layer][expert]) - store._arena.ctypes.data
    return bytes(store._arena[at : at + store._layers[layer].stride])


def record_in_file(layers: list[ExpertsEntry], layer: int, expert: int) -> bytes:
    entry = layers[layer]
    with (MINI / entry.file).open("rb") as file:
        file.seek(entry.offset + expert * entry.stride)
        return file.read(entry.stride)


def believe(store: ExpertStore, layer: int, chosen: Chosen) -> None:
    """Let guesses be right until they are believed."""
    for _ in range(2 * MEMORY):
        store.guess(layer, chosen)
        used(store, layer, chosen)


def test_a_rank_is_believed_while_it_is_right() -> None:
    guesses = Guesses(2)
    for _ in range(2 * MEMORY):  # the first rank right, the second wrong
        guesses.likely(1, tokens([3, 5]))
        guesses.judge(1, tokens([0, 3]))
    assert guesses.likely(1, tokens([3, 5], [4, 6])) == [3, 4]
    assert guesses.likely(0, tokens([3, 5])) == []
    for _ in range(MEMORY):
        guesses.likely(1, tokens([3, 5]))
        guesses.judge(1, tokens([1, 2]))
    assert guesses.likely(1, tokens([3, 5])) == []


def test_what_was_chosen_elsewhere_says_nothing() -> None:
    guesses = Guesses(2)
    for _ in range(2 * MEMORY):
        guesses.likely(1, tokens([3, 5]))
        guesses.judge(0, tokens([3, 5]))  # after a step that was given up
        guesses.judge(1, tokens([3, 5]))
    assert guesses.likely(1, tokens([3, 5])) == []


def test_a_right_guess_is_read_once_and_before_it_is_asked_for(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + len(layers)) * layers[0].stride)  # a layer keeps one
    try:
        believe(store, 0, tokens([1, 2]))
        for chosen in ([3, 4], [5, 6]):
            before = store.use
            store.guess(0, tokens(chosen))
            begun = store.use.bytes_read - before.bytes_read
            store._readers.wait([read for _, read in store._guessed.values()])
            assert used(store, 0, tokens(chosen)) == [record_in_file(layers, 0, e) for e in chosen]
            after = store.use.since(before)
            assert begun == after.bytes_read == 2 * layers[0].stride
            assert (after.hits, after.misses) == (0, 2)
            assert after.stall_s < 0.001  # nothing was left to wait for
    finally:
        store.close()


def test_wrong_guesses_cost_a_read_and_no_slot(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + len(layers)) * layers[0].stride)
    try:
        believe(store, 0, tokens([1, 2]))
        slots = len(store._free) + sum(int((at >= 0).sum()) for at in store._slots)
        for wrong, chosen in (([3, 4], [5, 6]), ([7, 0], [2, 3])):
            store.guess(0, tokens(wrong))
            assert store._guessed
            assert used(store, 0, tokens(chosen)) == [record_in_file(layers, 0, e) for e in chosen]
            assert not store._guessed
        store._readers.wait([read for _, read in store._strays])
        store.guess(1, tokens([0, 1]))  # of another layer, not believed yet: strays are gathered
        assert not store._strays
        assert slots == len(store._free) + sum(int((at >= 0).sum()) for at in store._slots)
    finally:
        store.close()


def test_guesses_of_a_step_that_was_given_up_are_let_go(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + len(layers)) * layers[0].stride)
    try:
        believe(store, 0, tokens([1, 2]))
        store.guess(0, tokens([3, 4]))
        assert store._guessed
        assert used(store, 1, tokens([3, 4])) == [record_in_file(layers, 1, e) for e in (3, 4)]
        assert not store._guessed
    finally:
        store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, STAGING + 24), st.data())
def test_whatever_is_guessed_the_chosen_experts_are_there(
    layers: list[ExpertsEntry], num_slots: int, data: st.DataObject
) -> None:
    expert = st.lists(st.integers(0, 7), min_size=2, max_size=2, unique=True)
    rows = data.draw(st.integers(1, 3))
    some = st.lists(expert, min_size=rows, max_size=rows)
    store = ExpertStore(MINI, layers, num_slots * layers[0].stride)
    store._guesses._right = [np.full(2, 1.0) for _ in layers]
    try:
        for layer, guessed, chosen in data.draw(
            st.lists(st.tuples(st.integers(0, len(layers) - 1), some, some), max_size=12)
        ):
            store.guess(layer, tokens(*guessed))
            if data.draw(st.booleans()):
                wanted = [record_in_file(layers, layer, e) for row in chosen for e in row]
                assert used(store, layer, tokens(*chosen)) == wanted
        store._readers.wait([read for _, read in (*store._strays, *store._guessed.values())])
        store._let_go(list(store._guessed))
        assert len(store._free) + sum(int((at >= 0).sum()) for at in store._slots) == store._num_slots
    finally:
        store.close()


def test_a_model_guesses_and_is_right_more_often_than_chance(
    library: Library, mini: PackedModel, layers: list[ExpertsEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    right: list[float] = []
    judge: Callable[[Guesses, int, Chosen], None] = Guesses.judge

    def watched(self: Guesses, layer: int, chosen: Chosen) -> None:
        if self._layer == layer and layer:
            right.append(float((self._guessed[0, 0] == chosen[0]).any()))
        judge(self, layer, chosen)

    monkeypatch.setattr(Guesses, "judge", watched)
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)
    backend = NativeBackend(library, mini, num_threads=2, store=store)
    try:
        state = backend.new_state()
        ids = np.random.default_rng(0).integers(0, 400, 100)
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(60), (3, 60)))
        backend.prefill(state, ids[:60], positions, None)
        assert not right  # nobody guesses what a prompt needs
        for token in ids[60:]:
            backend.decode([state], np.array([token]))
    finally:
        store.close()
    assert len(right) == 40 * (len(layers) - 1)
    assert np.mean(right) > 0.6  # chance: 2 of 8
