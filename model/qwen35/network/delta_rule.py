"""The gated delta rule as pure functions: one step, the chunked form, and the short convolution.

A state matrix maps keys to values. Each token lets it fade, reads what it holds for its key, and
writes back only the difference to its value. Everything here is float32: in bf16 a write smaller
than 1/512 of an entry is lost.
Sources: Yang et al. 2024, "Gated Delta Networks", eq. 10; "Parallelizing Linear Transformers with
the Delta Rule" (the WY form of a chunk).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_SIZE = 64  # tokens; part of the numerics: another size rounds differently


def l2_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each last-dimension vector to length 1. A vector of zeros stays zero, its gradient finite."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def causal_conv(x: Tensor, weight: Tensor, past: Tensor) -> Tensor:
    """Depthwise causal convolution over time, then SiLU.

    `x` (B, C, T), `weight` (C, W) whose last tap meets the current token, `past` (B, C, W - 1) the
    inputs before `x`. Returns (B, C, T).
    """
    T, W = x.shape[-1], weight.shape[-1]
    padded = torch.cat([past, x], dim=-1)  # (B, C, W - 1 + T)
    # W shifted products: for so short a filter cheaper than a grouped convolution on every device.
    y = padded[..., :T] * weight[:, 0, None]
    for tap in range(1, W):
        y = y + padded[..., tap : tap + T] * weight[:, tap, None]
    return F.silu(y)


def delta_rule_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One decode step of the gated delta rule.

    `q` and `k` (B, Hv, K) arrive normalised, `q` also scaled; `v` is (B, Hv, V), `log_decay` and
    `beta` (B, Hv), `state` (B, Hv, K, V). Returns the output (B, Hv, V) and the new state. The
    output is read after the write.
    """
    state = state * log_decay.exp()[..., None, None]
    held = (k[..., None] * state).sum(-2)  # (B, Hv, V)
    delta = beta[..., None] * (v - held)
    state = state + k[..., None] * delta[..., None, :]
    return (q[..., None] * state).sum(-2), state


def delta_rule_recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`delta_rule_step` over time, the plain form of `delta_rule_chunked` and with its shapes."""
    outputs = []
    for t in range(q.shape[2]):
        y, state = delta_rule_step(
            q[:, :, t], k[:, :, t], v[:, :, t], log_decay[:, :, t], beta[:, :, t], state
        )
        outputs.append(y)
    return torch.stack(outputs, dim=2), state


def delta_rule_chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over many tokens, in matrix products of CHUNK_SIZE tokens.

    `q`, `k` (B, Hv, T, K), `v` (B, Hv, T, V), `log_decay`, `beta` (B, Hv, T), `state` (B, Hv, K, V).
    Returns outputs (B, Hv, T, V) and the state after the last token. A token with beta = 0 and
    log_decay = 0 leaves the state as it is; that is how padding passes through.
    """
    B, H, T, _ = q.shape
    C = min(CHUNK_SIZE, T)
    N = -(-T // C)
    pad = N * C - T
    q, k, v = (F.pad(x, (0, 0, 0, pad)).view(B, H, N, C, -1) for x in (q, k, v))
    log_decay, beta = (F.pad(x, (0, pad)).view(B, H, N, C) for x in (log_decay, beta))

    total = log_decay.cumsum(-1)  # (B, H, N, C): decay since the start of the chunk
    is_past = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    # Masked before exp: above the diagonal the exponents are positive and would overflow.
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~is_past, -torch.inf).exp()
    since_start = total.exp()[..., None]
    until_end = (total[..., -1:] - total).exp()[..., None]

    # What each token writes depends on what the tokens before it in the chunk wrote: a unit lower
    # triangular system, solved once for values and keys.
    k_beta = k * beta[..., None]
    system = (k_beta @ k.transpose(-1, -2)) * between
    right = torch.cat([v * beta[..., None], k_beta * since_start], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    writes, reads = solved.split([v.shape[-1], k.shape[-1]], dim=-1)  # (B, H, N, C, V), (.., K)

    inside = (q @ k.transpose(-1, -2)) * between  # (B, H, N, C, C)
    q = q * since_start
    k = k * until_end
    chunk_decay = total[..., -1].exp()[..., None, None]
    outputs = []
    for n in range(N):
        delta = writes[:, :, n] - reads[:, :, n] @ state  # (B, H, C, V)
        outputs.append(q[:, :, n] @ state + inside[:, :, n] @ delta)
        state = chunk_decay[:, :, n] * state + k[:, :, n].transpose(-1, -2) @ delta
    return torch.cat(outputs, dim=2)[:, :, :T], state
