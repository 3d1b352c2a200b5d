"""Reading is told where to read: what each token of a document holds, and which of them each token of an
answer comes from.

As `pointing.py` does for shapes. Nothing of this is left in the checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini.batches import IGNORE, Pictures, Rows
from mini.codes import found_loss
from mini.marks import MARKED, NOWHERE, PLACE
from mini.pointing import LOOKING_HEADS, Pointing
from qwen35.network.model import Qwen35
from qwen35.network.rope import rotate

SHARPNESS = 8.0  # logits of characters are this times a feature's share of their words


class Reading(nn.Module):
    """Losses on the picture tokens of documents, and on the attention layer that `pointing` watches."""

    def __init__(self, model: Qwen35, pointing: Pointing) -> None:
        super().__init__()
        self._pointing = [pointing]  # in a list, so that it is not a part of this module
        self._words = [model.language_model.embed_tokens]
        size = model.config.text.hidden_size
        # Of the eyes, and of the language model when it has read the picture up to there.
        self.marked = nn.ModuleDict({name: nn.Linear(size, 1 + count) for name, count in MARKED.items()})
        self.noticed = nn.ModuleDict({name: nn.Linear(size, 1 + count) for name, count in MARKED.items()})
        self.wanted = nn.ModuleDict({name: nn.Linear(size, 1 + MARKED[name]) for name in [*MARKED][:PLACE]})

    def see(self, features: Tensor, marks: Tensor) -> tuple[Tensor, dict[str, float]]:
        """How badly features (B * M, D) say what `marks` (B * M, 1 + MARKED) say, and the shares right.

        A character is said as the direction of its word among the embeddings: what attention brings from
        there is then nearly the token to answer with.
        """
        chars, marks = marks[:, 0], marks[:, 1:]
        is_char = chars != IGNORE
        words = F.normalize(self._words[0].weight, dim=-1)
        logits = SHARPNESS * features[is_char] @ words.T
        losses = [F.cross_entropy(logits, chars[is_char])]
        figures = {"char": (logits.argmax(-1) == chars[is_char]).float().mean().item()}
        loss, found = _told(self.marked, features, marks)
        return torch.stack([*losses, loss]).sum(), figures | found

    def notice(self, pictures: Pictures, image_id: int) -> tuple[Tensor, dict[str, float]]:
        """As `see`, of what the language model knows at each picture token that it has just read."""
        assert pictures.marks is not None
        x = self._pointing[0].seen.x[pictures.prefix == image_id]
        return _told(self.noticed, x, pictures.marks[:, 1:], "noticed_")

    def loss(self, rows: Rows, pictures: Pictures, image_id: int) -> tuple[Tensor, dict[str, float]]:
        """Of the rows that the model has just read: how badly is known where to read on, and how little the
        looking heads look there."""
        assert rows.sources is not None
        seen = self._pointing[0].seen
        token, place = rows.sources[..., 0], rows.sources[..., 1:]
        is_read = token != NOWHERE
        if not is_read.any():
            return seen.x.new_zeros(()), {}
        x, place = seen.x[is_read], place[is_read]
        losses, figures = [], {}
        for index, (name, read) in enumerate(self.wanted.items()):
            known = place[:, index] > 0
            if known.any():
                logits, labels = read(x[known]), place[known, index]
                losses.append(F.cross_entropy(logits, labels))
                figures[f"wanted_{name}"] = (logits.argmax(-1) == labels).float().mean().item()
        start = int((pictures.prefix[0] == image_id).nonzero()[0])
        attention = self._log_attention()  # (R, heads, T, S + T)
        where = (start + token.clamp(min=0))[:, None, :, None].expand(-1, attention.shape[1], -1, 1)
        looks = attention.gather(-1, where)[..., 0].transpose(1, 2)[is_read]  # (N, heads)
        figures["looks_right"] = looks.exp().mean().item()
        losses.append(-looks.mean())
        return torch.stack(losses).sum(), figures

    def _log_attention(self) -> Tensor:
        """Of the looking heads, for every place of the rows: the logarithm of their attention."""
        seen, attention = self._pointing[0].seen, self._pointing[0].attention
        assert seen.past is not None
        R, T, _ = seen.x.shape
        Dh = attention.head_dim
        query = attention.q_proj(seen.x).view(R, T, -1, 2 * Dh)[:, :, LOOKING_HEADS, :Dh]
        query = rotate(attention.q_norm(query).transpose(1, 2), *seen.rotary)  # (R, heads, T, Dh)
        k = attention.k_norm(attention.k_proj(seen.x).view(R, T, -1, Dh)).transpose(1, 2)
        k = torch.cat([seen.past.k, rotate(k, *seen.rotary)], dim=2)  # (R, Hkv, S + T, Dh)
        shared = attention.q_proj.out_features // (2 * Dh) // k.shape[1]
        k = k.repeat_interleave(shared, dim=1)[:, LOOKING_HEADS]
        scores = query @ k.mT * Dh**-0.5
        is_later = torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(F.pad(is_later, (seen.past.k.shape[2], 0)), -torch.inf)
        return scores.log_softmax(-1)


def _told(
    reads: nn.ModuleDict, x: Tensor, marks: Tensor, prefix: str = ""
) -> tuple[Tensor, dict[str, float]]:
    """How badly `x` (N, D) tells the marks (N, MARKED), and the shares right of what is there."""
    losses, figures = [], {}
    for index, (name, read) in enumerate(reads.items()):
        logits, labels = read(x), marks[:, index]
        losses.append(found_loss(logits, labels))
        if (labels > 0).any():
            figures[prefix + name] = (logits.argmax(-1) == labels)[labels > 0].float().mean().item()
    return torch.stack(losses).sum(), figures
