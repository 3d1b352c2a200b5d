"""Linear layers of 4 and 8 bits on a CUDA device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qwen35.backends.plain import PlainBackend
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request
from qwen35.events import Finished
from qwen35.weights.bitsandbytes_linear import quantised_linear
from qwen35.weights.placement_torch import TorchQuant, is_quantised, place_torch
from tests.gpu.running import input_of, load, prefill
from tests.model.cache.asking import GREEDY, picture, user
from tests.model.reference import PROMPTS
from tests.model.weights.rounding import stands_for, with_rounded_weights

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

QUANTS: tuple[TorchQuant, ...] = ("nf4", "int8")
ERROR = {"nf4": 0.11, "int8": 0.015}  # of a product of random numbers, to its norm; as on a CPU
NETWORK_ERROR = {"nf4": 2e-4, "int8": 0.15}  # int8 rounds what goes into a product too
STEPS = (50, 51, 52)


@pytest.fixture(autouse=True)
def _imported(device: str) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except Exception as problem:
        pytest.skip(f"bitsandbytes cannot be imported: {problem}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(77, 50), (50, 77), (256, 320), (1024, 2048)], ids=str)
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("rows", [1, 9])
def test_a_product_is_close_and_the_same_each_time(
    quant: TorchQuant, shape: tuple[int, int], dtype: torch.dtype, rows: int, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(dtype)
    x = torch.randn(rows, shape[1], generator=generator).to(dtype)
    linear = quantised_linear(weight, quant, device).eval()
    with torch.inference_mode():
        y = linear(x.to(device))
        assert torch.equal(linear(x.to(device)), y)
    assert (y.device.type, y.dtype) == (device, dtype)
    exact = F.linear(x.double(), weight.double())
    assert (y.cpu().double() - exact).norm() <= ERROR[quant] * exact.norm()


def rounded(folder: Path, quant: TorchQuant, device: str) -> PlainBackend:
    return load(
        folder,
        device,
        place=lambda config: place_torch(
            config, "float32", device=device, gpu_bytes=1 << 40, ram=1 << 40, quant=quant
        ),
    )


def logits(backend: PlainBackend) -> np.ndarray:
    state, first = prefill(backend, input_of(backend.model.config, PROMPTS["one image"]))
    return np.stack([first, *(backend.decode([state], np.array([token]))[0] for token in STEPS)])


@pytest.mark.parametrize("quant", QUANTS)
def test_the_network_is_that_of_the_rounded_weights(folder: Path, quant: TorchQuant, device: str) -> None:
    exact, ours = load(folder, device), rounded(folder, quant, device)
    for name, parameter in ours.model.named_parameters():
        assert parameter.device.type == device, name
    meant = with_rounded_weights(exact.model, ours.model, quant)
    found, intended = logits(ours), logits(PlainBackend(meant))
    assert np.array_equal(logits(ours), found)
    assert not np.array_equal(found, logits(exact))
    assert np.linalg.norm(found - intended) <= NETWORK_ERROR[quant] * np.linalg.norm(intended)


@pytest.mark.parametrize("quant", QUANTS)
def test_weights_are_rounded_as_on_a_cpu(tiny_folder: Path, quant: TorchQuant, device: str) -> None:
    """Codes may differ where a weight lies between two of them; what they stand for may not."""
    here, on_cpu = rounded(tiny_folder, quant, device), rounded(tiny_folder, quant, "cpu")
    for name, parameter in here.model.named_parameters():
        if not is_quantised(name):
            continue
        ours = stands_for(parameter, quant).cpu()
        theirs = stands_for(on_cpu.model.get_parameter(name), quant)
        assert (ours - theirs).norm() <= 0.01 * theirs.norm(), name


@pytest.mark.parametrize("quant", QUANTS)
def test_the_engine_takes_them(talking_folder: Path, quant: TorchQuant, device: str) -> None:
    engine = load_engine(talking_folder, device=device, dtype="bfloat16", quant=quant)
    request = Request((user(picture(1), "What do you see?"),), sampling=GREEDY, max_tokens=8)
    answers = [list(engine.generate(request))[-1] for _ in range(2)]
    assert all(isinstance(event, Finished) for event in answers)
    assert answers[0].answer == answers[1].answer != ""
    assert quant in engine.backend.name
