"""The folder of states: many processes, damage of every kind, and little room."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35.cache import blobs
from qwen35.cache import index as index_module
from qwen35.cache import room as room_module
from qwen35.cache import store as store_module
from qwen35.cache.blobs import BadBlob
from qwen35.cache.store import CacheTrouble, Store
from tests.model.cache.asking import assert_tidy, blobs_of
from tests.model.cache.saved import MODEL, find, new_state, random_state, save, snapshot_of

PLENTY = 10**9


@pytest.fixture
def store(states: Path) -> Store:
    return Store(states, PLENTY)


def restarted(store: Store) -> Store:
    """As another process has it, after some time."""
    return Store(store.folder, store.budget_bytes)


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


# --- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(data)


def swap(path: Path) -> None:
    """With another of its kind; both are sound."""
    other = next(other for other in sorted(path.parent.glob(f"{kind_of(path)}-*")) if other != path)
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def kind_of(path: Path) -> str:
    return path.name.partition("-")[0]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "swapped": swap,
    "of another kind": lambda path: path.write_bytes(
        next(p for p in sorted(path.parent.iterdir()) if kind_of(p) != kind_of(path)).read_bytes()
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["snapshot", "block"])
def test_a_damaged_file_is_a_miss_and_is_made_good(store: Store, kind: str, damage: str) -> None:
    """Another branch needs the block as well: it must not keep the damage alive."""
    save(store, 600)
    save(store, 300)
    save(store, 600, branch="other")
    name = f"{kind}-0-600" if kind == "snapshot" else "block-0-b0"
    DAMAGE[damage](store.folder / "blobs" / f"{name}.safetensors")
    with pytest.raises(BadBlob):
        find(store, 600)
    assert find(store, 600) is None
    save(restarted(store), 600)
    assert find(store, 600) is not None
    assert_no_wrong_state(store)
    save(restarted(store), 300)
    assert_tidy(store.folder)


def assert_no_wrong_state(store: Store) -> None:
    for num_tokens, branch in ((300, ""), (600, ""), (600, "other")):
        try:
            find(store, num_tokens, branch=branch)
        except BadBlob:
            continue


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_features_are_encoded_again(store: Store, damage: str) -> None:
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    save(store, 300)
    store.save_features(MODEL, "k", features)
    store.save_features("another model", "k", features + 1)
    DAMAGE[damage](store.folder / "blobs" / f"features-{MODEL}-k.safetensors")
    assert store.features(MODEL, "k") is None
    store.save_features(MODEL, "k", features)
    assert np.array_equal(store.features(MODEL, "k"), features)  # type: ignore[arg-type]
    found = store.features("another model", "k")
    assert found is None or np.array_equal(found, features + 1)


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "deleted"])
@pytest.mark.parametrize("name", ["snapshot-0-600", "block-0-b1", f"features-{MODEL}-k"])
def test_a_check_finds_all_damage(store: Store, name: str, damage: str) -> None:
    save(store, 600)
    save(store, 600, seed=1)
    for key in "kl":
        store.save_features(MODEL, key, np.ones((3, 4), np.float32))
    assert {trouble for _, trouble in store.check()} == {None}
    DAMAGE[damage](store.folder / "blobs" / f"{name}.safetensors")
    bad = [name for name, trouble in store.check() if trouble]
    assert f"{name}.safetensors" in bad
    assert len(bad) == (2 if damage == "swapped" else 1)
    store.drop(bad)
    assert {trouble for _, trouble in store.check()} == {None}
    assert_tidy(store.folder)


def garbage_inside(index: Path) -> None:
    data = bytearray(index.read_bytes())
    for start in range(4096, len(data), 4096):  # all pages but the first
        data[start : start + 4096] = os.urandom(4096)
    index.write_bytes(data)


INDEX_DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": lambda index: index.unlink(),
    "empty": lambda index: index.write_bytes(b""),
    "truncated": lambda index: index.write_bytes(index.read_bytes()[:5000]),
    "garbage": lambda index: index.write_bytes(os.urandom(8192)),
    "garbage inside": garbage_inside,
    "of another version": lambda index: _set_version(index, 99),
}


def _set_version(index: Path, version: int) -> None:
    with closing(sqlite3.connect(index)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_a_damaged_index_is_made_again_from_the_files(store: Store, damage: str) -> None:
    save(store, 600)
    save(store, 300)
    store.save_features(MODEL, "k", np.ones((3, 4), np.float32))
    INDEX_DAMAGE[damage](store.folder / "index.sqlite")
    after = restarted(store)
    try:
        found = find(after, 600)
    except CacheTrouble:  # seen only when that page was read
        found = find(after, 600)
    assert found is not None
    save(after, 900)
    assert find(after, 300) is not None
    assert {row.num_tokens for row in after.rows()} == {300, 600, 900}
    assert_tidy(store.folder)


def test_an_index_without_its_log_still_serves(store: Store) -> None:
    save(store, 600)
    with closing(sqlite3.connect(store.folder / "index.sqlite")) as reader:
        reader.execute("SELECT * FROM blobs").fetchall()  # as long as someone looks, the log stays
        save(store, 300)
        assert (store.folder / "index.sqlite-wal").stat().st_size > 0
        copies = [path for path in store.folder.rglob("*") if path.is_file() and "sqlite-" not in path.name]
        other = store.folder.with_name("copied")
        for path in copies:
            target = other / path.relative_to(store.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    after = Store(other, PLENTY)
    find(after, 300)
    find(after, 600)
    save(after, 300)
    assert find(after, 300) is not None
    assert_tidy(other)


def test_blocks_that_no_state_needs_do_not_outlive_the_index(store: Store) -> None:
    """A block that a killed process left, when the index was lost as well: nothing would ever evict it."""
    save(store, 600)
    (store.folder / "blobs" / "snapshot-0-600.safetensors").unlink()
    (store.folder / "index.sqlite").unlink()
    save(restarted(store), 300, seed=1)
    assert {path.name[:7] for path in blobs_of(store.folder, "block")} == {"block-1"}
    assert_tidy(store.folder)


def test_a_lost_folder_of_files_is_made_again(store: Store) -> None:
    save(store, 300)
    for path in (store.folder / "blobs").iterdir():
        path.unlink()
    (store.folder / "blobs").rmdir()
    with pytest.raises(BadBlob):
        find(store, 300)
    save(store, 300)
    assert find(store, 300) is not None
    assert_tidy(store.folder)


# --- killed processes, and living ones


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """One that is there until it is told to end."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def begin_as(writer: str, store: Store, name: str) -> None:
    """What a process leaves that has just begun to write a blob."""
    with closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as index:
        index.execute(
            "INSERT OR REPLACE INTO blobs VALUES (?, 'block', ?, 0, ?, 0)",
            (f"{name}.safetensors", MODEL, writer),
        )
    (store.folder / "blobs" / f"{name}.safetensors.{writer}.partial").write_bytes(b"half")


