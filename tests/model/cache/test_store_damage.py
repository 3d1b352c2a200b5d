"""The folder of states after damage of every kind: never a wrong state, and all is made good."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qwen35.cache.blobs import BadBlob
from qwen35.cache.store import CacheTrouble, Store
from tests.model.cache.asking import assert_tidy, blobs_of
from tests.model.cache.saved import (
    MODEL,
    PLENTY,
    find,
    flip,
    restarted,
    save,
)


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
