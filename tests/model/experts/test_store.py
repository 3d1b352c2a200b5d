"""A model whose experts stay on the disk is the same model, bit for bit, whatever room they have."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import active_count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.errors import CheckpointError
from qwen35.events import ExpertUse
from qwen35.experts.hot import read_hot, write_hot
from qwen35.experts.readers import Read
from qwen35.experts.room import PATIENCE, RESERVE
from qwen35.experts.store import STEPS, ExpertStore
from qwen35.weights.manifest import ExpertsEntry
from qwen35.weights.packed import PackedModel
from tests.model.experts.conftest import MINI, STAGING

Run = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module")
def run(library: Library, mini: PackedModel) -> Run:
    """Logits of a prompt, cut in two, and of tokens after it."""

    def logits(store: ExpertStore | None, ids: np.ndarray, cut: int, num_decoded: int) -> list[np.ndarray]:
        backend = NativeBackend(library, mini, num_threads=2, store=store)
        state, found = backend.new_state(), []
        for begin, end in ((0, cut), (cut, len(ids) - num_decoded)):
            if begin < end:
                positions = np.broadcast_to(np.arange(begin, end), (3, end - begin))
                found.append(backend.prefill(state, ids[begin:end], np.ascontiguousarray(positions), None))
        for token in ids[len(ids) - num_decoded :]:
            found.append(backend.decode([state], np.array([token]))[0])
        return found

    return logits


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, STAGING + 40),
    st.integers(2, 60),
    st.integers(0, 40),
    st.integers(0, 12),
    st.integers(0, 99),
)
def test_offloaded_is_resident_at_every_budget(
    run: Run, layers: list[ExpertsEntry], num_slots: int, length: int, cut: int, num_decoded: int, seed: int
) -> None:
    ids = np.random.default_rng(seed).integers(0, 400, length + num_decoded)
    store = ExpertStore(MINI, layers, num_slots * layers[0].stride)
    try:
        got = run(store, ids, min(cut, length), num_decoded)
    finally:
        store.close()
    wanted = run(None, ids, min(cut, length), num_decoded)
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_what_is_kept_is_not_read_again(run: Run, layers: list[ExpertsEntry]) -> None:
    ids = np.random.default_rng(0).integers(0, 400, 120)
    store = ExpertStore(MINI, layers, 1 << 30)
    run(store, ids, 0, 40)
    after_one = store.use
    run(store, ids, 0, 40)
    store.close()
    assert after_one.bytes_read == after_one.misses * layers[0].stride > 0
    again = store.use.since(after_one)
    assert (again.misses, again.bytes_read) == (0, 0)
    assert again.hits == after_one.hits + after_one.misses


def test_the_bytes_are_those_that_the_system_counted(
    run: Run, layers: list[ExpertsEntry], tmp_path: Path
) -> None:
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("this platform does not count what a process reads")

    def read_so_far() -> int:
        return int(counters.read_text().split("rchar:")[1].split()[0])

    ids = np.random.default_rng(1).integers(0, 400, 60)
    store = ExpertStore(MINI, layers, (STAGING + 8) * layers[0].stride)
    before = read_so_far()
    run(store, ids, 0, 30)
    counted = read_so_far() - before
    store.close()
    assert store.use.bytes_read <= counted <= store.use.bytes_read + 64 * 1024


def masks(store: ExpertStore, chosen: list[list[int]]) -> list[np.ndarray]:
    """The batches of a call of layer 0."""
    batches = store.fetch(0, np.array(chosen, np.int32))
    return [mask.copy() for mask in batches] if batches else []


def test_every_expert_is_in_one_batch(layers: list[ExpertsEntry]) -> None:
    for num_slots in (1, 3, STAGING + 2 * len(layers)):
        store = ExpertStore(MINI, layers, num_slots * layers[0].stride)
        for chosen in ([[5, 1]], [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [6, 7]]):
            seen = np.sum(masks(store, chosen), axis=0)
            assert sorted(np.flatnonzero(seen)) == sorted({e for row in chosen for e in row})
            assert seen.max() == 1
        store.close()


def test_what_is_chosen_most_is_kept_and_counts_fade(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)  # two experts a layer
    masks(store, [[5, 2]] * 20)
    masks(store, [[0, 1]] * 2)
    assert sorted(store.hot()[0]) == [2, 5]
    masks(store, [[4, 3]] * 200)  # three half-lives
    assert sorted(store.hot()[0]) == [3, 4]
    for token in range(30_000):  # no number grows without end
        masks(store, [[token % 2, 6]])
    assert store.hot()[0][0] == 6
    store.close()


def test_counts_fade_from_one_token_to_the_next(layers: list[ExpertsEntry]) -> None:
    """As within a prompt: half as many choices count more where the others lie more than a half-life back."""
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)
    for chosen in [[5, 2]] * 200 + [[4, 3]] * 100:
        masks(store, [chosen])
    assert sorted(store.hot()[0]) == [3, 4]
    store.close()


def test_the_end_of_a_long_prompt_counts_most(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)
    masks(store, [[0, 1]] * 300 + [[2, 3]] * 300)
    assert sorted(store.hot()[0]) == [2, 3]
    store.close()


def test_a_run_begins_with_what_the_last_one_ended_with(
    run: Run, layers: list[ExpertsEntry], tmp_path: Path
) -> None:
    ids, hot = np.random.default_rng(2).integers(0, 400, 50), tmp_path / "cache" / "hot.json"
    uses: list[ExpertUse] = []
    for _ in range(2):
        store = ExpertStore(MINI, layers, 1 << 30, hot=hot)
        run(store, ids, 0, 0)
        uses.append(store.use)
        ended_with = store.hot()
        store.close()
    assert uses[1].bytes_read == uses[0].bytes_read == sum(map(len, ended_with.values())) * layers[0].stride
    hot.write_text('{"0": [900], "77": [1], "x": 2}')
    store = ExpertStore(MINI, layers, 1 << 30, hot=hot)
    assert run(store, ids, 0, 0)
    store.close()


def test_a_damaged_record_is_found_and_named(run: Run, layers: list[ExpertsEntry], tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(MINI, folder)
    with (folder / layers[2].file).open("r+b") as file:
        file.seek(layers[2].offset + 3 * layers[2].stride + 1000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))
    store = ExpertStore(folder, layers, 1 << 30)
    ids = np.random.default_rng(3).integers(0, 400, 200)  # needs all experts
    with pytest.raises(CheckpointError, match=r"experts\.bin: expert 3 of layer 2 is damaged"):
        run(store, ids, 0, 0)
    assert store.hot()[1]  # the others are not lost
    store.close()


def test_damage_after_the_first_look_is_found_too(layers: list[ExpertsEntry], tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(MINI, folder)
    store = ExpertStore(folder, layers, layers[0].stride)  # one slot: nothing is kept
    assert store.fetch(0, np.array([[1]], np.int32)) is not None
    list(store.fetch(0, np.array([[1]], np.int32)) or ())
    with (folder / layers[0].file).open("r+b") as file:
        file.seek(layers[0].offset + layers[0].stride)
        file.write(b"\xff\xff\xff\xff")
    with pytest.raises(CheckpointError, match="expert 1 of layer 0 is damaged"):
        list(store.fetch(0, np.array([[1]], np.int32)) or ())
    store.close()


def test_a_file_that_shrinks_is_said(layers: list[ExpertsEntry], tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(MINI, folder)
    store = ExpertStore(folder, layers, 1 << 30)
    with (folder / layers[0].file).open("r+b") as file:
        file.truncate(layers[0].offset + layers[0].stride + 4096)
    list(store.fetch(0, np.array([[0]], np.int32)) or ())
    with pytest.raises(CheckpointError, match=r"experts\.bin: became shorter while it was read"):
        list(store.fetch(0, np.array([[1]], np.int32)) or ())
    store.close()


def test_room_is_given_back(run: Run, layers: list[ExpertsEntry]) -> None:
    ids = np.random.default_rng(4).integers(0, 400, 200)
    store = ExpertStore(MINI, layers, 1 << 30)
    wanted = run(store, ids, 0, 5)
    full = store.use.arena_bytes
    store.shrink(20 * layers[0].stride)
    assert store.use.arena_bytes == full - 20 * layers[0].stride
    assert sum(map(len, store.hot().values())) <= 12
    got = run(store, ids, 0, 5)
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    store.shrink(1 << 40)  # never below what works
    got = run(store, ids, 0, 5)
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    store.close()


def test_a_process_that_grows_beyond_its_memory_gives_room_back(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, 1 << 30, ram_bytes=1 << 20)  # less than Python alone takes
    before = store.use.arena_bytes
    store.make_room()
    assert store.use.arena_bytes < before
    store.close()


def test_room_that_was_given_back_is_taken_again(run: Run, layers: list[ExpertsEntry]) -> None:
    ids = np.random.default_rng(7).integers(0, 400, 200)
    stride = layers[0].stride
    wanted = run(None, ids, 0, 5)
    store = ExpertStore(MINI, layers, 1 << 30)
    full = store.use.arena_bytes
    for less, more in ((20, 5), (3, 40), (40, 1), (0, 7)):
        store.shrink(less * stride)
        before = store.use.arena_bytes
        store.grow(more * stride)
        assert store.use.arena_bytes == min(full, before + more * stride)
        got = run(store, ids, 0, 5)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    store.grow(1 << 40)
    assert store.use.arena_bytes == full
    run(store, ids, 0, 5)
    seen = store.use
    run(store, ids, 0, 5)
    assert store.use.since(seen).misses == 0  # all experts are kept again
    store.close()


class Clock:
    """Half a second passes between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.6
        return self.now


