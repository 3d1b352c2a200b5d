"""What the torch path leaves out of what was asked for is said."""

from pathlib import Path

import pytest

import qwen35.builtin
from qwen35.engine.load import load_engine
from qwen35.errors import DoesNotFit

BUILTIN = Path(qwen35.builtin.__file__).parent


def test_what_a_packed_model_becomes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # it is said before there is trouble
    notes: list[str] = []
    with pytest.raises(DoesNotFit):
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
