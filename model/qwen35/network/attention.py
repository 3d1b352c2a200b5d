"""Gated full attention: grouped queries, norms on queries and keys, a sigmoid gate per channel.

Source: Qwen3-Next / Qwen3.5; gated attention after Qiu et al. 2025.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.config import TextConfig
from qwen35.network.norm import RMSNorm
from qwen35.network.rope import rotate


class KeyValues(NamedTuple):
    """Keys (normed and rotated) and values, each (B, Hkv, S, Dh)."""

    k: Tensor
    v: Tensor


def attention_mask(
    num_new: int, num_past: int, past_lengths: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which of the S + T keys each of the T new tokens may see: (B or 1, 1, T, S + T) bool.

    None where the kernel needs none: plain causal without a past, or one new token that sees all.
    `past_lengths` (B,) is given where rows have pasts of different lengths, right-padded to S.
    Padding after a row's new tokens needs no mask: nothing real looks ahead.
    """
    if num_past == 0 or (num_new == 1 and past_lengths is None):
        return None
    causal = torch.ones(num_new, num_new, dtype=torch.bool, device=device).tril()
    if past_lengths is None:
        seen = torch.ones(1, 1, num_new, num_past, dtype=torch.bool, device=device)
    else:
        is_real = torch.arange(num_past, device=device) < past_lengths[:, None]  # (B, S)
        seen = is_real[:, None, None].expand(-1, 1, num_new, -1)
    return torch.cat([seen, causal.expand(seen.shape[0], 1, -1, -1)], dim=-1)


class GatedAttention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        D, Dh = config.hidden_size, config.head_dim
        self.head_dim = Dh
        # Per head: Dh numbers of the query, then Dh numbers of its gate.
        self.q_proj = nn.Linear(D, config.num_attention_heads * 2 * Dh, bias=False)
        self.k_proj = nn.Linear(D, config.num_key_value_heads * Dh, bias=False)
        self.v_proj = nn.Linear(D, config.num_key_value_heads * Dh, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * Dh, D, bias=False)
        self.q_norm = RMSNorm(Dh, config.rms_norm_eps)
        self.k_norm = RMSNorm(Dh, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        past: KeyValues | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, KeyValues]:
        """Attend from `x` (B, T, D) to `past` and itself; also return the keys and values of `x` alone."""
        B, T, _ = x.shape
        query, gate = self.q_proj(x).view(B, T, -1, 2 * self.head_dim).chunk(2, dim=-1)
        k = self.k_proj(x).view(B, T, -1, self.head_dim)
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, Hkv, T, Dh)
        query = rotate(self.q_norm(query).transpose(1, 2), *rotary)  # (B, Hq, T, Dh)
        k = rotate(self.k_norm(k).transpose(1, 2), *rotary)
        new = KeyValues(k, v)
        if past is not None:
            k = torch.cat([past.k, k], dim=2)
            v = torch.cat([past.v, v], dim=2)
        is_causal = mask is None and T > 1
        y = F.scaled_dot_product_attention(query, k, v, mask, is_causal=is_causal, enable_gqa=True)
        y = y.transpose(1, 2).reshape(B, T, -1)  # (B, T, Hq * Dh)
        y = y * torch.sigmoid(gate.reshape(B, T, -1))
        return self.o_proj(y), new
