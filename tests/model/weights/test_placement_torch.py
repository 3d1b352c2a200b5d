"""What lies where when torch runs a model, for how much memory."""

import random
from pathlib import Path

import pytest
import torch

from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.load import load_model
from qwen35.weights.placement_torch import TorchPlacement, block_of, parameter_bytes, place_torch
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.tiles import LINE, round_up
from tests.model.reference import DENSE, MOE, SHAPES, Shape
from tests.model.weights.budgets import least_ram
from tests.model.weights.packing import tiny_checkpoint

PLENTY = 1 << 40
UNTIED = next(shape for shape in SHAPES if not shape.is_tied and not shape.is_moe)


def config_of(folder: Path, shape: Shape) -> ModelConfig:
    return ModelConfig.from_folder(tiny_checkpoint(folder / "model", shape))


def working_bytes(config: ModelConfig, dtype: str = "float32") -> int:
    """What a plan takes beside the weights: found by how much more than them all of them need."""
    whole = sum(block.size_bytes for block in place_torch(config, dtype, ram=PLENTY).blocks)
    low, high = 0, PLENTY
    while low < high:
        middle = (low + high) // 2
        if fits_whole(config, dtype, middle):
            high = middle
        else:
            low = middle + 1
    return low - whole


def fits_whole(config: ModelConfig, dtype: str, ram: int) -> bool:
    try:
        return place_torch(config, dtype, ram=ram).is_resident
    except DoesNotFit:
        return False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
def test_sizes_are_those_of_the_loaded_model(tmp_path: Path, shape: Shape, dtype: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", shape)
    config = ModelConfig.from_folder(folder)
    model = load_model(folder, config, device="cpu", dtype=getattr(torch, dtype))
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        sizes[block_of(name)] = sizes.get(block_of(name), 0) + round_up(parameter.nbytes, LINE)
    plan = place_torch(config, dtype, ram=PLENTY)
    assert {block.name: block.size_bytes for block in plan.blocks} == sizes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_stays_and_the_largest_of_the_rest_are_within_the_budget(tmp_path: Path, shape: Shape) -> None:
    config = config_of(tmp_path, shape)
    working, least = working_bytes(config), least_ram(config, "float32")
    whole = sum(block.size_bytes for block in place_torch(config, "float32", ram=PLENTY).blocks)
    numbers = random.Random(str(shape))
    stayed = []
    for ram in sorted(numbers.randrange(least, working + whole) for _ in range(30)):
        plan = place_torch(config, "float32", ram=ram)
        on_disk = [block.size_bytes for block in plan.blocks if block.where == "disk"]
        assert on_disk
        assert working + plan.size_bytes("cpu") + max(on_disk) <= ram
        stayed.append(plan.size_bytes("cpu"))
    assert stayed == sorted(stayed), "more memory, and less stays in it"
    assert place_torch(config, "float32", ram=working + whole).is_resident


@pytest.mark.parametrize("shape", [DENSE, UNTIED], ids=str)
def test_only_a_tied_embedding_never_leaves(tmp_path: Path, shape: Shape) -> None:
    config = config_of(tmp_path, shape)
    plan = place_torch(config, "float32", ram=least_ram(config, "float32"))
    where = {block.name: block.where for block in plan.blocks}
    assert where["language_model.embed_tokens"] == ("cpu" if shape.is_tied else "disk")
    assert {where[f"language_model.layers.{index}"] for index in range(4)} == {"disk"}
    # Their weights are used without calling them, or they are small.
    assert all(where[name] == "cpu" for name in ("language_model.norm", "visual.pos_embed"))


def test_too_little_says_the_least_that_works(tmp_path: Path) -> None:
    config = config_of(tmp_path, MOE)
    least = least_ram(config, "float32")
    with pytest.raises(DoesNotFit, match=rf"at least {least / 1e9:.2f} GB of memory, with its layers on the"):
        place_torch(config, "float32", ram=least - 1)


def test_without_a_number_what_is_free_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, MOE)
    assert place_torch(config, "float32").is_resident
    least = least_ram(config, "float32")
    available = "qwen35.weights.placement_torch.available_memory"
    monkeypatch.setattr(available, lambda: int(least / 0.9) + 2)
    assert not place_torch(config, "float32").is_resident
    monkeypatch.setattr(available, lambda: least)
    with pytest.raises(DoesNotFit, match="there are 0"):
        place_torch(config, "float32")