@pytest.mark.parametrize("writer", [f"{2**22 + 1}-aa", f"{os.getpid()}-aa"], ids=["gone", "our number"])
@pytest.mark.parametrize("num_tokens", [300, 600])
def test_what_a_killed_process_left_is_swept_up(store: Store, writer: str, num_tokens: int) -> None:
    """Also if this process has got its number, as it does in a container."""
    save(store, 40, seed=1)
    begin_as(writer, store, "block-0-b0")
    begin_as(writer, store, "snapshot-never")
    (store.folder / "blobs" / "block-lost.safetensors").write_bytes(b"its row was lost")
    (store.folder / f"index.sqlite.{writer}.partial").write_bytes(b"half")
    save(restarted(store), num_tokens)
    assert find(store, num_tokens) is not None
    assert_tidy(store.folder)


def test_what_a_living_process_writes_is_left_to_it(
    store: Store, other_process: subprocess.Popen[bytes]
) -> None:
    """Its block makes our state whole when it is ready; killed, neither is there."""
    save(store, 40, seed=1)
    begin_as(f"{other_process.pid}-aa", store, "block-0-b0")
    save(restarted(store), 300)
    assert len(blobs_of(store.folder, "block")) == 0
    assert len(list((store.folder / "blobs").glob("*.partial"))) == 1
    assert find(store, 300) is None
    other_process.kill()
    other_process.wait()
    save(restarted(store), 40, seed=2)
    assert find(store, 300) is None
    assert_tidy(store.folder)
    save(restarted(store), 300)
    assert find(store, 300) is not None


