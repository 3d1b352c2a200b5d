"""The reference: tiny random `transformers` models of this family, and inputs for them.

Every size differs from every other (heads, head sizes, intermediate sizes, dk and dv), and every
parameter is random, norms, biases and decays too: a transposed matrix, a swapped pair of heads or
a forgotten `1 +` then shows in the numbers instead of hiding behind equal sizes, zeros and ones.
"""

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.utils import ModelOutput

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)
TOKEN_ID = {token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)}  # ids 0..255 are the bytes
VOCAB_SIZE = 271  # the last six rows are padding: no token has their ids

PATCH_VALUES = 3 * 2 * 16 * 16


@dataclass(frozen=True)
class Shape:
    """What tells one tiny model from another."""

    is_moe: bool
    ratio: int  # linear value heads per linear key head
    is_tied: bool
    num_layers: int = 4  # three linear, one full
    # Over seeds 0 to 5 our logits lie 1e-5 to 9e-5 from the reference's, which is mostly its own distance
    # from a float64 recurrence. With this one all lie within 2e-5: room for another processor's rounding.
    seed: int = 2

    def __str__(self) -> str:
        return f"{'moe' if self.is_moe else 'dense'}-r{self.ratio}-{'tied' if self.is_tied else 'untied'}"


SHAPES = (
    Shape(is_moe=False, ratio=1, is_tied=True),
    Shape(is_moe=False, ratio=2, is_tied=False),
    Shape(is_moe=False, ratio=3, is_tied=True),
    Shape(is_moe=True, ratio=1, is_tied=False),
    Shape(is_moe=True, ratio=2, is_tied=True),
    Shape(is_moe=True, ratio=3, is_tied=False),
)
DENSE, MOE = SHAPES[2], SHAPES[5]  # one of each where one is enough, both with r > 1


def text_config(shape: Shape) -> dict:
    mlp = {"intermediate_size": 77}
    if shape.is_moe:
        mlp = {
            "moe_intermediate_size": 22,
            "shared_expert_intermediate_size": 35,
            "num_experts": 7,
            "num_experts_per_tok": 3,
        }
    return mlp | {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 50,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 40,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2 * shape.ratio,
        "linear_key_head_dim": 13,
        "linear_value_head_dim": 18,
        "linear_conv_kernel_dim": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 2, 1],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": shape.is_tied,
        "mtp_num_hidden_layers": 1,
    }


VISION_CONFIG = {
    "depth": 2,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_heads": 2,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "out_hidden_size": 50,
    "num_position_embeddings": 49,
    "deepstack_visual_indexes": [],
}


def build_model(shape: Shape, **rope: object) -> PreTrainedModel:
    """A reference model in fp32 and eval mode; `rope` adds to its rope parameters."""
    config_class, model_class = (
        (Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration)
        if shape.is_moe
        else (Qwen3_5Config, Qwen3_5ForConditionalGeneration)
    )
    text = text_config(shape)
    text["rope_parameters"] |= rope
    config = config_class(
        text_config=text,
        vision_config=VISION_CONFIG,
        image_token_id=TOKEN_ID["<|image_pad|>"],
        video_token_id=TOKEN_ID["<|video_pad|>"],
        vision_start_token_id=TOKEN_ID["<|vision_start|>"],
        vision_end_token_id=TOKEN_ID["<|vision_end|>"],
        tie_word_embeddings=shape.is_tied,
    )
    config._experts_implementation = "eager"
    model = model_class(config).eval()
    randomise(model.named_parameters(), shape.seed)
    return model


def randomise(parameters: Iterator[tuple[str, nn.Parameter]], seed: int) -> None:
    """Every parameter anew. Norms keep their centre (0 or 1), which tells the two kinds apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter += 0.1 * noise
            elif name.endswith("A_log"):  # from a memory of fifty tokens to one of none
                spread = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(math.log(0.02) + spread * math.log(16 / 0.02))
            elif name.endswith("dt_bias"):
                parameter.copy_(noise)
            elif name.endswith("conv1d.weight"):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * (0.05 if name.endswith("bias") else 0.08))


@functools.cache
def reference_model(shape: Shape) -> PreTrainedModel:
    """The reference model of this shape, built once and frozen. Nobody may change it."""
    return build_model(shape).requires_grad_(False)


def talkative_model(shape: Shape) -> PreTrainedModel:
    """A reference model whose best token is always a printable character: its answers are text of
    one character a token, so that comparing texts is comparing tokens."""
    model = copy.deepcopy(reference_model(shape))
    is_printable = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    is_printable[ord("!") : ord("~") + 1] = True
    model.lm_head.weight[~is_printable] *= 0.05
    return model


@dataclass(frozen=True, eq=False)
class Prompt:
    """One row of input: ids, and the patches of the pictures among them."""

    input_ids: Tensor  # (1, T)
    pixel_values: Tensor | None  # (P, values of a patch)
    grid_thw: Tensor | None  # (images, 3), in patches

    @property
    def length(self) -> int:
        return self.input_ids.shape[1]


def make_prompt(*pieces: int | tuple[int, int], seed: int = 1) -> Prompt:
    """A number is that many random text tokens; a pair is a picture of (height, width) patches."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    patches, grids = [], []
    for piece in pieces:
        if isinstance(piece, int):
            ids += torch.randint(0, 256, (piece,), generator=generator).tolist()
            continue
        height, width = piece
        pads = [TOKEN_ID["<|image_pad|>"]] * (height * width // 4)
        ids += [TOKEN_ID["<|vision_start|>"], *pads, TOKEN_ID["<|vision_end|>"]]
        patches.append(torch.randn(height * width, PATCH_VALUES, generator=generator))
        grids.append((1, height, width))
    return Prompt(
        torch.tensor([ids]),
        torch.cat(patches) if patches else None,
        torch.tensor(grids) if grids else None,
    )


PROMPTS = {
    "text": make_prompt(75),  # longer than one chunk of the delta rule
    "one image": make_prompt(5, (6, 10), 7),
    "several images of odd sizes": make_prompt(3, (2, 6), 4, (10, 2), (6, 6), 9),
}


def reference_forward(model: PreTrainedModel, prompt: Prompt, **options: object) -> ModelOutput:
    """The reference's whole output for one prompt; no state is left behind in the model."""
    model.model.rope_deltas = None  # else a picture's delta is reused by the next prompt
    return model(
        input_ids=prompt.input_ids,
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.grid_thw,
        mm_token_type_ids=(prompt.input_ids == TOKEN_ID["<|image_pad|>"]).int(),
        **options,
    )


def reference_positions(model: PreTrainedModel, prompt: Prompt) -> Tensor:
    """Positions (3, 1, T) as the reference numbers them."""
    is_image = (prompt.input_ids == TOKEN_ID["<|image_pad|>"]).int()
    return model.model.get_rope_index(prompt.input_ids, is_image, image_grid_thw=prompt.grid_thw)[0]


def max_difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours.detach().double() - theirs.detach().double()).abs().max().item()


def as_pieces(length: int, sizes: Sequence[int]) -> list[slice]:
    """Slices that cover `length`; the sizes repeat from the front when they are used up."""
    slices, start = [], 0
    while start < length:
        size = sizes[len(slices) % len(sizes)]
        slices.append(slice(start, min(start + size, length)))
        start += size
    return slices
