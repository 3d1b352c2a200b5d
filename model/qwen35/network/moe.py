"""The two kinds of MLP: dense SwiGLU, and a sparse mixture of experts beside a shared one.

`Experts` is also the interface behind which experts may rest elsewhere than in memory: whoever
answers `forward(x, chosen, weights)` can take its place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.config import MoeConfig, TextConfig


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Choose `top_k` of E experts for each token from router logits (N, E).

    Returns their indices (N, A), best first, and weights (N, A) float32 that sum to 1: a softmax
    over all experts, cut to the chosen and renormalised.
    """
    weights, chosen = logits.float().softmax(-1).topk(top_k, dim=-1)
    return chosen, weights / weights.sum(-1, keepdim=True)


class Experts(nn.Module):
    """All experts of a layer, fused as the checkpoint stores them."""

    def __init__(self, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        E, size = moe.num_experts, moe.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.zeros(E, 2 * size, hidden_size))  # gate rows first
        self.down_proj = nn.Parameter(torch.zeros(E, hidden_size, size))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Run each token of `x` (N, D) through its experts `chosen` (N, A), weighted, summed in rank order.

        One host sync: how many tokens each expert got.
        """
        N, A = chosen.shape
        order = chosen.flatten().argsort(stable=True)  # slots token * A + rank, grouped by expert
        counts = chosen.flatten().bincount(minlength=self.gate_up_proj.shape[0]).tolist()
        outputs = []
        for expert, slots in enumerate(order.split(counts)):
            if counts[expert]:
                gate, up = F.linear(x[slots // A], self.gate_up_proj[expert]).chunk(2, dim=-1)
                outputs.append(F.linear(F.silu(gate) * up, self.down_proj[expert]))
        position = torch.empty_like(order).scatter_(0, order, torch.arange(N * A, device=x.device))
        y = torch.cat(outputs)[position].view(N, A, -1)  # (N, A, D), by token and rank
        return (y * weights.to(y.dtype)[..., None]).sum(1)


class SparseMoE(nn.Module):
    def __init__(self, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        self.top_k = moe.num_experts_per_tok
        self.gate = nn.Linear(hidden_size, moe.num_experts, bias=False)  # the router
        self.experts = Experts(hidden_size, moe)
        self.shared_expert = MLP(hidden_size, moe.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (N, D)
        chosen, weights = route(self.gate(flat), self.top_k)
        y = self.experts(flat, chosen, weights)
        y = y + torch.sigmoid(self.shared_expert_gate(flat)) * self.shared_expert(flat)
        return y.view_as(x)


def make_mlp(config: TextConfig) -> MLP | SparseMoE:
    if config.moe is not None:
        return SparseMoE(config.hidden_size, config.moe)
    assert config.intermediate_size is not None
    return MLP(config.hidden_size, config.intermediate_size)
