"""Rotary position embedding of the text model: three interleaved axes on a part of each head.

Each frequency turns with one axis of a token's position (time, height, width). Text tokens have
the same number on all three, which makes this ordinary rotary embedding for text.
Sources: RoFormer (Su et al. 2021), Qwen3-VL's interleaved mrope, YaRN (Peng et al. 2023).
"""

import math

import torch
from torch import Tensor

from qwen35.config import RopeConfig


def frequency_axes(sections: tuple[int, int, int]) -> list[int]:
    """Which axis (0 time, 1 height, 2 width) turns each frequency.

    Height takes 1, 4, 7, ... and width 2, 5, 8, ..., as many as their section says; time the rest.
    """
    axes = [0] * sum(sections)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = [axis] * len(axes[axis : 3 * sections[axis] : 3])
    return axes


def inverse_frequencies(rope: RopeConfig, rotary_dim: int) -> Tensor:
    """Angle per position step of each pair of dimensions, (rotary_dim / 2,) float32."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    plain = 1.0 / rope.theta**exponents
    if rope.yarn_factor is None:
        return plain
    assert rope.yarn_original_context is not None

    # Dimensions that turn often within the original context keep their frequency, those that turn
    # less than once are slowed by the factor, a linear ramp lies between (YaRN, section 3.2).
    def dim_with_turns(turns: float) -> float:
        wavelength = rope.yarn_original_context / (turns * 2 * math.pi)  # type: ignore[operator]
        return rotary_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low = max(math.floor(dim_with_turns(32.0)), 0)
    high = min(math.ceil(dim_with_turns(1.0)), rotary_dim - 1)
    ramp = (torch.arange(rotary_dim // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)
    slowed = ramp.clamp(0, 1)
    return plain * (1 - slowed) + plain / rope.yarn_factor * slowed


def rotary_tables(
    position_ids: Tensor, rope: RopeConfig, rotary_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B, 1, T, rotary_dim / 2), of positions (3, B, T).

    Computed in float32 and then cast: in bf16 the angles of long contexts would be lost.
    """
    axes = torch.tensor(frequency_axes(rope.mrope_section), device=position_ids.device)
    inverse = inverse_frequencies(rope, rotary_dim).to(position_ids.device)
    angles = position_ids[axes].float() * inverse[:, None, None]  # (rotary_dim / 2, B, T)
    angles = angles.permute(1, 2, 0)[:, None]
    scale = 1.0 if rope.yarn_factor is None else 0.1 * math.log(rope.yarn_factor) + 1.0
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first `2 * cos.shape[-1]` dimensions of each head, pass the others through.

    `x` is (B, H, T, Dh). Dimension j is paired with j + rotary_dim / 2 ("split half").
    """
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
