"""Experts whose reads begin before they are chosen: believed while right, harmless when wrong."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.experts.guesses import MEMORY, PROBE, Guesses
from qwen35.experts.store import ExpertStore
from qwen35.weights.manifest import ExpertsEntry
from qwen35.weights.packed import PackedModel
from tests.model.experts.conftest import MINI, STAGING

Chosen = NDArray[np.int32]


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
    for turn in range(2 * MEMORY):
        store.guess(layer, (chosen + turn) % 8)
        used(store, layer, (chosen + turn) % 8)
    assert min(store._guesses[layer].right) > 0.8


BOTH = [[True, True]]


def test_a_rank_is_believed_while_it_is_right() -> None:
    guesses = Guesses()
    for _ in range(2 * MEMORY):  # the first rank right, the second wrong
        guesses.likely([[3, 5]], BOTH)
        guesses.judge(tokens([0, 3]))
    assert guesses.likely([[3, 5], [4, 6]], 2 * BOTH) == [3, 4]
    assert guesses.likely([[3, 5], [4, 6]], [[False, True], [True, True]]) == [4]
    for _ in range(MEMORY):
        guesses.likely([[3, 5]], BOTH)
        guesses.judge(tokens([1, 2]))
    assert guesses.likely([[3, 5]], BOTH) == []


def test_it_is_believed_from_the_first_right_guess_on() -> None:
    guesses = Guesses()
    assert guesses.likely([[3, 5]], BOTH) == []
    guesses.judge(tokens([3, 7]))
    assert guesses.likely([[3, 5]], BOTH) == [3]


def test_it_is_judged_by_the_experts_that_are_missing() -> None:
    """Nine times right about what is in memory, once wrong about what is not: of no use."""
    guesses = Guesses()
    for number in range(20 * MEMORY):
        is_missing = number % 10 == 9
        guesses.likely([[3, 5]], [[is_missing, is_missing]])
        guesses.judge(tokens([1, 2]) if is_missing else tokens([3, 5]))
    assert guesses.likely([[3, 5]], BOTH) == []


def test_first_ranks_of_all_rows_come_first() -> None:
    guesses = Guesses()
    for _ in range(2 * MEMORY):
        guesses.likely([[3, 5]], BOTH)
        guesses.judge(tokens([5, 3]))
    assert guesses.likely([[3, 5], [4, 3]], 2 * BOTH) == [3, 4, 5]


def test_nothing_is_learnt_from_choices_that_were_not_guessed() -> None:
    guesses = Guesses()
    guesses.likely([[3, 5]], BOTH)
    guesses.judge(tokens([1, 2], [3, 5]))  # after a step that was given up, those of another
    for _ in range(2 * MEMORY):
        guesses.judge(tokens([3, 5]))
    assert not any(guesses.right)


def test_who_is_not_believed_is_asked_now_and_then() -> None:
    guesses = Guesses()
    assert all(guesses.is_due() for _ in range(MEMORY))  # at first, to learn
    assert sum(guesses.is_due() for _ in range(10 * PROBE)) == 10
    for _ in range(2 * MEMORY):
        guesses.likely([[3, 5]], BOTH)
        guesses.judge(tokens([3, 7]))
    assert all(guesses.is_due() for _ in range(PROBE))
    for _ in range(2 * MEMORY):
        guesses.likely([[3, 5]], BOTH)
        guesses.judge(tokens([1, 7]))
    assert sum(guesses.is_due() for _ in range(10 * PROBE)) == 10


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
            assert (after.hits, after.misses, after.bytes_wasted) == (0, 2, 0)
            assert after.stall_s < 0.001  # nothing was left to wait for
    finally:
        store.close()


def test_wrong_guesses_cost_a_read_and_no_slot(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + len(layers)) * layers[0].stride)
    try:
        believe(store, 0, tokens([1, 2]))
        slots = len(store._free) + sum(map(len, store._slots))
        for wrong, chosen in (([3, 4], [5, 6]), ([7, 0], [2, 3])):
            store.guess(0, tokens(wrong))
            assert store._guessed
            store._readers.wait([read for _, read in store._guessed.values()])
            before = store.use
            assert used(store, 0, tokens(chosen)) == [record_in_file(layers, 0, e) for e in chosen]
            assert not store._guessed
            assert store.use.since(before).bytes_wasted == 2 * layers[0].stride
        store._readers.wait([read for _, read in store._strays])
        store.guess(1, tokens([0, 1]))  # of another layer, not believed yet
        assert not store._strays
        assert slots == len(store._free) + sum(map(len, store._slots))
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
    for guesses in store._guesses:
        guesses.likely([[0, 1]], BOTH)
        guesses.judge(tokens([0, 1]))
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
        use = store.use
        assert use.bytes_read - use.bytes_wasted == use.misses * layers[0].stride
        assert len(store._free) + sum(map(len, store._slots)) == store._num_slots
    finally:
        store.close()


def test_a_model_guesses_what_its_routers_say_a_layer_before(
    library: Library, mini: PackedModel, layers: list[ExpertsEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy finds it; and that is right far more often than chance."""
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)
    backend = NativeBackend(library, mini, num_threads=2, store=store)
    text = mini.config.text
    inputs: list[np.ndarray] = []
    right: list[bool] = []
    at_layer = -1
    guessed: dict[int, Chosen] = {}
    call, guess, fetch = backend._context.call, store.guess, store.fetch

    def called(name: str, *arguments: Any) -> None:
        if name == "qw_guess":
            M, x_at = arguments[3], arguments[4]
            memory = (ctypes.c_float * (M * text.hidden_size)).from_address(x_at)
            inputs.append(np.array(memory, np.float64).reshape(M, -1))
        call(name, *arguments)

    def check(layer: int, found: Chosen) -> None:
        assert layer == at_layer + 1
        x, prefix = inputs.pop(), f"language_model.layers.{layer}."
        normed = x / np.sqrt((x * x).mean(1, keepdims=True) + text.rms_norm_eps)
        normed *= 1 + mini.vector(prefix + "post_attention_layernorm.weight")
        scores = normed @ mini.dequantised(prefix + "mlp.gate.weight").T
        assert found.tolist() == np.argsort(-scores, axis=1)[:, : found.shape[1]].tolist()
        guessed[layer] = found
        guess(layer, found)

    def judged(layer: int, chosen: Chosen) -> Any:
        nonlocal at_layer
        at_layer = layer
        if layer in guessed:
            right.extend((guessed.pop(layer)[:, :1] == chosen).any(1))
        return fetch(layer, chosen)

    monkeypatch.setattr(backend._context, "call", called)
    monkeypatch.setattr(store, "guess", check)
    monkeypatch.setattr(store, "fetch", judged)
    try:
        states = [backend.new_state() for _ in range(3)]
        ids = np.random.default_rng(0).integers(0, 400, 100)
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(60), (3, 60)))
        for state in states:
            backend.prefill(state, ids[:60], positions, None)
        assert not guessed  # nobody guesses what a prompt needs
        for token in ids[60:]:
            backend.decode(states, np.array([token, token + 1, token + 2]))
    finally:
        store.close()
    assert len(right) >= 3 * 40 // PROBE * (len(layers) - 1)
    assert np.mean(right) > 0.6  # chance: 2 of 8
