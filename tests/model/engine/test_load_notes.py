"""What the torch path leaves out of what was asked for is said."""

from pathlib import Path

import pytest
import torch

import qwen35.builtin
from qwen35.engine.load import load_engine
from qwen35.errors import DoesNotFit

BUILTIN = Path(qwen35.builtin.__file__).parent


def test_what_a_packed_model_becomes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before it is loaded, which no card is here for; without a card only that there is none."""
    notes: list[str] = []
    if not torch.cuda.is_available():
        with pytest.raises(DoesNotFit, match="no CUDA device"):
            load_engine(BUILTIN / "mini", device="cuda", on_note=notes.append)
        assert notes == []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 20, 1 << 40))
    with pytest.raises(DoesNotFit, match="GPU memory"):
        load_engine(BUILTIN / "mini", device="cuda", load="mmap", speculate=3, on_note=notes.append)
    assert notes == [
        "mini is unpacked for the GPU: it takes up to four times its size there",
        "--load mmap: for packed models on the CPU alone; mini is read into memory",
        "--speculate 3: for packed models on the CPU alone; nothing is drafted",
    ]


def test_an_unpacked_model_with_options_for_packed_ones() -> None:
    notes: list[str] = []
    load_engine(BUILTIN / "mini-bf16", device="cpu", load="resident", speculate="auto", on_note=notes.append)
    assert notes == ["--load resident: for packed models on the CPU alone; mini-bf16 is read into memory"]
