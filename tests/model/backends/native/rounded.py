"""The plain network with the native backend's roundings put in: int8 inputs of products, bf16 in the state.

What then still differs is float32 rounding, so that a test can tell a wrong formula from a rounding.
"""

import types

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.network import attention
from qwen35.network.linear_attention import GatedDeltaNet
from qwen35.network.model import Qwen35
from qwen35.network.moe import Experts
from qwen35.network.vision import PatchEmbed

GROUP = 32


def to_int8(x: Tensor) -> Tensor:
    """`x` as its groups of 32 along the last dimension say it in int8."""
    size = x.shape[-1]
    groups = F.pad(x, (0, -size % GROUP)).unflatten(-1, (-1, GROUP))
    most = groups.abs().amax(-1, keepdim=True)
    q = (groups * (127 / most.where(most > 0, 127.0))).round()
    return (q * (most / 127)).flatten(-2)[..., :size]


def to_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def round_like_native(model: Qwen35) -> Qwen35:
    """Put the roundings into `model`, in place. The router's and the shared gate's products stay float32."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(("mlp.gate", "shared_expert_gate")):
            module.register_forward_pre_hook(lambda _, args: (to_int8(args[0]),))
        if isinstance(module, PatchEmbed):
            module.register_forward_pre_hook(lambda _, args: (to_int8(args[0]),))
        if isinstance(module, GatedDeltaNet):
            module.in_proj_qkv.register_forward_hook(lambda _, args, y: to_bf16(y))
        if isinstance(module, attention.GatedAttention):
            module.v_proj.register_forward_hook(lambda _, args, y: to_bf16(y))
        if isinstance(module, Experts):
            module.forward = types.MethodType(_run_experts, module)
    if model.lm_head is None:
        model.logits = types.MethodType(_tied_logits, model)
    return model


def _run_experts(self: Experts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    x, rows = to_int8(x), []
    for row, experts, shares in zip(x, chosen, weights, strict=True):
        total = torch.zeros_like(row)
        for expert, share in zip(experts, shares, strict=True):
            gate, up = F.linear(row, self.gate_up_proj[expert]).chunk(2)
            total = total + share * F.linear(to_int8(F.silu(gate) * up), self.down_proj[expert])
        rows.append(total)
    return torch.stack(rows)


def _tied_logits(self: Qwen35, hidden: Tensor) -> Tensor:
    return F.linear(to_int8(hidden), self.language_model.embed_tokens.weight)


def weights_to_int8(x: Tensor) -> Tensor:
    """Like `to_int8`, with scales in fp16: keys and values of a picture, packed as matrices."""
    size = x.shape[-1]
    groups = F.pad(x, (0, -size % GROUP)).unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 127).half().float()
    q = (groups * (1 / scale.where(scale > 0, 1.0))).round().clip(-127, 127)
    return (q * scale).flatten(-2)[..., :size]


class RoundedAttention:
    """In place of torch's attention: within a picture scores and answers are int8 products."""

    def __init__(self) -> None:
        self._exact = F.scaled_dot_product_attention

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *args: object, **options: object) -> Tensor:
        if options.get("enable_gqa"):
            return self._exact(q, k, v, *args, **options)
        k = weights_to_int8(k - k.mean(-2, keepdim=True))
        scores = to_int8(q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        v = weights_to_int8(v.transpose(-1, -2)).transpose(-1, -2)
        return to_int8(weights) @ v / weights.sum(-1, keepdim=True)


class RoundedRotation:
    """In place of `attention.rotate`: keys, which each layer turns after its queries, are kept in bf16."""

    def __init__(self) -> None:
        self._rotate, self._calls = attention.rotate, 0

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        self._calls += 1
        y = self._rotate(x, cos, sin)
        return to_bf16(y) if self._calls % 2 == 0 else y
