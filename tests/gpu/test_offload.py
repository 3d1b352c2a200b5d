"""Part of a model on the card, the rest in memory or on the disk: the same answers, within the limits."""

import gc
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request
from qwen35.errors import DoesNotFit
from qwen35.events import Finished
from qwen35.weights.placement_torch import TorchPlacement, place_torch
from tests.gpu.running import assert_close, assert_equal, everything, input_of, load, tolerance_of
from tests.model.cache.asking import GREEDY, picture, user
from tests.model.reference import PROMPTS
from tests.model.weights.test_offload import big_checkpoint

pytestmark = pytest.mark.gpu

PLENTY = 1 << 40


def plan(config: ModelConfig, dtype: str, device: str, limit: int, ram: int = PLENTY) -> TorchPlacement:
    """With at most `limit` bytes where it is computed; on a GPU with `ram` beside it."""
    if device == "cuda":
        return place_torch(config, dtype, device="cuda", gpu_bytes=limit, ram=ram)
    return place_torch(config, dtype, ram=limit)


def least(is_enough: Callable[[int], bool]) -> int:
    low, high = 0, PLENTY
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def budgets(folder: Path, device: str, dtype: str = "float32") -> tuple[int, int]:
    """The least memory of the device that works, and the least for which all stays there."""
    config = ModelConfig.from_folder(folder)

    def fits(limit: int) -> bool:
        try:
            plan(config, dtype, device, limit)
        except DoesNotFit:
            return False
        return True

    return least(fits), least(lambda limit: fits(limit) and plan(config, dtype, device, limit).is_resident)


def least_ram(folder: Path, gpu_bytes: int) -> int:
    """With which the rest lies on the disk as far as it may."""
    config = ModelConfig.from_folder(folder)

    def fits(ram: int) -> bool:
        try:
            place_torch(config, "float32", device="cuda", gpu_bytes=gpu_bytes, ram=ram)
        except DoesNotFit:
            return False
        return True

    return least(fits)


def placed(folder: Path, device: str, limit: int, ram: int = PLENTY) -> tuple[PlainBackend, TorchPlacement]:
    plans: list[TorchPlacement] = []

    def place(config: ModelConfig) -> TorchPlacement:
        plans.append(plan(config, "float32", device, limit, ram))
        return plans[0]

    return load(folder, device, place=place), plans[0]


def outputs(backend: PlainBackend) -> dict[str, np.ndarray]:
    return everything(backend, input_of(backend.model.config, PROMPTS["several images of odd sizes"]), [30])


