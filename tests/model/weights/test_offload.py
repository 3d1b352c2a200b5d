"""Weights that lie on the disk: the same answers, bit for bit, in less memory."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, DoesNotFit
from qwen35.network.model import Qwen35
from qwen35.processing.positions import mrope_positions
from qwen35.state import KVBlocks
from qwen35.weights.load import load_model
from qwen35.weights.pack import pack
from qwen35.weights.placement_torch import TorchPlacement, place_torch
from tests.model.reference import DENSE, MOE, PROMPTS, SHAPES, Shape, as_pieces
from tests.model.weights.packing import fuse_experts, read_tensors, rewrite, tiny_checkpoint

MODEL = Path(__file__).resolve().parents[3] / "model"
PLENTY = 1 << 40


def load(folder: Path, dtype: str, ram: int) -> tuple[PlainBackend, TorchPlacement]:
    plans = []

    def place(config: ModelConfig) -> TorchPlacement:
        plans.append(place_torch(config, dtype, ram=ram))
        return plans[0]

    config = ModelConfig.from_folder(folder)
    model = load_model(folder, config, device="cpu", dtype=getattr(torch, dtype), place=place)
    return PlainBackend(model), plans[0]


def budgets(folder: Path, dtype: str = "float32") -> tuple[int, int]:
    """The least memory that works, and the least for which all stays."""
    found = []
    config = ModelConfig.from_folder(folder)
    for is_enough in (lambda plan: True, lambda plan: plan.is_resident):
        low, high = 0, PLENTY
        while low < high:
            middle = (low + high) // 2
            try:
                enough = is_enough(place_torch(config, dtype, ram=middle))
            except DoesNotFit:
                enough = False
            low, high = (low, middle) if enough else (middle + 1, high)
        found.append(low)
    return found[0], found[1]


def run(backend: PlainBackend) -> list[np.ndarray]:
    """Everything that comes out: a picture's features, logits of prefill and decode, the state after."""
    config, prompt = backend.model.config, PROMPTS["one image"]
    ids = prompt.input_ids[0].numpy()
    assert prompt.grid_thw is not None
    assert prompt.pixel_values is not None
    grids = [tuple(grid) for grid in prompt.grid_thw.tolist()]
    positions, delta = mrope_positions(ids, config, grids)
    features = backend.encode_pictures(prompt.pixel_values.numpy(), grids)
    results, state, num_used = [features], backend.new_state(), 0
    state.mrope_delta = delta
    for piece in as_pieces(len(ids), [30]):
        num = int((ids[piece] == config.image_token_id).sum())
        part = features[num_used : num_used + num] if num else None
        num_used += num
        results.append(backend.prefill(state, ids[piece], positions[:, piece], part))
    results += [backend.decode([state], np.array([token])) for token in (40, 41)]
    for layer in state.layers:
        if isinstance(layer, KVBlocks):
            results += layer.gather()
        else:
            results += [layer.conv, layer.state]
    return [np.array(result) for result in results]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(ours.astype(np.float32)).all()
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_lies_on_the_disk_answers_as_what_stays(tmp_path: Path, shape: Shape) -> None:
    folder = tiny_checkpoint(tmp_path / "model", shape)
    expected = run(load(folder, "float32", PLENTY)[0])
    least, whole = budgets(folder)
    numbers = random.Random(str(shape))
    for ram in [least, whole - 1, *(numbers.randrange(least, whole) for _ in range(3))]:
        backend, placement = load(folder, "float32", ram)
        assert placement.size_bytes("disk") > 0
        assert_same(run(backend), expected)
        if ram == least:
            assert_same(run(backend), expected)  # and once more, with what the first run left behind


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "by expert"])
@pytest.mark.parametrize(("stored", "dtype"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_every_layout_and_dtype_of_the_files_is_read(
    tmp_path: Path, is_fused: bool, stored: str, dtype: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", MOE)
    tensors = {name: tensor.to(getattr(torch, stored)) for name, tensor in read_tensors(folder).items()}
    rewrite(folder, fuse_experts(tensors) if is_fused else tensors)
    backend, _ = load(folder, dtype, budgets(folder, dtype)[0])
    assert str(backend.dtype) == f"torch.{dtype}"
    assert_same(run(backend), run(load(folder, dtype, PLENTY)[0]))


def test_a_packed_model_may_lie_there_too(tmp_path: Path) -> None:
    packed = pack(tiny_checkpoint(tmp_path / "model", MOE), tmp_path / "packed", "q8").folder
    backend, placement = load(packed, "float32", budgets(packed)[0])
    assert placement.size_bytes("disk") > 0
    assert_same(run(backend), run(load(packed, "float32", PLENTY)[0]))


@pytest.mark.parametrize("happens", ["truncated", "deleted"])
def test_a_file_that_breaks_meanwhile_is_named(tmp_path: Path, happens: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", DENSE)
    backend, _ = load(folder, "float32", budgets(folder)[0])
    run(backend)
    file = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    if happens == "deleted":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 8)
    with pytest.raises(CheckpointError, match=f"{file.name}: (became shorter|cannot be read)") as raised:
        run(backend)
    assert raised.value.path == str(file)


def test_a_missing_accelerate_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", DENSE)
    least = budgets(folder)[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "accelerate"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr("qwen35.weights.checkpoint.read_into", lambda *_: pytest.fail("data was read"))
    with pytest.raises(DoesNotFit, match="pip install accelerate"):
        load(folder, "float32", least)


# The peak of this very process: ru_maxrss would begin at that of the process which started it.
MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.weights.load import load_model
from qwen35.weights.placement_torch import place_torch

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

folder, dtype, ram = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plans = []
def place(config):
    plans.append(place_torch(config, dtype, ram=ram))
    return plans[0]

model = load_model(
    folder, ModelConfig.from_folder(folder), device="cpu", dtype=getattr(torch, dtype), place=place
)
backend = PlainBackend(model)
state = backend.new_state()
backend.prefill(state, np.arange(64), np.tile(np.arange(64), (3, 1)), None)
backend.decode([state], np.array([1]))
modules = [name for name in ("accelerate", "bitsandbytes", "torch._dynamo") if name in sys.modules]
print(peak(), plans[0].size_bytes("cpu"), plans[0].size_bytes("disk"), *modules)
"""


def big_checkpoint(folder: Path) -> Path:
    """Dense, 8 layers of 30 MB each in float32."""
    import json

    tiny_checkpoint(folder, DENSE)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {"hidden_size": 512, "intermediate_size": 4096, "mtp_num_hidden_layers": 0}
    config["text_config"] |= {"num_hidden_layers": 8, "layer_types": config["text_config"]["layer_types"] * 2}
    config["vision_config"] |= {"out_hidden_size": 512}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.device("meta"):
        big = Qwen35(ModelConfig.from_folder(folder))
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    tensors = {f"model.{name}": torch.zeros(p.shape) for name, p in big.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def measure(folder: Path, dtype: str, ram: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), dtype, str(ram)],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(MODEL)},
        timeout=120,
    )
    return done.stdout.split()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_the_process_stays_within_its_budget(tmp_path: Path) -> None:
    """Weights are cast as they are read: neither all of them nor one of them is there twice."""
    folder = big_checkpoint(tmp_path / "model")
    ram = budgets(folder, "bfloat16")[0]
    peak, _, on_disk, *modules = measure(folder, "bfloat16", ram)
    assert modules == ["accelerate"]
    assert int(peak) < ram

    resident, _, none, *modules = measure(folder, "bfloat16", PLENTY)
    assert (none, modules) == ("0", [])
    assert int(resident) - int(peak) > 0.6 * int(on_disk)
