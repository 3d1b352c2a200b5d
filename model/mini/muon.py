"""The optimiser: Muon for the matrices inside the network, Adam for everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by a
few Newton-Schulz steps, so that rare directions are learnt as fast as common ones.
"""

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (..., rows, columns) towards 1, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions; leading ones are a stack of matrices (experts)."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(momentum, group["momentum"]))
                scale = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - 0.01 * group["lr"]).add_(update, alpha=-group["lr"] * scale)


# Tables and filters whose rows live on their own, and projections to a handful of numbers.
NOT_MATRICES = ("embed", "conv1d", "in_proj_a", "in_proj_b", "shared_expert_gate", "mlp.gate.")


def make_optimisers(model: nn.Module, codes: nn.Module, rate: float = 1.0) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, p in model.named_parameters():
        is_inside = p.ndim in (2, 3) and not any(word in name for word in NOT_MATRICES)
        (matrices if is_inside else others).append(p)
    others += codes.parameters()
    adam = torch.optim.AdamW(others, lr=3e-3 * rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=0.02 * rate), adam]
