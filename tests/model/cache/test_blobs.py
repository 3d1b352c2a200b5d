"""What a file holds comes back as it was, or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from qwen35.cache import blobs
from qwen35.cache.blobs import BadBlob
from qwen35.state import BLOCK_TOKENS, ModelState
from tests.model.cache.saved import assert_same, new_state, random_state

ABOUT = {"kind": "block", "key": "k", "model": "m"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def small() -> blobs.Tensors:
    return {"k.3": np.arange(12, dtype=np.uint16).reshape(2, 6), "state.0": np.float32([[1, np.nan], [0, 2]])}


def restored(state: ModelState) -> ModelState:
    other = new_state()
    blocks = [blobs.block_tensors(state, number) for number in range(state.num_tokens // BLOCK_TOKENS)]
    blobs.restore(other, state.num_tokens, blobs.snapshot_tensors(state), blocks)
    return other


@pytest.mark.parametrize("num_tokens", [1, 255, 256, 257, 512, 700])
def test_a_state_comes_back_bit_for_bit_and_goes_on(num_tokens: int) -> None:
    state = random_state(num_tokens)
    other = restored(state)
    assert_same(other, state)
    assert_same(other.fork(), state)
    for layer, own in zip(other.layers, state.layers, strict=True):
        if hasattr(own, "append"):
            more = np.ones((own.shape[0], 300, own.shape[2]), np.uint16)
            layer.append(more, more)
            own.append(more, more)
    assert_same(other, state)


def test_a_file_tells_what_it_is(path: Path) -> None:
    size = blobs.write(path, small(), ABOUT)
    tensors, about = blobs.read(path)
    assert (about, blobs.describe(path), path.stat().st_size) == (ABOUT, ABOUT, size)
    assert {name: array.tobytes() for name, array in tensors.items()} == {
        name: array.tobytes() for name, array in small().items()
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_flipped_bit_is_seen(path: Path) -> None:
    blobs.write(path, small(), ABOUT)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (0, 3, 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                tensors, about = blobs.read(path)
            except BadBlob:
                continue
            # A space that pads the header, a letter that JSON writes in two ways: it means the same.
            assert about == ABOUT
            assert {name: array.tobytes() for name, array in tensors.items()} == {
                name: array.tobytes() for name, array in small().items()
            }


def test_every_cut_is_seen(path: Path) -> None:
    blobs.write(path, small(), ABOUT)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(BadBlob):
            blobs.read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(BadBlob):
        blobs.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_a_file_that_is_none_of_ours_is_bad(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read in (blobs.read, blobs.describe):
        with pytest.raises(BadBlob):
            read(path)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        blobs.write(tmp_path / "nowhere" / "x", small(), ABOUT)
    if os.path.exists("/dev/full"):  # noqa: PTH110
        full = tmp_path / "x"
        full.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            blobs.write(full, small(), ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["missing", "shape", "dtype", "length"])
def test_what_does_not_fit_the_model_is_refused(change: str) -> None:
    state = random_state(300)
    own, block = blobs.snapshot_tensors(state), blobs.block_tensors(state, 0)
    name = next(name for name in own if name.startswith("state."))
    if change == "missing":
        del own[name]
    elif change == "shape":
        own[name] = own[name][..., :-1]
    elif change == "dtype":
        own[name] = own[name].astype(np.float64)
    with pytest.raises(BadBlob):
        blobs.restore(new_state(), 301 if change == "length" else 300, own, [block])


def test_states_are_close_or_not() -> None:
    state, other = random_state(300), random_state(300)
    assert blobs.is_close(state, other)
    memory = other.layers[0]
    memory.state = memory.state * np.float32(1.001)
    assert blobs.is_close(state, other)
    memory.state = memory.state * np.float32(1.05)
    assert not blobs.is_close(state, other)
    memory.state = np.full_like(memory.state, np.nan)
    assert not blobs.is_close(state, other)
    assert not blobs.is_close(state, random_state(300, seed=1))
