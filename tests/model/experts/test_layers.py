"""A model whose layers are read from the disk at every step is the same model, bit for bit."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer, active_count, get_ident
from threading import enumerate as all_threads

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.library import Library
from qwen35.errors import CheckpointError
from qwen35.experts.layers import LayerStream
from qwen35.experts.store import ExpertStore
from qwen35.state import ModelState
from qwen35.weights.manifest import read_manifest
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import text_experts
from tests.model.reference import Shape
from tests.model.weights.packing import least_ram, tiny_checkpoint, whole_ram

SHAPES = (
    Shape(is_moe=False, ratio=3, is_tied=True, num_layers=8),
    Shape(is_moe=False, ratio=1, is_tied=False, num_layers=8),
    Shape(is_moe=True, ratio=2, is_tied=False, num_layers=8),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Dense with one embedding for both ends, dense with two, and a mixture of experts: packed."""
    found = []
    for shape in SHAPES:
        folder = tmp_path_factory.mktemp(str(shape))
        pack(tiny_checkpoint(folder / "source", shape), folder / "packed", "q4")
        found.append(folder / "packed")
    return found


@pytest.fixture
def copy(folders: list[Path], tmp_path: Path) -> Path:
    """A dense model of the test's own."""
    return Path(shutil.copytree(folders[0], tmp_path / "copy"))


@contextmanager
def opened(library: Library, folder: Path, ram: int | None) -> Iterator[NativeBackend]:
    with PackedModel.open(folder, ram=ram) as weights:
        placement = weights.placement
        store = None
        if placement.expert_bytes is not None:
            store = ExpertStore(folder, text_experts(weights.manifest), placement.expert_bytes)
        stream = LayerStream(weights) if weights.streamed else None
        backend = NativeBackend(library, weights, num_threads=2, store=store, stream=stream)
        try:
            yield backend
        finally:
            backend.close()


def prefill(backend: NativeBackend, state: ModelState, ids: np.ndarray) -> np.ndarray:
    positions = np.arange(state.num_tokens, state.num_tokens + len(ids))
    return backend.prefill(state, ids, np.ascontiguousarray(np.broadcast_to(positions, (3, len(ids)))), None)