def test_what_rests_elsewhere_answers_as_what_stays(folder: Path, device: str) -> None:
    """Bit by bit as on the same device, and as on a CPU."""
    expected = outputs(load(folder, device))
    assert_close(expected, outputs(load(folder, "cpu")), tolerance_of(folder))
    low, high = budgets(folder, device)
    for limit in (low, (low + high) // 2, high - 1):
        backend, placement = placed(folder, device, limit)
        assert placement.size_bytes("cpu" if device == "cuda" else "disk") > 0
        assert backend.device.type == device
        assert_equal(outputs(backend), expected)
        assert_equal(outputs(backend), expected)  # and with what the first run left behind


def test_the_rest_may_be_parted_between_memory_and_disk(tiny_folder: Path, device: str, cuda: None) -> None:
    expected = outputs(load(tiny_folder, device))
    gpu_bytes = budgets(tiny_folder, device)[0]
    ram = least_ram(tiny_folder, gpu_bytes)
    for more in (0, 60_000):
        backend, placement = placed(tiny_folder, device, gpu_bytes, ram + more)
        assert placement.size_bytes("disk") > 0
        assert (placement.size_bytes("cpu") > 0) == (more > 0)
        assert_equal(outputs(backend), expected)


def test_parameters_lie_where_the_plan_says(tiny_folder: Path, device: str, cuda: None) -> None:
    backend, placement = placed(tiny_folder, device, sum(budgets(tiny_folder, device)) // 2)
    before = sum(p.nbytes for p in backend.model.parameters() if p.is_cuda)
    outputs(backend)
    after = sum(p.nbytes for p in backend.model.parameters() if p.is_cuda)
    assert before == after  # what came has gone
    assert 0.9 * placement.size_bytes("cuda") <= before <= placement.size_bytes("cuda")


def answer(folder: Path, notes: list[str], **options: Any) -> str:
    engine = load_engine(folder, dtype="float32", on_note=notes.append, **options)
    request = Request((user(picture(1), "What do you see?"),), sampling=GREEDY, max_tokens=12)
    finished = list(engine.generate(request))[-1]
    assert isinstance(finished, Finished)
    return finished.answer


def test_a_card_with_little_memory_left_is_told_of_and_answers_the_same(
    talking_folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    expected = answer(talking_folder, notes, device=device)
    assert notes == []
    low, high = budgets(talking_folder, device)
    limit = (low + high) // 2
    if device == "cuda":
        from qwen35.weights.placement import ROOM

        monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (int(limit / ROOM), 1 << 36))
        assert answer(talking_folder, notes, device=device) == expected
        assert any("copied from memory at every step" in note for note in notes), notes
        assert any("stay on the GPU" in note for note in notes), notes
    else:
        assert answer(talking_folder, notes, device=device, ram=limit) == expected
        assert any("read from disk at every step" in note for note in notes), notes


@contextmanager
def limited(num_bytes: int) -> Any:
    """No more than so many bytes on the card, for this process, beside what it has already."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (num_bytes + torch.cuda.memory_reserved()) / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_plan_s_memory_is_enough(tmp_path: Path, device: str, cuda: None) -> None:
    """Layers of 30 MB each; torch gives no more than the plan, less what that reckons for the program."""
    folder = big_checkpoint(tmp_path / "model")
    low, high = budgets(folder, device)
    ids = np.arange(512) % 200
    peaks = []
    for limit in (high, low):
        with limited(limit - (200 << 20)):
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
            backend, placement = placed(folder, device, limit)
            state = backend.new_state()
            backend.prefill(state, ids, np.tile(np.arange(512), (3, 1)), None)
            backend.decode([state], np.array([1]))
            peaks.append(torch.cuda.max_memory_allocated() - base)
        assert placement.size_bytes("cuda") <= peaks[-1] <= limit
        assert (placement.size_bytes("cpu") > 0) == (limit == low)
        elsewhere = placement.size_bytes("cpu")
        del backend, state
    assert peaks[0] - peaks[1] > 0.6 * elsewhere


def test_a_prompt_that_does_not_fit_is_told_in_words_and_leaves_nothing_behind(
    tiny_folder: Path, device: str, cuda: None
) -> None:
    """While the error is still held, as a batch holds it: the next prompt needs the memory."""
    backend = load(tiny_folder, device)
    expected = outputs(backend)
    gc.collect()
    before = torch.cuda.memory_allocated()
    ids = np.zeros(40_000, np.int64)
    with limited(16 << 20):
        state = backend.new_state()
        with pytest.raises(DoesNotFit, match="Not enough GPU memory") as raised:
            backend.prefill(state, ids, np.tile(np.arange(len(ids)), (3, 1)), None)
        assert state.num_tokens == 0
        held = torch.cuda.memory_allocated() - before
    assert_equal(outputs(backend), expected)
    assert raised.value is not None
    assert held == 0, f"{held:,} bytes of the failed step are still held by the error's traceback"


def test_a_model_that_was_closed_gives_its_memory_back(
    tmp_path: Path, device: str, cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat that takes another model plans with all of the card, not with what the last one left."""
    folder, seen = big_checkpoint(tmp_path / "model"), []

    def counted(*arguments: Any, **options: Any) -> TorchPlacement:
        seen.append(options["gpu_bytes"])
        return place_torch(*arguments, **options)

    monkeypatch.setattr("qwen35.engine.load.place_torch", counted)
    gc.collect()
    torch.cuda.empty_cache()
    for _ in range(2):
        engine = load_engine(folder, device=device, dtype="float32")
        assert engine.close() == []
        del engine
    assert seen[1] >= seen[0] - (64 << 20)
