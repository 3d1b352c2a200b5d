"""The shapes told from config.json against those of the network, and the formats they are packed in."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.weights.layout import DATA_FILES, EXPERTS, PAGE, file_sizes, lay_out
from qwen35.weights.recipe import Recipe
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.tiles import LINE
from tests.model.reference import MOE, SHAPES, Shape, reference_model


def config_of(shape: Shape, folder: Path) -> ModelConfig:
    reference_model(shape).config.architectures = [type(reference_model(shape)).__name__]
    reference_model(shape).config.dtype = torch.float32
    reference_model(shape).config.save_pretrained(folder)
    return ModelConfig.from_folder(folder)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_network_has_these_parameters(tmp_path: Path, shape: Shape) -> None:
    with_mtp = config_of(shape, tmp_path)
    text_only = replace(with_mtp, vision=None, text=replace(with_mtp.text, num_mtp_layers=0))
    for config in (with_mtp, text_only):
        with torch.device("meta"):
            model = Qwen35(config)

        assert parameter_shapes(config) == {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "shape", "format_name"),
    [
        ("language_model.layers.0.mlp.experts.gate_up_proj", (8, 64, 32), "bulk"),
        ("language_model.layers.0.mlp.experts.down_proj", (8, 32, 32), "bulk"),
        ("language_model.layers.0.mlp.gate_proj.weight", (64, 32), "bulk"),
        ("language_model.layers.0.mlp.shared_expert.down_proj.weight", (32, 64), "bulk"),
        ("language_model.layers.0.linear_attn.in_proj_qkv.weight", (64, 32), "bulk"),
        ("language_model.layers.0.linear_attn.in_proj_z.weight", (64, 32), "bulk"),
        ("language_model.layers.3.self_attn.q_proj.weight", (64, 32), "bulk"),
        ("mtp.layers.0.self_attn.o_proj.weight", (64, 32), "bulk"),
        ("mtp.fc.weight", (32, 64), "bulk"),
        ("language_model.layers.0.linear_attn.in_proj_a.weight", (4, 32), "q8"),
        ("language_model.layers.0.linear_attn.in_proj_b.weight", (4, 32), "q8"),
        ("language_model.embed_tokens.weight", (100, 32), "q8"),
        ("lm_head.weight", (100, 32), "q8"),
        ("visual.blocks.0.attn.qkv.weight", (96, 32), "q8"),
        ("visual.patch_embed.proj.weight", (32, 3, 2, 16, 16), "q8"),
        ("visual.merger.linear_fc2.weight", (32, 64), "q8"),
        ("language_model.layers.0.mlp.gate.weight", (8, 32), "f32"),
        ("mtp.layers.0.mlp.gate.weight", (8, 32), "f32"),
        ("language_model.layers.0.mlp.shared_expert_gate.weight", (1, 32), "f32"),
        ("language_model.layers.0.linear_attn.conv1d.weight", (64, 1, 4), "f32"),
        ("language_model.layers.0.linear_attn.A_log", (4,), "f32"),
        ("language_model.norm.weight", (32,), "f32"),
        ("visual.blocks.0.attn.qkv.bias", (96,), "f32"),
        ("visual.pos_embed.weight", (49, 32), "f32"),
    ],
)
def test_the_recipe(name: str, shape: tuple[int, ...], format_name: str) -> None:
    for quant in ("q4", "q8"):
        expected = quant if format_name == "bulk" else format_name
        assert Recipe(quant).format_of(name, shape) == expected  # type: ignore[arg-type]


def test_nothing_overlaps_and_everything_is_aligned(tmp_path: Path) -> None:
    items = lay_out(parameter_shapes(config_of(MOE, tmp_path)), Recipe("q4"))

    sizes = file_sizes(items)
    assert tuple(sizes) == DATA_FILES
    assert all(size % PAGE == 0 for size in sizes.values())
    for file in DATA_FILES:
        end = 0
        for item in (item for item in items if item.file == file):
            assert item.offset >= end
            assert item.offset % (PAGE if item.size_bytes >= PAGE else LINE) == 0
            end = item.offset + item.size_bytes
        assert end <= sizes[file]
    records = [item for item in items if item.file == EXPERTS]
    assert len(records) == 5 * 7  # four layers and the MTP module's
    assert {item.size_bytes % PAGE for item in records} == {0}
    assert len({item.size_bytes for item in records}) == 1
    for part in (part for item in records for part in item.parts):
        assert part.offset % LINE == 0
