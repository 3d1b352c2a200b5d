"""What training minimises: the codes of the picture tokens, the answers' tokens, and the MTP layer's drafts.

The codes are labels, thousands a picture, that tell the vision encoder what was drawn where long
before an answer could.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini.batches import IGNORE, Batch, Pictures, Rows
from mini.codes import Codes
from mini.marks import NOWHERE
from mini.pointing import Pointing
from mini.reading import Reading
from mini.scene_questions import COLOURS, KINDS, PLACES
from mini.tokenizer import MiniTokenizer
from qwen35.network.attention import KeyValues
from qwen35.network.linear_attention import LinearState
from qwen35.network.model import Qwen35
from qwen35.network.moe import SparseMoE
from qwen35.network.text import LayerPast, Past

POINTING_WEIGHT = 0.3
NOTICING_WEIGHT = 0.3
SEEING_WEIGHT = 0.6
READING_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Losses:
    total: Tensor
    figures: dict[str, float]  # for the log


def of_pictures(left: LayerPast, pictures: Tensor) -> LayerPast:
    """The past of each row's picture: a picture is read once, however many questions there are."""
    kind = KeyValues if isinstance(left, KeyValues) else LinearState
    return kind(*(t.index_select(0, pictures) for t in left))


def encode(model: Qwen35, pictures: Pictures) -> Tensor:
    assert model.visual is not None
    assert pictures.patches is not None
    return model.visual(pictures.patches, [pictures.grid] * len(pictures.prefix))


def picture_loss(model: Qwen35, codes: Codes, batch: Batch) -> Losses:
    """Of the stage `eyes`: the vision encoder alone."""
    assert batch.pictures is not None
    labels = batch.pictures.labels, batch.pictures.is_sure
    loss, figures = codes.loss(encode(model, batch.pictures), labels)
    return Losses(loss, {"picture": loss.item(), **figures})


@dataclass(slots=True)
class Sum:
    """Losses added up by their weights, and the figures for the log."""

    value: Tensor
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, weight: float, loss: Tensor, figures: dict[str, float]) -> None:
        self.value = self.value + weight * loss
        self.figures |= figures


def answer_loss(
    model: Qwen35,
    codes: Codes | None,
    batch: Batch,
    balance: "RouterBalance",
    generator: torch.Generator,
    *,
    pointing: Pointing | None,
    reading: Reading | None = None,
    with_drafts: bool,
) -> Losses:
    """The answers' loss. Pictures are read once, each question goes on from there.

    A batch without patches (the stage `language`) is shown the codes of its labels; else the encoder
    looks, and its codes' loss is added (without `codes`, it may say what it likes). `pointing` and `reading`
    add what they are told.
    """
    total = Sum(torch.zeros((), device=batch.rows[0].ids.device))
    image_id, pictures, seen = model.config.image_token_id, batch.pictures, None
    if pictures is not None:
        features = _features(model, codes, pictures, generator, total)
        if reading is not None and pictures.marks is not None:
            total.add(SEEING_WEIGHT, *reading.see(features, pictures.marks))
        seen = see(model, pictures, features, with_drafts)
        if reading is not None and pictures.marks is not None:
            total.add(READING_WEIGHT, *reading.notice(pictures, image_id))
        if pointing is not None and pictures.noticed is not None:
            total.add(NOTICING_WEIGHT, *pointing.notice(pictures.noticed))
    weights_of_tokens = token_weights().to(total.value.device)
    hidden, drafts, known, looks = [], [], [], []
    for rows in batch.rows:
        past = seen and Past([of_pictures(layer, rows.pictures) for layer in seen.layers])
        y, _ = model(rows.ids, rows.positions, past=past)
        hidden.append(y[rows.targets != IGNORE])
        if reading is not None and pictures is not None and rows.sources is not None:
            total.add(READING_WEIGHT, *reading.loss(rows, pictures, image_id))
        if pointing is not None and pictures is not None and pictures.marks is None:
            for found, loss in zip(
                (known, looks), pointing.loss(rows, pictures, weights_of_tokens, image_id), strict=True
            ):
                found.append(loss)
        if with_drafts:
            drafts.append(draft_rows(model, rows, y.detach(), seen))
    for name, losses in (("known", known), ("looks", looks)):
        if losses:
            mean = torch.stack(losses).mean()
            total.add(POINTING_WEIGHT, mean, {name: mean.item()})
    total.add(1.0, *_said(model, batch, torch.cat(hidden), weights_of_tokens))
    total.add(0.01, balance.take(), {})
    if with_drafts:
        # The head is detached like the trunk: drafts must not cost answers.
        head = model.language_model.embed_tokens.weight.detach()
        drafted, expected = (torch.cat(part) for part in zip(*drafts, strict=True))
        loss = F.cross_entropy(F.linear(drafted, head).float(), expected)
        total.add(1.0, loss, {"draft": loss.item()})
    return Losses(total.value, total.figures)


