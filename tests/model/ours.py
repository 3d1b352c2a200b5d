"""Our network run by hand, one row or a batch, so that a test can stop it anywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen35.network.attention import KeyValues
from qwen35.network.model import Qwen35
from qwen35.network.text import LayerPast, Past
from tests.model.reference import Prompt


def features_of(model: Qwen35, prompt: Prompt) -> Tensor | None:
    """Features of the prompt's pictures, None where it has none."""
    if prompt.pixel_values is None:
        return None
    return model.visual(prompt.pixel_values, [tuple(grid) for grid in prompt.grid_thw.tolist()])


def grown(past: Past | None, left: Sequence[LayerPast]) -> Past:
    """The past after a step of one row: keys and values grow, linear states are replaced."""
    if past is None:
        return Past(list(left))
    return Past([_grown_layer(old, new) for old, new in zip(past.layers, left, strict=True)])


def _grown_layer(old: LayerPast, new: LayerPast) -> LayerPast:
    if isinstance(new, KeyValues):
        return KeyValues(torch.cat([old.k, new.k], dim=2), torch.cat([old.v, new.v], dim=2))
    return new


def logits_in_pieces(
    model: Qwen35, prompt: Prompt, position_ids: Tensor, pieces: Sequence[slice], past: Past | None = None
) -> tuple[Tensor, Past]:
    """Logits of the whole prompt, run piece by piece, and the past after it."""
    x = model.embed(prompt.input_ids, features_of(model, prompt))
    outputs = []
    for piece in pieces:
        hidden, left = model.language_model(x[:, piece], position_ids[:, :, piece], past)
        past = grown(past, left)
        outputs.append(model.logits(hidden))
    return torch.cat(outputs, dim=1), past


def logits_of(model: Qwen35, prompt: Prompt, position_ids: Tensor) -> Tensor:
    """Logits of the whole prompt in one pass."""
    return logits_in_pieces(model, prompt, position_ids, [slice(0, prompt.length)])[0]
