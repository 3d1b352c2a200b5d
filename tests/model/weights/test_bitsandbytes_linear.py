"""bitsandbytes' linear layers, quantised piece by piece, alone and in the network."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.bitsandbytes_linear import import_bitsandbytes, numerics_of, quantised_linear
from qwen35.weights.load import load_model
from qwen35.weights.placement_torch import TorchQuant, place_torch
from tests.model.reference import DENSE, MOE, Shape
from tests.model.weights.packing import tiny_checkpoint
from tests.model.weights.rounding import with_rounded_weights

QUANTS: tuple[TorchQuant, ...] = ("nf4", "int8")
# Of a product of random numbers, to its norm: 4 bits in blocks of 64, 8 bits a row on both sides.
ERROR = {"nf4": 0.11, "int8": 0.015}


@pytest.fixture(autouse=True)
def _imported() -> None:
    pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(77, 50), (50, 77), (256, 320)], ids=str)
@pytest.mark.parametrize("quant", QUANTS)
def test_a_product_is_close_and_the_same_each_time(
    quant: TorchQuant, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(shape).to(dtype), torch.randn(9, shape[1]).to(dtype)
    linear = quantised_linear(weight, quant, "cpu").eval()
    with torch.inference_mode():
        y = linear(x)
        assert torch.equal(linear(x), y)
    exact = F.linear(x.double(), weight.double())
    assert y.dtype == dtype
    assert (y.double() - exact).norm() <= ERROR[quant] * exact.norm()


@pytest.mark.parametrize("quant", QUANTS)
def test_pieces_make_what_bitsandbytes_makes_of_the_whole(
    quant: TorchQuant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen35.weights.bitsandbytes_linear.PART", 1024)
    torch.manual_seed(1)
    weight, bnb = torch.randn(51, 77), import_bitsandbytes()
    found = quantised_linear(weight, quant, "cpu").weight
    if quant == "nf4":
        whole, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
        assert torch.equal(found.data, whole)
        assert torch.equal(found.quant_state.absmax, state.absmax)
    else:
        whole, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        assert torch.equal(found.data, whole)
        assert torch.equal(found.SCB, scales)


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
@pytest.mark.parametrize("quant", QUANTS)
def test_the_network_is_that_of_the_rounded_weights(tmp_path: Path, shape: Shape, quant: TorchQuant) -> None:
    folder = tiny_checkpoint(tmp_path / "model", shape)
    config = ModelConfig.from_folder(folder)
    exact = load_model(folder, config, device="cpu", dtype=torch.float32)
    rounded = load_model(
        folder,
        config,
        device="cpu",
        dtype=torch.float32,
        place=lambda found: place_torch(found, "float32", ram=1 << 40, quant=quant),
    )
    meant = with_rounded_weights(exact, rounded, quant)

    def logits(backend: PlainBackend) -> np.ndarray:
        state = backend.new_state()
        positions = np.tile(np.arange(40), (3, 1))
        first = backend.prefill(state, np.arange(40), positions, None)
        return np.stack([first, *(backend.decode([state], np.array([t]))[0] for t in (50, 51, 52))])

    ours, expected = logits(PlainBackend(rounded)), logits(PlainBackend(meant))
    assert np.array_equal(logits(PlainBackend(rounded)), ours)
    assert not np.array_equal(ours, logits(PlainBackend(exact)))
    # int8 rounds what goes into a product too, and a network of random weights forgives nothing.
    assert np.linalg.norm(ours - expected) <= {"nf4": 1e-5, "int8": 0.15}[quant] * np.linalg.norm(expected)


def test_what_was_computed_otherwise_has_another_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", DENSE)
    model = load_model(folder, ModelConfig.from_folder(folder), device="cpu")
    names = {PlainBackend(model, numerics_of(quant)).numerics for quant in QUANTS}
    assert len(names | {PlainBackend(model).numerics}) == 3


def test_a_missing_bitsandbytes_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(DoesNotFit, match="pip install bitsandbytes"):
        numerics_of("nf4")
