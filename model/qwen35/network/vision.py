"""The vision encoder: patches to features in the text model's space.

Each frame is a grid of patches, given in merge order: blocks of `spatial_merge_size` squared cells
one after another, so that a block is a run of rows and becomes one token in the merger. Frames
never see each other. P patches, M merged tokens.
"""

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.config import VisionConfig

LAYER_NORM_EPS = 1e-6
ROPE_THETA = 10000.0


def patch_coordinates(height: int, width: int, merge: int) -> Tensor:
    """Row and column of each patch of one frame, in merge order: (height * width, 2) int64."""
    rows = torch.arange(height)[:, None].expand(-1, width)
    columns = torch.arange(width).expand(height, -1)
    grid = torch.stack([rows, columns], dim=-1)
    blocks = grid.view(height // merge, merge, width // merge, merge, 2)
    return blocks.transpose(1, 2).reshape(-1, 2)


def interpolate_positions(table: Tensor, coordinates: Tensor, height: int, width: int) -> Tensor:
    """Learned positions for one frame: the square `table` (side ** 2, d) stretched over its grid.

    Bilinear with corners aligned, weights in float32. Returns (height * width, d) in float32.
    """
    side = round(table.shape[0] ** 0.5)
    last = torch.tensor([max(height - 1, 1), max(width - 1, 1)], device=table.device)
    place = coordinates.float() * (side - 1) / last  # (P, 2)
    low = place.floor().long()
    high = (low + 1).clamp(max=side - 1)
    part = place - low
    y0, x0, y1, x1 = low[:, 0], low[:, 1], high[:, 0], high[:, 1]
    dy, dx = part[:, :1], part[:, 1:]
    return (
        table[y0 * side + x0].float() * ((1 - dy) * (1 - dx))
        + table[y0 * side + x1].float() * ((1 - dy) * dx)
        + table[y1 * side + x0].float() * (dy * (1 - dx))
        + table[y1 * side + x1].float() * (dy * dx)
    )


def vision_rotary_tables(coordinates: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P, 1, head_dim / 2) float32: half of the angles follow the row, half the column."""
    exponents = torch.arange(0, head_dim // 2, 2, device=coordinates.device) / (head_dim // 2)
    inverse = 1.0 / ROPE_THETA ** exponents.float()
    angles = (coordinates.float()[..., None] * inverse).flatten(1)[:, None]
    return angles.cos(), angles.sin()


def rotate_all(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn whole heads, `x` (P, H, Dh), in float32; dimension j is paired with j + Dh / 2."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class PatchEmbed(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, size, stride=size)

    def forward(self, patches: Tensor) -> Tensor:
        """(P, values) -> (P, d). Kernel and stride are equal, so the convolution is one product."""
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], frames: list[int]) -> Tensor:
        """`x` (P, d); `frames` are the lengths, in patches, of the runs that see each other."""
        P, d = x.shape
        q, k, v = self.qkv(x).view(P, 3, self.num_heads, -1).unbind(1)  # each (P, H, Dh)
        q, k = rotate_all(q, *rotary), rotate_all(k, *rotary)
        outputs, start = [], 0
        for length, run in groupby(frames):
            count = len(list(run))
            end = start + count * length
            shape = (count, length, self.num_heads, -1)
            frame_q, frame_k, frame_v = (t[start:end].view(shape).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(frame_q, frame_k, frame_v)  # (count, H, length, Dh)
            outputs.append(y.transpose(1, 2).reshape(-1, d))
            start = end
        return self.proj(torch.cat(outputs))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, LAYER_NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], frames: list[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), rotary, frames)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Each block of merge x merge patches becomes one token of the text model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.block_size = config.hidden_size * config.spatial_merge_size**2
        self.norm = nn.LayerNorm(config.hidden_size, LAYER_NORM_EPS)
        self.linear_fc1 = nn.Linear(self.block_size, self.block_size)
        self.linear_fc2 = nn.Linear(self.block_size, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x).view(-1, self.block_size)  # (M, merge ** 2 * d)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))  # exact GELU here, tanh in the blocks


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, grids: list[tuple[int, int, int]]) -> Tensor:
        """Encode pictures or frame pairs.

        `patches` (P, values), in merge order, `grids` (time, height, width) in patches, one each.
        Returns (M, D) features, M = P / merge ** 2, in the same order.
        """
        config = self.config
        coordinates, positions, frames = [], [], []
        for (height, width), run in groupby((h, w) for t, h, w in grids for _ in range(t)):
            count = len(list(run))  # frames of one size in a row share what depends on size alone
            frame = patch_coordinates(height, width, config.spatial_merge_size).to(patches.device)
            learned = interpolate_positions(self.pos_embed.weight, frame, height, width)
            coordinates.append(frame.repeat(count, 1))
            positions.append(learned.repeat(count, 1))
            frames += [height * width] * count
        x = self.patch_embed(patches)
        x = x + torch.cat(positions).to(x.dtype)
        head_dim = config.hidden_size // config.num_heads
        rotary = vision_rotary_tables(torch.cat(coordinates), head_dim)
        for block in self.blocks:
            x = block(x, rotary, frames)
        return self.merger(x)