def _features(
    model: Qwen35, codes: Codes | None, pictures: Pictures, generator: torch.Generator, total: Sum
) -> Tensor:
    """What the encoder says of the pictures, or what one would say of their labels."""
    labels = pictures.labels, pictures.is_sure
    if pictures.patches is None:
        assert codes is not None
        return codes.imagine(labels, generator)
    features = encode(model, pictures)
    if codes is not None:
        loss, figures = codes.loss(features, labels)
        total.add(0.1, loss, figures | {"picture": loss.item()})
    return features


def _said(
    model: Qwen35, batch: Batch, hidden: Tensor, weights_of_tokens: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """How badly the targets are said from `hidden` (N, D), and the share that is right."""
    logits = model.logits(hidden).float()
    targets = torch.cat([rows.targets[rows.targets != IGNORE] for rows in batch.rows])
    is_read = batch.pictures is not None and batch.pictures.marks is not None
    if is_read:  # each token alike, be it of a field or of a whole table
        weights = torch.ones_like(targets, dtype=torch.float)
    else:
        weights = torch.cat([answer_weights(rows) for rows in batch.rows]) * weights_of_tokens[targets]
    loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    right = ((logits.argmax(-1) == targets) * weights).sum() / weights.sum()
    about = "read_" if is_read else ""
    return loss, {f"{about}answer": loss.item(), f"{about}tokens": right.item()}


@lru_cache
def token_weights() -> Tensor:
    """How much each token (vocabulary,) counts as a target: the words for what is seen more than the rest."""
    tokenizer = MiniTokenizer.load()
    weights = torch.ones(len(tokenizer) + 64)
    for factor, words in ((3.0, [*COLOURS, *" ".join(PLACES).split()]), (6.0, KINDS)):
        for word in words:
            for form in (f" {word}", word.capitalize()):
                weights[tokenizer.encode(form)[0]] = factor
    for digit in range(10):
        weights[tokenizer.encode(str(digit))[0]] = 3.0
    return weights


def answer_weights(rows: Rows) -> Tensor:
    """How much each target token of the rows counts.

    Each answer alike: by token, a page of text would outweigh fifty answers of a word. Those that spell what
    they say a little more.
    """
    is_target = rows.targets != IGNORE
    weights = 1 / is_target.sum(1)
    if rows.sources is not None:
        is_spelt = (rows.sources[..., 0] != NOWHERE).any(1)
        weights = torch.where(is_spelt, weights**0.75, weights)
    return (is_target * weights[:, None])[is_target]


@dataclass(frozen=True, slots=True)
class Seen:
    """What reading the pictures leaves: for the trunk, and (detached) for the MTP layer."""

    layers: list[LayerPast]
    last_hidden: Tensor  # (B, 1, D) at the picture's end
    drafts: KeyValues | None


def see(model: Qwen35, pictures: Pictures, features: Tensor, with_drafts: bool) -> Seen:
    hidden, layers = model(pictures.prefix, pictures.positions, features)
    last = hidden[:, -1:].detach()
    if not with_drafts:
        return Seen(layers, last, None)
    assert model.mtp is not None
    embeds = model.embed(pictures.prefix, features).detach()
    _, drafts = model.mtp(embeds[:, 1:], hidden[:, :-1].detach(), pictures.positions[:, :, 1:])
    return Seen(layers, last, drafts)


def draft_rows(model: Qwen35, rows: Rows, hidden: Tensor, seen: Seen | None) -> tuple[Tensor, Tensor]:
    """The MTP layer's output for each target token t + 2 of the rows, and those tokens.

    Pair t is the hidden state at t and the embedding of t + 1, at the position of t + 1.
    """
    assert model.mtp is not None
    embeds = model.language_model.embed_tokens(rows.ids).detach()
    positions, targets, past = rows.positions, rows.targets, None
    if seen is None:
        embeds, positions, targets = embeds[:, 1:], positions[:, :, 1:], targets[:, 1:]
        hidden = hidden[:, :-1]
    else:
        assert seen.drafts is not None
        # The pair across the picture's end belongs to the rows: their first tokens differ.
        hidden = torch.cat([seen.last_hidden.index_select(0, rows.pictures), hidden[:, :-1]], dim=1)
        past = KeyValues(*(t.index_select(0, rows.pictures) for t in seen.drafts))
    drafted, _ = model.mtp(embeds, hidden, positions, past)
    return drafted[targets != IGNORE], targets[targets != IGNORE]


class RouterBalance:
    """Keeps experts in use: the load-balancing loss of Switch Transformers (Fedus et al. 2021, eq. 4)."""

    def __init__(self, model: nn.Module) -> None:
        self.losses: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, SparseMoE):
                module.gate.register_forward_hook(self._make_hook(module.top_k))

    def _make_hook(self, top_k: int):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
            if not logits.requires_grad:
                return
            probabilities = logits.float().softmax(-1)
            chosen = probabilities.topk(top_k, -1).indices
            share = F.one_hot(chosen, logits.shape[-1]).float().mean((0, 1))
            self.losses.append(logits.shape[-1] * (share * probabilities.mean(0)).sum())

        return hook

    def take(self) -> Tensor:
        """The mean over all routers that ran since the last call."""
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        return mean
