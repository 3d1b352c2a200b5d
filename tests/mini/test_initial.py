"""The parameters before the first step."""

import torch

from mini.batches import BatchMaker
from mini.initial import FIRST_LOOKS, FREE_HEAD, initialise, waves
from qwen35.network.vision import VisionEncoder, patch_coordinates, rotate_all, vision_rotary_tables


def test_heads_begin_by_looking_at_their_neighbours() -> None:
    config = BatchMaker().config.vision
    assert config is not None
    encoder = VisionEncoder(config)
    initialise(encoder)
    grid = (12, 12)
    rotary = vision_rotary_tables(patch_coordinates(*grid, 1), config.hidden_size // config.num_heads)
    middle = 5 * grid[1] + 6
    for index, block in enumerate(encoder.blocks):
        biases = block.attn.qkv.bias.view(3, config.num_heads, -1)
        q, k = (rotate_all(biases[i].expand(grid[0] * grid[1], -1, -1), *rotary) for i in range(2))
        scores = torch.einsum("hd,phd->hp", q[middle], k)
        for head in range(config.num_heads):
            look = (head + index * config.num_heads) % len(FIRST_LOOKS)
            if look == FREE_HEAD:
                assert not scores[head].any()
                continue
            down, right = FIRST_LOOKS[look]
            assert scores[head].argmax() == middle + down * grid[1] + right


def test_near_places_are_alike() -> None:
    table = waves(20, 128).view(20, 20, 128)
    near = (table[5, 5] - table[5, 6]).norm()
    assert near < 0.7 * (table[5, 5] - table[15, 15]).norm()
