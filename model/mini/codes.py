"""The language between eye and word: a fixed vector for each thing that a picture token may hold.

The vision encoder learns to say these vectors, the language model to understand them, each without
waiting for the other; after that they learn on together. Nothing of this is left in the checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini.cells import COLUMNS, NUM_CHARS, NUM_VALUES, SLOTS

# Characters are many and are learnt last: in full they would drown the shapes.
WEIGHTS = {f"char{slot}": 0.25 for slot in range(SLOTS)} | {"kind": 2.0}
SHARPNESS = 8.0  # logits are this times a feature's share of a code
NUM_PLAIN = sum(count for name, count in NUM_VALUES.items() if not name.startswith("char"))
Labels = tuple[Tensor, Tensor]  # values (M, columns) and is_sure (M, columns), as in `Cells`


def draw_codes(hidden_size: int) -> Tensor:
    """Unit vectors (sum of NUM_VALUES, D): at right angles, but for the characters', too many for that.

    Those lie in the space that the others leave free. A character in another slot is partly the same
    vector, so that it is known wherever it stands, and partly that vector turned, so that the slot is.
    """
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(hidden_size, hidden_size, generator=generator)).Q.T
    free = axes[NUM_PLAIN:]
    chars = F.normalize(torch.randn(NUM_CHARS, len(free), generator=generator), dim=-1)
    codes = [axes[:NUM_PLAIN]]
    for _ in range(SLOTS):
        turn = torch.linalg.qr(torch.randn(len(free), len(free), generator=generator)).Q
        codes.append(F.normalize(0.8 * chars + 0.6 * chars @ turn, dim=-1) @ free)
    return torch.cat(codes)


class Codes(nn.Module):
    """Codes of all values, and in training the encoder's readiness (a bias) to say each of them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("table", draw_codes(hidden_size))
        self.biases = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(count + 1)) for name, count in NUM_VALUES.items()}
        )
        for bias in self.biases.values():
            bias.data[0] = SHARPNESS / 2

    def of(self, name: str) -> Tensor:
        """Codes (1 + values, D) of a column; "none" is no code at all."""
        start = sum(NUM_VALUES[before] for before in COLUMNS[: COLUMNS.index(name)])
        return F.pad(self.table[start : start + NUM_VALUES[name]], (0, 0, 1, 0))

    def say(self, values: Tensor, weights: Tensor) -> Tensor:
        """Features (M, D) of tokens with these labels (M, columns): the weighted sum of their codes."""
        parts = [self.of(name)[values[:, i]] * weights[:, i, None] for i, name in enumerate(COLUMNS)]
        return torch.stack(parts).sum(0)

    def imagine(self, labels: Labels, generator: torch.Generator) -> Tensor:
        """Features as an imperfect encoder might say them: loud or faint, edges half, noise over all."""
        values, is_sure = labels
        device = self.table.device
        loudness = 0.7 + 0.6 * torch.rand(values.shape, generator=generator)
        edge = torch.rand(values.shape[0], 1, generator=generator).expand(values.shape)
        noise = torch.randn(values.shape[0], self.table.shape[1], generator=generator)
        strength = 0.08 * torch.rand((), generator=generator).item()
        weights = torch.where(is_sure, loudness.to(device), edge.to(device))
        return self.say(values, weights) + strength * noise.to(device)

    def loss(self, features: Tensor, labels: Labels) -> tuple[Tensor, dict[str, float]]:
        """How far features (M, D) are from saying what is there, and the shares right of what is there."""
        values, is_sure = labels
        losses, figures = [], {}
        for index, name in enumerate(COLUMNS):
            sure, wanted = is_sure[:, index], values[:, index]
            logits = SHARPNESS * features @ self.of(name).T + self.biases[name]
            losses.append(WEIGHTS.get(name, 1.0) * found_loss(logits[sure], wanted[sure]))
            is_there = sure & (wanted > 0)
            if is_there.any():
                right = (logits.argmax(-1) == wanted)[is_there]
                figures[name] = right.float().mean().item()
        # Clear of doubt in all columns: there the features can be held to the very sum of codes.
        clear = is_sure.all(-1)
        distance = (features - self.say(values, is_sure.float())).square().sum(-1)
        is_something = (values[:, 1:] > 0).any(-1)
        exact = mean_of(distance, clear & is_something) + mean_of(distance, clear & ~is_something)
        return torch.stack(losses).sum() + 0.5 * exact, figures


def mean_of(x: Tensor, chosen: Tensor) -> Tensor:
    return (x * chosen).sum() / chosen.sum().clamp(min=1)


def found_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over what is there and over what is empty (label 0), each by its own mean.

    Nearly all of a picture is empty: in a common mean the answer "nothing" would drown the rest.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    return mean_of(losses, labels > 0) + mean_of(losses, labels == 0)