def test_notes_tell_what_is_read_and_when(tmp_path: Path) -> None:
    config = config_of(tmp_path, UNTIED)
    assert place_torch(config, "float32", ram=PLENTY).notes() == []
    text, vision = place_torch(config, "float32", ram=least_ram(config, "float32")).notes()
    assert text.startswith(
        "the embedding, the head and 4 of 4 layers are read from disk at every step; 0.00 of"
    )
    assert vision == "2 of 2 layers of the vision encoder are read from disk for each picture"


def test_on_a_gpu_the_rest_stays_in_memory_and_then_on_disk(tmp_path: Path) -> None:
    config = config_of(tmp_path, UNTIED)
    least = least_ram(config, "float32")
    whole = place_torch(config, "float32", device="cuda", gpu_bytes=PLENTY, ram=0)
    assert {block.where for block in whole.blocks} == {"cuda"}
    assert whole.is_resident

    def wheres(plan: TorchPlacement) -> dict[str, str]:
        return {block.name: block.where for block in plan.blocks}

    copied = place_torch(config, "float32", device="cuda", gpu_bytes=least, ram=PLENTY)
    assert wheres(copied)["language_model.norm"] == "cuda"
    assert wheres(copied)["language_model.layers.3"] == "cpu"
    assert "copied from memory at every step" in copied.notes()[0]

    read = place_torch(config, "float32", device="cuda", gpu_bytes=least, ram=least)
    assert set(wheres(read).values()) == {"cuda", "cpu", "disk"}

    with pytest.raises(DoesNotFit, match="of GPU memory"):
        place_torch(config, "float32", device="cuda", gpu_bytes=least - 1, ram=PLENTY)


@pytest.mark.parametrize(("quant", "bits"), [("nf4", 4.5), ("int8", 8.3)])
def test_quantised_weights_are_smaller_and_never_leave(tmp_path: Path, quant: str, bits: float) -> None:
    config = config_of(tmp_path, DENSE)
    plan = place_torch(config, "float32", ram=PLENTY, quant=quant)
    assert plan.is_resident
    exact = place_torch(config, "float32", ram=PLENTY)
    assert plan.size_bytes("cpu") < exact.size_bytes("cpu")
    shape = (4096, 1024)
    name = "language_model.layers.0.mlp.up_proj.weight"
    assert parameter_bytes(name, shape, "bfloat16", quant) * 8 / (4096 * 1024) == pytest.approx(bits, abs=0.3)
    assert parameter_bytes("lm_head.weight", shape, "bfloat16", quant) == 2 * 4096 * 1024
    with pytest.raises(DoesNotFit, match=f"in {quant}; --ram allows 0.38 GB. Without --quant its layers may"):
        place_torch(config, "float32", ram=380_000_000, quant=quant)


def test_only_large_products_of_the_text_model_are_quantised(tmp_path: Path) -> None:
    for shape in (DENSE, MOE):
        config = config_of(tmp_path / str(shape), shape)
        kinds = {
            name.removeprefix("language_model.layers.").partition(".")[2]
            for name, size in parameter_shapes(config).items()
            if parameter_bytes(name, size, "float32", "int8") < parameter_bytes(name, size, "float32")
        }
        attention = {f"self_attn.{x}_proj.weight" for x in "qkvo"}
        linear = {f"linear_attn.{x}.weight" for x in ("in_proj_qkv", "in_proj_z", "out_proj")}
        mlp = "mlp.shared_expert" if shape.is_moe else "mlp"
        assert kinds == attention | linear | {f"{mlp}.{x}_proj.weight" for x in ("gate", "up", "down")}
