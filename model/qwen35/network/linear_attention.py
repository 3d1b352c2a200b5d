"""Gated DeltaNet: the linear-attention layer around the delta rule.

Projections, a short causal convolution, the delta rule in float32, a gated norm, the way out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.config import TextConfig
from qwen35.network.delta_rule import (
    causal_conv,
    delta_rule_chunked,
    delta_rule_step,
    l2_normalise,
)
from qwen35.network.norm import GatedRMSNorm


class LinearState(NamedTuple):
    """What the layer remembers: `conv` (B, C, W - 1) inputs before convolution and SiLU, in the
    run's dtype, and `state` (B, Hv, K, V) float32."""

    conv: Tensor
    state: Tensor


class DepthwiseConv(nn.Module):
    """Holds the convolution's weight under the checkpoint's name, (C, 1, W)."""

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_channels, 1, width))


class GatedDeltaNet(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.num_k_heads, self.num_v_heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.k_dim, self.v_dim = config.linear_key_head_dim, config.linear_value_head_dim
        self.conv_width = config.linear_conv_kernel_dim
        self.in_proj_qkv = nn.Linear(D, config.conv_channels, bias=False)
        self.in_proj_z = nn.Linear(D, self.num_v_heads * self.v_dim, bias=False)
        self.in_proj_b = nn.Linear(D, self.num_v_heads, bias=False)
        self.in_proj_a = nn.Linear(D, self.num_v_heads, bias=False)
        self.conv1d = DepthwiseConv(config.conv_channels, self.conv_width)
        self.A_log = nn.Parameter(torch.zeros(self.num_v_heads))
        self.dt_bias = nn.Parameter(torch.ones(self.num_v_heads))
        self.norm = GatedRMSNorm(self.v_dim, config.rms_norm_eps)
        self.out_proj = nn.Linear(self.num_v_heads * self.v_dim, D, bias=False)

    def empty_state(self, x: Tensor) -> LinearState:
        """The state before the first token, for the rows of `x` (B, T, D)."""
        conv = x.new_zeros(x.shape[0], self.in_proj_qkv.out_features, self.conv_width - 1)
        shape = (x.shape[0], self.num_v_heads, self.k_dim, self.v_dim)
        return LinearState(conv, x.new_zeros(shape, dtype=torch.float32))

    def forward(
        self, x: Tensor, past: LinearState | None, lengths: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        """Mix `x` (B, T, D) over time and return the state after it.

        `lengths` (B,): rows are right-padded and only so many tokens are real; the state returned
        is the one after the last real token. None: all are.
        """
        B, T, _ = x.shape
        past = past or self.empty_state(x)
        mixed = self.in_proj_qkv(x).transpose(1, 2)  # (B, C, T)
        z = self.in_proj_z(x).view(B, T, self.num_v_heads, self.v_dim)
        beta = torch.sigmoid(self.in_proj_b(x).float()).transpose(1, 2)  # (B, Hv, T)
        a = self.in_proj_a(x).float() + self.dt_bias.float()
        log_decay = (-self.A_log.float().exp() * F.softplus(a)).transpose(1, 2)
        if lengths is not None:
            is_real = torch.arange(T, device=x.device) < lengths[:, None, None]  # (B, 1, T)
            beta, log_decay = beta * is_real, log_decay * is_real

        convolved = causal_conv(mixed, self.conv1d.weight[:, 0], past.conv)
        keys = self.num_k_heads * self.k_dim
        q, k, v = convolved.split([keys, keys, self.num_v_heads * self.v_dim], dim=1)
        q = l2_normalise(self._heads(q, self.k_dim)) * self.k_dim**-0.5  # (B, Hk, T, K)
        k = l2_normalise(self._heads(k, self.k_dim))
        v = self._heads(v, self.v_dim)  # (B, Hv, T, V)
        # Value head i uses key head i // r: neighbours share one, they do not take turns.
        repeats = self.num_v_heads // self.num_k_heads
        q, k = q.repeat_interleave(repeats, dim=1), k.repeat_interleave(repeats, dim=1)

        if T == 1:
            y, state = delta_rule_step(
                q[:, :, 0], k[:, :, 0], v[:, :, 0], log_decay[:, :, 0], beta[:, :, 0], past.state
            )
            y = y[:, :, None]
        else:
            y, state = delta_rule_chunked(q, k, v, log_decay, beta, past.state)
        y = self.norm(y.transpose(1, 2), z)  # (B, T, Hv, V)
        conv = self._last_inputs(torch.cat([past.conv, mixed], dim=-1), lengths)
        return self.out_proj(y.reshape(B, T, -1)), LinearState(conv, state)

    def _heads(self, x: Tensor, head_dim: int) -> Tensor:
        B, _, T = x.shape
        return x.float().view(B, -1, head_dim, T).transpose(2, 3)

    def _last_inputs(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """The last W - 1 real columns of `inputs` (B, C, W - 1 + T)."""
        width = self.conv_width - 1
        if lengths is None:
            return inputs[..., inputs.shape[-1] - width :]
        columns = lengths[:, None] + torch.arange(width, device=inputs.device)  # (B, W - 1)
        return inputs.gather(2, columns[:, None].expand(-1, inputs.shape[1], -1))