@pytest.mark.parametrize("spare_slots", [-10, 0, 3, 4, 5, 15, 60])
def test_the_arena_grows_when_memory_is_free_for_long_and_does_not_oscillate(
    layers: list[ExpertsEntry], monkeypatch: pytest.MonkeyPatch, spare_slots: int
) -> None:
    """What is free falls by what the arena takes, as it does on a machine."""
    stride = layers[0].stride
    monkeypatch.setattr("qwen35.experts.room.time", Clock())
    store = ExpertStore(MINI, layers, 1 << 30)
    full = store.use.arena_bytes
    store.shrink(full)
    low = store.use.arena_bytes
    all_free = 2 * RESERVE + low + spare_slots * stride
    monkeypatch.setattr("qwen35.experts.room.available_memory", lambda: all_free - store.use.arena_bytes)
    sizes = [0, low]
    for _ in range(2 * PATIENCE * STEPS):
        if sizes[-1] != sizes[-2]:
            for layer in range(len(layers)):  # all that there is comes into use
                list(store.fetch(layer, np.arange(8, dtype=np.int32)[:, None]) or ())
        store.make_room()
        sizes.append(store.use.arena_bytes)
    store.close()
    assert sizes == sorted(sizes)
    assert sizes[PATIENCE] == low  # not at once
    assert (sizes[-1] > low) == (spare_slots >= 4)  # a step has two slots
    assert (sizes[-1] == full) == (spare_slots == 60)


