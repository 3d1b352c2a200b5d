"""Attention that is told where to look: the answer's tokens should look at the shape that is asked about.

The labels know which picture tokens those are. By answers alone, questions that name one shape of
several were hardly learnt in an hour: the name did not even reach the place where the answer begins.
Nothing of this is left in the checkpoint.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini.batches import IGNORE, Pictures, Rows
from mini.cells import COLUMNS, NUM_VALUES
from mini.clip_labels import NOTICED, SHOWN
from mini.codes import found_loss
from mini.labels import ASKED
from qwen35.network.attention import GatedAttention, KeyValues
from qwen35.network.model import Qwen35
from qwen35.network.rope import rotate

LOOKING_HEADS = slice(0, None, 2)  # every other one, as `look_for_the_same`; the rest is free
ASKED_COLUMNS = [COLUMNS.index(name) for name in ASKED]
KIND = COLUMNS.index("kind")


@dataclass(slots=True)
class Seen:
    """What the attention of one layer was given."""

    x: Tensor  # (R, T, D)
    rotary: tuple[Tensor, Tensor]
    past: KeyValues | None


class Pointing(nn.Module):
    """Losses on the first attention layer: what is asked must have reached it, and it must look there."""

    def __init__(self, model: Qwen35) -> None:
        super().__init__()
        layers = [m for m in model.language_model.modules() if isinstance(m, GatedAttention)]
        self._attention = layers[:1]  # in a list, so that its parameters are not this module's
        self._attention[0].register_forward_hook(self._keep)
        self._seen: Seen | None = None
        size = self._attention[0].q_proj.in_features
        self.asked = nn.ModuleDict({name: nn.Linear(size, 1 + NUM_VALUES[name]) for name in ASKED})
        self.noticed = nn.ModuleDict({name: nn.Linear(size, count) for name, count in NOTICED.items()})

    @property
    def attention(self) -> GatedAttention:
        """The layer that is watched."""
        return self._attention[0]

    @property
    def seen(self) -> Seen:
        """What it was given last."""
        assert self._seen is not None
        return self._seen

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        x, rotary, past, _ = inputs
        self._seen = Seen(x, rotary, past)  # type: ignore[arg-type]

    def notice(self, noticed: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Of the clips that the model has just read: how badly is known what `noticed` (B, S, NOTICED) says,
        where it says something, and the shares of which the likeliest is right."""
        assert self._seen is not None
        losses, figures = [], {}
        for index, (name, read) in enumerate(self.noticed.items()):
            labels = noticed[..., index]
            known = labels != IGNORE
            if known.any():
                logits, labels = read(self._seen.x[known]), labels[known]
                # Of most pairs nothing is new; what is, is hard to learn.
                weight, loss = (2.0, found_loss) if name == "new" else (1.0, F.cross_entropy)
                if name in SHOWN:
                    weight, loss = 4 / len(SHOWN), found_loss
                losses.append(weight * loss(logits, labels))
                is_right = (logits.argmax(-1) == labels).float()
                figures[name] = is_right.mean().item()
                if name == "new" and (labels > 0).any():
                    figures["newest"] = is_right[labels > 0].mean().item()
        return torch.stack(losses).sum() if losses else noticed.new_zeros((), dtype=torch.float), figures

    def loss(self, rows: Rows, pictures: Pictures, weights: Tensor, image_id: int) -> tuple[Tensor, Tensor]:
        """Of the rows that the model has just read: how badly what is asked is known where the answer
        begins, and how little the tokens that are said of it look at it.

        `weights` (vocabulary,) are those of `token_weights`.
        """
        assert self._seen is not None
        x = self._seen.x
        is_target = rows.targets != IGNORE
        first = is_target.float().argmax(1)
        start = x[torch.arange(len(x)), first]
        about = (rows.asked > 0).any(1)
        known = torch.stack(
            [
                F.cross_entropy(self.asked[name](start[about]), rows.asked[about, i], reduction="sum")
                for i, name in enumerate(ASKED)
            ]
        ).sum() / about.sum().clamp(min=1)
        says = is_target & (weights[rows.targets.clamp(min=0)] > 1)
        says[torch.arange(len(x)), first] = True
        if rows.looks is not None and rows.is_later is not None:  # a clip's labels say it themselves
            where = torch.where(rows.is_later[..., None], rows.looks[:, 1:], rows.looks[:, :1])  # (R, T, S)
            is_picture = torch.ones_like(rows.looks[0, 0])
        else:
            where = self._matches(rows, pictures)[:, None].expand(-1, x.shape[1], -1)  # (R, T, M)
            is_picture = pictures.prefix[0] == image_id
        row, time = (says & where.any(2)).nonzero(as_tuple=True)
        if len(row) == 0:
            return known, x.new_zeros(())
        mass = self._attention_on(row, time, where[row, time], is_picture)
        return known, -(mass + 1e-4).log().mean()

    def _matches(self, rows: Rows, pictures: Pictures) -> Tensor:
        """Which picture tokens (R, M) each row asks about: surely of a shape, and as the question says."""
        labels = pictures.labels.view(len(pictures.prefix), -1, len(COLUMNS))[rows.pictures]
        is_sure = pictures.is_sure.view(len(pictures.prefix), -1, len(COLUMNS))[rows.pictures]
        asked = rows.asked[:, None]  # (R, 1, asked)
        fits = (asked == 0) | (labels[..., ASKED_COLUMNS] == asked)
        is_shape = (labels[..., KIND] > 0) & is_sure[..., ASKED_COLUMNS].all(-1)
        is_there = fits.all(-1) & is_shape & (rows.asked > 0).any(1, keepdim=True)
        # "Is the star red?" asks about the star, whatever its colour.
        is_kind = fits[..., 0] & is_shape & (rows.asked[:, :1] > 0)
        return torch.where(is_there.any(1, keepdim=True), is_there, is_kind)

    def _attention_on(self, row: Tensor, time: Tensor, is_there: Tensor, is_picture: Tensor) -> Tensor:
        """The share (N, heads) of the looking heads' attention at the N places (`row`, `time`) that lies on
        what `is_there` (N, pictures' tokens) says."""
        seen, attention = self._seen, self._attention[0]
        assert seen is not None
        assert seen.past is not None
        T, Dh = seen.x.shape[1], attention.head_dim
        cos, sin = (t.expand(len(seen.x), -1, -1, -1)[row, :, time][:, :, None] for t in seen.rotary)
        query = attention.q_proj(seen.x[row, time]).view(len(row), -1, 2 * Dh)[:, LOOKING_HEADS, :Dh]
        query = rotate(attention.q_norm(query)[:, :, None], cos, sin)[:, :, 0]  # (N, heads, Dh)
        k = attention.k_proj(seen.x).view(*seen.x.shape[:2], -1, Dh)
        k = rotate(attention.k_norm(k).transpose(1, 2), *seen.rotary)
        k = torch.cat([seen.past.k, k], dim=2)[row]  # (N, Hkv, S + T, Dh)
        shared = attention.q_proj.out_features // (2 * Dh) // k.shape[1]
        groups = k.repeat_interleave(shared, dim=1)[:, LOOKING_HEADS]
        scores = (groups @ query[..., None])[..., 0] * Dh**-0.5  # (N, heads, S + T)
        num_past = seen.past.k.shape[2]
        is_later = torch.arange(T, device=time.device) > time[:, None]
        is_later = F.pad(is_later, (num_past, 0))
        scores = scores.masked_fill(is_later[:, None], -torch.inf)
        on_picture = scores.softmax(-1)[..., :num_past][..., is_picture]
        return (on_picture * is_there[:, None]).sum(-1)
