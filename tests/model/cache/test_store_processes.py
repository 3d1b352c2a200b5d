"""The folder of states between processes: living ones, killed ones, and trouble that stays."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qwen35.cache import index as index_module
from qwen35.cache.blobs import BadBlob
from qwen35.cache.store import CacheTrouble, Store
from tests.model.cache.asking import assert_tidy, blobs_of
from tests.model.cache.saved import (
    MODEL,
    PLENTY,
    at_each_write,
    find,
    new_state,
    restarted,
    save,
    snapshot_of,
)


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
