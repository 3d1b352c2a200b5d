"""Give a language model that has learnt to look through other eyes the eyes of this run.

The features of both encoders say much the same of a picture token. A linear map from the one to the
other, found by least squares and folded into the last layer of the new encoder, lets the language
model understand the new eyes before it has seen a picture through them. What the other eyes could not
tell would be lost in that map: the kinds of shapes are added to it, each in the direction of its word.
"""

import json
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mini.batches import BatchMaker
from mini.codes import Codes
from mini.sample import make_sample
from mini.scene_questions import KINDS
from mini.tokenizer import MiniTokenizer
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.network.vision import VisionEncoder
from qwen35.weights.load import load_model

NUM_PICTURES = 600
RIDGE = 1e-3
LOUDNESS = 0.8  # of a kind, beside what else is said of a token


def load_float(folder: Path) -> Qwen35:
    """The model of a checkpoint, in float32 to be trained."""
    return load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=torch.float32)


@torch.no_grad()
def take_whole(model: Qwen35, folder: Path, tokenizer: MiniTokenizer) -> None:
    """Put all of checkpoint `folder` into `model`, whose vocabulary may have grown since: a new token begins
    as the mean of those that it was spelt with."""
    state = load_float(folder).state_dict()
    described = json.loads((folder / "tokenizer.json").read_text())
    theirs = described["model"]["vocab"] | {t["content"]: t["id"] for t in described["added_tokens"]}
    name = "language_model.embed_tokens.weight"
    old, new = state[name], model.language_model.embed_tokens.weight.data.clone()
    for token, index in tokenizer.ids.items():
        parts = [token] if token in theirs else list(token)
        new[index] = old[[theirs[part] for part in parts]].mean(0)
    model.load_state_dict(state | {name: new})


@torch.no_grad()
def adopt(model: Qwen35, codes: Codes, folder: Path) -> None:
    """Put the language model of checkpoint `folder` into `model`, and fit `model`'s eyes to it.

    The eyes say `codes` so far, and something else from here on. The checkpoint's text model must have
    the shape of `model`'s; its vision encoder may have another.
    """
    theirs = load_float(folder)
    assert theirs.visual is not None
    assert model.visual is not None
    model.language_model.load_state_dict(theirs.language_model.state_dict())
    if model.mtp is not None and theirs.mtp is not None:
        model.mtp.load_state_dict(theirs.mtp.state_dict())
    ours, expected = features_of(model.visual, theirs.visual)
    turn, shift = fit(ours, expected)
    is_shape = (ours @ codes.of("kind").T).amax(-1) > 0.5
    if is_shape.any():
        spread = (expected - expected.mean(0))[is_shape].norm(dim=-1).mean()
        turn = turn + LOUDNESS * spread * codes.of("kind")[1:].T @ word_directions(model)
    out = model.visual.merger.linear_fc2
    out.bias.copy_(out.bias @ turn + shift)
    out.weight.copy_(turn.T @ out.weight)


def fit(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares: a matrix (D, D') and a shift (D',) that take `inputs` (M, D) to `outputs` (M, D')."""
    inputs = F.pad(inputs.double(), (0, 1), value=1.0)
    square = inputs.T @ inputs
    square += RIDGE * len(inputs) * torch.eye(len(square), dtype=torch.float64)
    solved = torch.linalg.solve(square, inputs.T @ outputs.double()).float()
    return solved[:-1], solved[-1]


def word_directions(model: Qwen35) -> Tensor:
    """Where the words for the kinds lie among the embeddings, from their middle: (kinds, D) of length 1."""
    tokenizer = BatchMaker().tokenizer
    tokens = [tokenizer.encode(f" {kind}")[0] for kind in KINDS]
    words = model.language_model.embed_tokens.weight[tokens]
    return F.normalize(words - words.mean(0), dim=-1)


def features_of(ours: VisionEncoder, theirs: VisionEncoder) -> tuple[Tensor, Tensor]:
    """Features (M, D) of the same picture tokens through both encoders."""
    maker = BatchMaker()
    rng = random.Random(0)
    found = []
    for seed in range(NUM_PICTURES):
        world = rng.choices(["scene", "text", "receipt", "outside"], [6, 1, 1, 1])[0]
        pixels = make_sample(world, seed, "val", num_questions=1).pixels
        assert pixels is not None
        picture = maker.images.process(pixels)
        patches = torch.from_numpy(picture.values)
        found.append((ours(patches, [picture.grid]), theirs(patches, [picture.grid])))
    mine, other = (torch.cat(part) for part in zip(*found, strict=True))
    return mine, other
