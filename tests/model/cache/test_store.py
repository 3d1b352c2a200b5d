"""The folder of states: what is saved is found, and room is made for it."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35.cache import room as room_module
from qwen35.cache import store as store_module
from qwen35.cache.blobs import BadBlob
from qwen35.cache.store import Store
from tests.model.cache.asking import assert_tidy, blobs_of
from tests.model.cache.saved import (
    MODEL,
    PLENTY,
    at_each_write,
    find,
    flip,
    random_state,
    restarted,
    save,
    snapshot_of,
)


@pytest.mark.parametrize("num_tokens", [1, 40, 256, 300, 512, 1000])
def test_what_was_saved_is_found(store: Store, num_tokens: int) -> None:
    save(store, num_tokens)
    assert find(restarted(store), num_tokens) is not None
    assert find(store, num_tokens, seed=1) is None
    assert store.lengths(MODEL) == [num_tokens]
    assert store.lengths("another") == []
    assert_tidy(store.folder)


def test_an_empty_store_finds_nothing_and_makes_nothing(store: Store) -> None:
    assert (store.lengths(MODEL), store.deepest({4: "k"}), store.features(MODEL, "k")) == (
        [],
        (None, 0),
        None,
    )
    assert (store.rows(), store.totals().size_bytes, list(store.check()), store.clear()) == ([], 0, [], 0)
    assert not store.folder.exists()


def test_blocks_are_shared(store: Store) -> None:
    for num_tokens in (300, 700, 1100):
        save(store, num_tokens)
    save(store, 1100, branch="other")
    assert len(blobs_of(store.folder, "block")) == 4
    assert len(blobs_of(store.folder, "snapshot")) == 4
    assert all(find(store, num_tokens) for num_tokens in (300, 700, 1100))
    assert_tidy(store.folder)


def test_nobody_else_may_read_it(store: Store) -> None:
    save(store, 300)
    modes = {path: path.stat().st_mode & 0o777 for path in (store.folder, *store.folder.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert modes[store.folder] == 0o700


@pytest.mark.parametrize("jump", [-(10**8), -61, -60, 10**8])
def test_a_clock_that_jumps_does_no_harm(states: Path, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    store = Store(states, 400_000)
    now = [2e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(store_module, "KEPT_PROMPTS", 4)
    for seed in range(3):
        save(store, 300, seed)
        store.save_prompt(MODEL, np.array([seed]))
    now[0] += jump
    for seed in range(3, 12):
        save(store, 300, seed)
        store.save_prompt(MODEL, np.array([seed]))
    assert [int(ids[0]) for ids in store.prompts(MODEL)] == [11, 10, 9, 8]
    assert_tidy(states)
    assert sum(path.stat().st_size for path in blobs_of(states)) <= 400_000


def test_what_was_used_last_and_spares_most_stays(states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    store = Store(states, PLENTY)
    for seed, saved_tokens in enumerate((100, 100, 10_000, 100)):
        save(store, 300, seed, saved_tokens=saved_tokens)
        now[0] += 1000
    store.touch(snapshot_of(300, 0).key)
    size = sum(path.stat().st_size for path in blobs_of(states))
    Store(states, size * 3 // 4).make_room()
    assert [find(store, 300, seed) is not None for seed in range(4)] == [True, False, True, True]
    assert store.deepest({300: snapshot_of(300, 1).key}) == (None, 300)


def test_evicted_states_are_not_remembered_for_ever(states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "KEPT_EVICTED", 3)
    for seed in range(8):
        save(Store(states, 0), 40, seed)
    with closing(sqlite3.connect(states / "index.sqlite")) as index:
        assert index.execute("SELECT COUNT(*) FROM snapshots").fetchone()[0] <= 4


def test_what_is_cleared_is_gone_from_every_file(store: Store) -> None:
    store.save(
        snapshot_of(300).__class__("key", MODEL, 300, ("0-b0",), 1, "the secret word"), random_state(300)
    )
    ids = np.arange(10**6, 10**6 + 500)
    store.save_prompt(MODEL, ids)
    assert any(b"secret" in path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    (store.folder / "blobs" / "x.partial").write_bytes(b"")
    assert store.clear() > 0
    assert list((store.folder / "blobs").iterdir()) == []
    data = b"".join(path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    assert b"secret" not in data
    assert ids.tobytes()[:64] not in data
    assert store.rows() == []
    save(store, 300)
    assert_tidy(store.folder)


def test_clear_does_not_need_the_index(store: Store) -> None:
    save(store, 300)
    (store.folder / "index.sqlite").unlink()
    assert restarted(store).clear() > 0
    assert blobs_of(store.folder) == []


acts = st.lists(
    st.tuples(
        st.sampled_from(["save", "save", "save", "features", "find", "forget", "restart", "flip", "budget"]),
        st.integers(0, 2),
        st.sampled_from([40, 256, 300, 600]),
    ),
    max_size=12,
)


def run_acts(folder: Path, acts: list[tuple[str, int, int]]) -> None:
    store = Store(folder, 200_000)
    for act, seed, num_tokens in acts:
        if act == "save":
            save(store, num_tokens, seed)
            assert sum(path.stat().st_size for path in blobs_of(folder)) <= store.budget_bytes
        elif act == "features":
            store.save_features(MODEL, str(seed), np.full((num_tokens, 16), seed, np.float32))
        elif act == "find":
            try:
                find(store, num_tokens, seed)
            except BadBlob:
                assert find(store, num_tokens, seed) is None
        elif act == "forget":
            store.forget([snapshot_of(num_tokens, seed).key])
        elif act == "restart":
            store = restarted(store)
        elif act == "flip" and (there := blobs_of(folder)):
            flip(there[(seed + num_tokens) % len(there)])
        elif act == "budget":
            store = Store(folder, num_tokens * 500)
        found = store.features(MODEL, str(seed))
        assert found is None or (found == seed).all()
    save(restarted(store), 40)
    assert_tidy(folder)


@settings(deadline=None, max_examples=15)
@given(acts=acts)
def test_any_use_of_it_keeps_it_tidy_and_right(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int]]
) -> None:
    run_acts(tmp_path_factory.mktemp("acts") / "states", acts)


@pytest.mark.long
@settings(deadline=None, max_examples=500)
@given(acts=acts)
def test_any_long_use_of_it(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int]]
) -> None:
    run_acts(tmp_path_factory.mktemp("acts") / "states", acts)


def test_room_is_made_before_a_state_is_written(states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Store(states, PLENTY), 600)
    size = sum(path.stat().st_size for path in blobs_of(states))
    seen: list[int] = []
    at_each_write(
        monkeypatch, lambda _: seen.append(sum(p.stat().st_size for p in (states / "blobs").iterdir()))
    )
    budget = size * 3 // 2
    for seed in range(1, 4):
        save(Store(states, budget), 600, seed)
    assert size <= max(seen) <= budget
    assert [find(Store(states, budget), 600, seed) is not None for seed in range(4)] == [False] * 3 + [True]
    assert_tidy(states)


def test_what_does_not_fit_leaves_the_rest_alone(states: Path) -> None:
    save(Store(states, PLENTY), 40)
    size = sum(path.stat().st_size for path in blobs_of(states))
    save(Store(states, size), 600, 1)
    assert find(Store(states, size), 40) is not None
    assert_tidy(states)