def at_each_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Do something while a file is being written."""
    write = blobs.write

    def hooked(path: Path, *rest: object) -> int:
        size = write(path, *rest)  # type: ignore[arg-type]
        with monkeypatch.context() as inner:
            inner.setattr(blobs, "write", write)
            act(path)
        return size

    monkeypatch.setattr(blobs, "write", hooked)


def test_a_block_that_makes_room_while_another_state_that_needs_it_is_saved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 300)
    with monkeypatch.context() as patch:
        at_each_write(
            patch, lambda path: Store(store.folder, 0).make_room() if "snapshot" in path.name else 0
        )
        save(store, 400)
    assert find(store, 400) is None
    assert_tidy(store.folder)
    save(store, 400)
    assert find(store, 400) is not None


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.clear(),
        lambda store: store.make_room(),
        lambda store: store.drop(["block-0-b0.safetensors"]),
        lambda store: store.forget(["0-300"]),
        lambda store: (store.folder / "index.sqlite").unlink(),
        lambda store: save(store, 400),
        lambda store: save(store, 600),
    ],
    ids=["clear", "make_room", "drop", "forget", "index lost", "the same", "more"],
)
@pytest.mark.parametrize("budget", [0, PLENTY])
def test_whatever_another_does_while_a_state_is_saved(
    store: Store, monkeypatch: pytest.MonkeyPatch, act: Callable[[Store], object], budget: int
) -> None:
    save(store, 300)
    with monkeypatch.context() as patch:
        at_each_write(patch, lambda path: act(Store(store.folder, budget)))
        save(store, 600)
    save(restarted(store), 40, seed=1)
    assert_tidy(store.folder)
    for num_tokens in (300, 400, 600):
        find(store, num_tokens)  # as it should be, or not there
    save(store, 600)
    assert find(store, 600) is not None


def test_a_state_that_goes_while_it_is_read_is_a_miss(store: Store) -> None:
    save(store, 600)
    snapshot, _ = store.deepest({600: snapshot_of(600).key})
    assert snapshot is not None
    Store(store.folder, 0).make_room()
    with pytest.raises(BadBlob):
        store.load(snapshot, snapshot_of(600).block_keys, new_state())
    assert store.deepest({600: snapshot.key}) == (None, 600)  # it had to make room
    save(store, 600)
    assert_tidy(store.folder)


SAVER = """
import sys
from pathlib import Path
from qwen35.cache.store import Store
from tests.model.cache.saved import find, save
from qwen35.cache.blobs import BadBlob
store = Store(Path(sys.argv[1]), int(sys.argv[2]))
for n in range(8):
    seed, num_tokens = (n + int(sys.argv[3])) % 3, (40, 300, 600)[n % 3]
    try:
        find(store, num_tokens, seed)
    except BadBlob as error:
        assert "cannot be read" in str(error), error  # it had to make room
    save(store, num_tokens, seed)
"""


def start_saving(store: Store, number: int) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", SAVER, str(store.folder), str(store.budget_bytes), str(number)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("budget", [300_000, PLENTY], ids=["little room", "plenty"])
def test_eight_processes_at_once(states: Path, budget: int) -> None:
    store = Store(states, budget)
    processes = [start_saving(store, number) for number in range(8)]
    assert [process.communicate()[1] for process in processes] == [b""] * 8
    save(restarted(store), 300)
    assert_tidy(states)
    assert sum(path.stat().st_size for path in blobs_of(states)) <= budget * 1.05
    if budget == PLENTY:
        assert all(find(store, num_tokens, seed) for num_tokens in (40, 300, 600) for seed in range(3))


# --- trouble


def test_a_full_disk_is_said_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 40)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        at_each_write(patch, full)
        with pytest.raises(CacheTrouble, match="No space left"):
            save(store, 600)
    assert find(store, 600) is None
    assert_tidy(store.folder)
    save(store, 600)
    assert find(store, 600) is not None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BUSY_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_locked_index_is_not_waited_for(store: Store) -> None:
    save(store, 300)
    with closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as index:
        index.execute("BEGIN EXCLUSIVE")
        assert find(store, 300) is not None  # reading goes on
        for work in (lambda: save(store, 600), lambda: store.touch("x"), store.clear, store.make_room):
            with pytest.raises(CacheTrouble, match="locked"):
                work()
        store.forget(["0-300"])
        store.drop(["block-0-b0.safetensors"])
    assert find(store, 300) is not None
    save(store, 600)
    assert_tidy(store.folder)


@pytest.mark.usefixtures("impatient")
def test_an_index_that_locks_while_a_state_is_saved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the attempt, under our own name, is written again."""
    save(store, 40)
    with closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as index:
        with monkeypatch.context() as patch:
            at_each_write(patch, lambda path: index.execute("BEGIN IMMEDIATE"))
            with pytest.raises(CacheTrouble, match="locked"):
                save(store, 600)
        index.execute("ROLLBACK")
    save(store, 600)
    assert find(store, 600) is not None
    assert_tidy(store.folder)


@pytest.mark.parametrize("place", ["folder", "blobs", "index.sqlite"])
def test_a_file_or_folder_in_the_way_is_said(states: Path, place: str) -> None:
    store = Store(states, PLENTY)
    if place == "folder":
        states.write_text("mine")
    elif place == "blobs":
        states.mkdir()
        (states / "blobs").write_text("mine")
    else:
        (states / "index.sqlite").mkdir(parents=True)
    with pytest.raises(CacheTrouble, match=r"cannot be used|Not a directory"):
        save(store, 300)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_a_folder_of_someone_else_is_trouble_and_no_crash(store: Store) -> None:
    """As after `sudo qwen`: the folder can be neither read nor looked into."""
    save(store, 300)
    process = os.fork()
    if not process:
        code = 1
        try:
            os.setuid(65534)
            for look in (lambda: store.lengths(MODEL), lambda: find(store, 300), lambda: save(store, 40)):
                with pytest.raises(CacheTrouble):
                    look()
            assert store.features(MODEL, "k") is None
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(process, 0)[1] == 0


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