def run(backend: NativeBackend, ids: np.ndarray, chunk: int, num_states: int, num_steps: int) -> np.ndarray:
    """Logits of prompts that begin alike, read in chunks, and of steps of all of them together."""
    first = backend.new_state()
    found = [prefill(backend, first, ids[at : at + chunk]) for at in range(0, len(ids), chunk)]
    states = [first, *(first.fork() for _ in range(num_states - 1))]
    for number, state in enumerate(states[1:], start=1):
        found.append(prefill(backend, state, ids[:number]))
    for step in range(num_steps):
        found += list(backend.decode(states, np.arange(num_states) + 40 + step))
    return np.stack(found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.integers(0, len(SHAPES) - 1),
    share=st.floats(0, 1),
    length=st.integers(1, 70),
    chunk=st.integers(1, 70),
    num_states=st.integers(1, 3),
    num_steps=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_streamed_is_resident_at_every_budget(
    library: Library,
    folders: list[Path],
    model: int,
    share: float,
    length: int,
    chunk: int,
    num_states: int,
    num_steps: int,
    seed: int,
) -> None:
    folder = folders[model]
    ids = np.random.default_rng(seed).integers(0, 256, length)
    low, high = least_ram(folder), whole_ram(folder)
    with opened(library, folder, low + int(share * (high - low))) as backend:
        got = run(backend, ids, chunk, num_states, num_steps)
    with opened(library, folder, None) as backend:
        assert np.array_equal(got, run(backend, ids, chunk, num_states, num_steps))


def test_it_counts_what_the_system_counts(library: Library, folders: list[Path]) -> None:
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("this platform does not count what a process reads")

    def read_so_far() -> int:
        return int(counters.read_text().split("rchar:")[1].split()[0])

    with opened(library, folders[0], least_ram(folders[0])) as backend:
        run(backend, np.arange(20), 20, 1, 0)
        assert backend.layer_use is not None
        used, before = backend.layer_use, read_so_far()
        run(backend, np.arange(20), 5, 1, 6)
        use = backend.layer_use.since(used)
        backend.close()  # what has been begun is read
        counted = read_so_far() - before
    steps = 4 + 6
    assert (use.hits, use.misses) == (0, 8 * steps)
    one_layer = use.bytes_read / use.misses
    assert abs(counted - use.bytes_read) <= 2 * one_layer + 64 * 1024
    assert use.bytes_read > 8 * steps * 10_000


def damage(folder: Path, name: str) -> None:
    entry = read_manifest(folder).tensors[name]
    with (folder / entry.file).open("r+b") as file:
        file.seek(entry.offset + entry.size_bytes // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))


@pytest.mark.parametrize(
    "name",
    ["mlp.down_proj.weight", "input_layernorm.weight", "linear_attn.A_log", "linear_attn.conv1d.weight"],
)
def test_a_damaged_layer_is_found_and_named(library: Library, copy: Path, name: str) -> None:
    name = f"language_model.layers.2.{name}"
    ram = least_ram(copy)
    damage(copy, name)
    with opened(library, copy, ram) as backend:
        for _ in range(2):  # and again, by whoever asks again
            with pytest.raises(CheckpointError, match=rf"text\.bin: '{name}' is damaged"):
                run(backend, np.arange(9), 9, 1, 0)
        damage(copy, name)
        healed = run(backend, np.arange(9), 9, 1, 2)
    with opened(library, copy, None) as backend:
        assert np.array_equal(healed, run(backend, np.arange(9), 9, 1, 2))


def test_damage_in_the_middle_of_a_run_is_found_too(library: Library, copy: Path) -> None:
    name = "language_model.layers.5.mlp.up_proj.weight"
    with opened(library, copy, least_ram(copy)) as backend:
        run(backend, np.arange(9), 9, 1, 2)
        damage(copy, name)
        with pytest.raises(CheckpointError, match=f"'{name}' is damaged"):
            run(backend, np.arange(9), 9, 1, 2)


def test_a_file_that_shrinks_is_said(library: Library, copy: Path) -> None:
    manifest = read_manifest(copy)
    with opened(library, copy, least_ram(copy)) as backend:
        run(backend, np.arange(9), 9, 1, 0)
        os.truncate(copy / "text.bin", manifest.tensors["language_model.layers.6.mlp.up_proj.weight"].offset)
        with pytest.raises(CheckpointError, match=r"text\.bin: became shorter while it was read"):
            run(backend, np.arange(9), 9, 1, 0)


def test_without_direct_reads_it_reads_through_the_system(
    library: Library, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("qwen35.experts.files.os.O_DIRECT", raising=False)
    with opened(library, folders[0], least_ram(folders[0])) as backend:
        got = run(backend, np.arange(30), 9, 2, 3)
    with opened(library, folders[0], None) as backend:
        assert np.array_equal(got, run(backend, np.arange(30), 9, 2, 3))


def test_a_step_that_is_given_up_leaves_no_trace(
    library: Library, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at each layer of a step, while others are on their way."""
    with opened(library, folders[1], None) as backend:
        expected = run(backend, np.arange(12), 5, 1, 2)
    enter = LayerStream.enter
    with opened(library, folders[1], least_ram(folders[1])) as backend:
        for layer in range(8):

            def interrupted(stream: LayerStream, index: int, layer: int = layer) -> None:
                if index == layer:
                    raise KeyboardInterrupt
                enter(stream, index)

            monkeypatch.setattr(LayerStream, "enter", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(backend, np.arange(3), 3, 1, 0)
            monkeypatch.setattr(LayerStream, "enter", enter)
            assert np.array_equal(run(backend, np.arange(12), 5, 1, 2), expected)


def test_ctrl_c_leaves_no_trace(library: Library, folders: list[Path]) -> None:
    """Wherever it comes: real signals, a little later each time."""
    threads = active_count()
    with opened(library, folders[0], None) as backend:
        expected = run(backend, np.arange(12), 5, 1, 2)
    with opened(library, folders[0], least_ram(folders[0])) as backend:
        for number in range(30):
            timer = Timer(0.0007 * number, signal.pthread_kill, (get_ident(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run_without_end(backend, timer)
            timer.join()
        assert np.array_equal(run(backend, np.arange(12), 5, 1, 2), expected)
    wait_for_arenas()
    assert active_count() == threads


def run_without_end(backend: NativeBackend, timer: Timer) -> None:
    timer.start()
    while True:
        run(backend, np.arange(40), 3, 2, 10)


def wait_for_arenas() -> None:
    """The threads that fill resident memory end by themselves."""
    for thread in all_threads():
        if thread.name.startswith("read-"):
            thread.join()


def test_closing_in_the_middle_of_reads_leaks_nothing(folders: list[Path]) -> None:
    handles = Path("/proc/self/fd")
    threads, files = active_count(), len(list(handles.iterdir())) if handles.exists() else 0
    ram = least_ram(folders[0])
    for number in range(20):
        with PackedModel.open(folders[0], ram=ram) as weights:
            stream = LayerStream(weights)
            for index in range(number % 8):
                stream.enter(index)
                stream.leave(index)
            stream.close()
            stream.close()
    wait_for_arenas()
    assert active_count() == threads
    assert not handles.exists() or len(list(handles.iterdir())) == files
