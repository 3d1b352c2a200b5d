"""What rounding costs: from the command line to the tables, on few questions and a tiny shape."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.layer_errors import every_matrix, matrices, rounded
from qwen35.backends.native.library import load as load_library
from qwen35.config import ModelConfig
from qwen35.weights.load import load_model
from qwen35.weights.pack import pack
from qwen35.weights.quantize import quantise

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "model" / "qwen35" / "builtin" / "mini-bf16"


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table's rows, without its head."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block[2:]] for block in blocks]


def test_the_tables_of_quality() -> None:
    if load_library()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    command = [sys.executable, "benchmarks/quality.py", "--samples", "1", "--shape", "tiny", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recipes, arithmetic, kinds, layers = tables(done.stdout)
    assert [(row[0], row[1]) for row in recipes] == [
        ("unrounded", "torch, float32"),
        ("unrounded", "torch, bfloat16"),
        ("q8", "native kernels"),
        ("q4: the default recipe", "native kernels"),
        ("q4 in every matrix", "torch, float32"),
    ]
    assert recipes[0][-2:] == ["0.00000", "100.00%"]
    divergences = [float(row[-2]) for row in recipes]
    assert 0 < divergences[2] < divergences[3] < min(0.11, divergences[4])
    assert [row[0] for row in arithmetic] == [
        "q8",
        "q8, of scenes, outside, talk",
        "q4: the default recipe",
        "q4: the default recipe, of scenes, outside, talk",
    ]
    assert all(float(row[2]) < 0.01 for row in arithmetic)
    assert [row[-1] for row in kinds] == ["f32", "q8", "q4", "q4", "q4", "q8", "q8"]
    assert [row[0] for row in layers][:4] == ["embedding", "linear attention", "MLP", "full attention"]
    for row in layers:
        q4, q8 = (float(cell.rstrip("%")) for cell in (row[3], row[5]))
        assert 8 < q4 / q8 < 30, row
    assert "warning: fewer than 2,000 tokens" in done.stderr


def test_rounding_in_place_is_what_packing_does_and_is_undone(tmp_path: Path) -> None:
    config = ModelConfig.from_folder(MINI)
    model = load_model(MINI, config, device="cpu", dtype=torch.float32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    packed = load_model(pack(MINI, tmp_path / "q8", "q8").folder, config, device="cpu", dtype=torch.float32)

    with torch.inference_mode(), rounded(model, every_matrix("q8"), quantise):
        for name, parameter in matrices(model):
            assert torch.equal(parameter, packed.get_parameter(name)), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