@pytest.mark.parametrize(  # the library does not read by Python's os: for that see test_readers.py
    ("readers", "refuses_at_once"),
    [("threads", True), ("threads", False), ("native", True)],
    indirect=["readers"],
)
def test_without_direct_reads_it_reads_through_the_system(
    run: Run, layers: list[ExpertsEntry], monkeypatch: pytest.MonkeyPatch, refuses_at_once: bool
) -> None:
    """tmpfs and some network disks refuse them, when a file is opened or when it is read."""
    import errno
    import os

    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this platform has no direct reads")
    open_file, read, direct = os.open, os.preadv, set()

    def refusing_open(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT and refuses_at_once:
            raise OSError(errno.EINVAL, "Invalid argument")
        found = open_file(path, flags, *rest)
        (direct.add if flags & os.O_DIRECT else direct.discard)(found)
        return found

    def refusing_read(fd: int, buffers: list[memoryview], offset: int) -> int:
        if os.get_inheritable(fd) is None or fd in direct:
            direct.discard(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(fd, buffers, offset)

    monkeypatch.setattr("qwen35.experts.files.os.open", refusing_open)
    monkeypatch.setattr("qwen35.experts.files.os.preadv", refusing_read)
    ids = np.random.default_rng(5).integers(0, 400, 40)
    store = ExpertStore(MINI, layers, 1 << 20)
    got = run(store, ids, 0, 5)
    assert not store.is_direct
    store.close()
    assert all(np.array_equal(a, b) for a, b in zip(got, run(None, ids, 0, 5), strict=True))


def test_leaving_in_the_middle_of_reads_leaks_nothing(layers: list[ExpertsEntry]) -> None:
    handles = Path("/proc/self/fd")
    threads, files = active_count(), len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(20):
        store = ExpertStore(MINI, layers, (STAGING + 4) * layers[0].stride)
        batches = store.fetch(0, np.arange(8, dtype=np.int32)[:, None])
        assert batches is not None
        next(batches)
        batches.close()  # as Ctrl-C would
        assert store.hot()[0] == []
        list(store.fetch(0, np.arange(8, dtype=np.int32)[:, None]) or ())
        store.close()
        store.close()
    assert active_count() == threads
    assert not handles.exists() or len(list(handles.iterdir())) == files


def slow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Read.work

    def slow(read: Read) -> None:
        time.sleep(0.2)
        work(read)

    monkeypatch.setattr(Read, "work", slow)


def test_shrinking_while_the_hot_list_is_read_leaves_slots_to_read_into(
    layers: list[ExpertsEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_reads(monkeypatch)
    hot = tmp_path / "hot.json"
    write_hot(hot, {layer: [0, 1, 2, 3] for layer in range(len(layers))})
    store = ExpertStore(MINI, layers, (STAGING + 4 * len(layers)) * layers[0].stride, hot=hot)
    monkeypatch.setattr("qwen35.experts.room.available_memory", lambda: RESERVE - 10 * layers[0].stride)
    store.make_room()
    assert store.use.arena_bytes == (STAGING + 4 * len(layers) - 10) * layers[0].stride
    for layer in range(len(layers)):
        batches = store.fetch(layer, np.array([[6, 7]], np.int32))
        assert batches is not None
        assert np.sum([*map(np.copy, batches)], axis=0)[[6, 7]].tolist() == [1, 1]
    store.close()


def test_a_call_that_is_given_up_leaves_its_slots_free(layers: list[ExpertsEntry]) -> None:
    store = ExpertStore(MINI, layers, (STAGING + 2 * len(layers)) * layers[0].stride)
    for layer in range(len(layers)):
        for _ in range(20):
            for _ in store.fetch(layer, np.array([[0, 1]], np.int32)) or ():
                pass
    num_free = len(store._free)
    for layer in (3, 2, 1, 3, 2, 1):
        batches = store.fetch(layer, np.array([[0, 2], [3, 4], [5, 6], [7, 1]], np.int32))
        assert batches is not None
        next(batches)
        next(batches)
        batches.close()
        assert len(store._free) == num_free
    assert masks(store, [[2, 3]])
    store.close()


@pytest.mark.parametrize("text", ['{"0": [1e999]}', "[" * 100_000, '{"0": 3}', '{"x": [1]}', "\0"])
def test_a_damaged_hot_list_is_none(layers: list[ExpertsEntry], tmp_path: Path, text: str) -> None:
    hot = tmp_path / "hot.json"
    hot.write_text(text)
    store = ExpertStore(MINI, layers, 1 << 30, hot=hot)
    assert masks(store, [[0, 1]])
    store.close()
    assert read_hot(hot)[0] == [0, 1]
