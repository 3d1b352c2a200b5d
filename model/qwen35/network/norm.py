"""The two RMS norms of the text model. They differ in how the weight is stored."""

import torch
from torch import Tensor, nn


def rms_normalise(x: Tensor, eps: float) -> Tensor:
    """Divide each vector of the last dimension by its root mean square, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class RMSNorm(nn.Module):
    """Zero-centred RMS norm: the checkpoint stores `w`, applied as `1 + w`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return (rms_normalise(x, self.eps) * (1.0 + self.weight.float())).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """Norm of the linear attention's output, then its gate: `w * norm(x) * silu(gate)`.

    Unlike `RMSNorm` the weight is stored around 1 and applied as it is. Norm first, gate after.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """`x` float32 and `gate` in the run's dtype, both (..., V); the result has the gate's dtype."""
        normed = self.weight.float() * rms_normalise(x, self.eps).to(gate.dtype).float()
        return (normed * nn.functional.silu(gate.float())).to(gate.dtype)
