"""Parameters before the first step."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mini.cells import SLOTS
from mini.codes import Codes
from mini.scene_questions import COLOURS, KINDS
from mini.tokenizer import MiniTokenizer
from qwen35.network.attention import GatedAttention
from qwen35.network.vision import ROPE_THETA, VisionEncoder

# Where the heads of a block look at first, (down, right) in patches: itself and its neighbours.
FIRST_LOOKS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1))
FREE_HEAD = 7  # of every eight, one looks everywhere alike
LOOK_STRENGTHS = (2.2, 2.0, 1.5, 0.7)  # of the quickest angles; the slow ones stay free
WAYS_OUT = ("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")


def initialise(model: nn.Module) -> None:
    """Draw the parameters that the network leaves at zero or at PyTorch's defaults."""
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            # From a thousand tokens' memory to a few: with less, a picture is forgotten before the question.
            nn.init.uniform_(p, math.log(0.001), math.log(0.5))
        elif name.endswith("dt_bias"):
            nn.init.normal_(p, -1.0, 1.0)
        elif name.endswith("conv1d.weight"):
            nn.init.normal_(p, 0.0, 0.3)
            p.data[..., -1] += 0.5
        elif name.endswith("pos_embed.weight"):
            p.data.copy_(waves(round(p.shape[0] ** 0.5), p.shape[1]))
        elif p.ndim >= 2:
            fan_in = p[0].numel() if p.ndim != 3 else p.shape[-1]
            nn.init.normal_(p, 0.0, 0.1 if "embed_tokens" in name else fan_in**-0.5)
            if name.endswith(WAYS_OUT):
                nn.init.zeros_(p)  # layers begin silent: what a token is must not drown in what they say
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    for module in model.modules():
        if isinstance(module, VisionEncoder):
            look_around(module)
        elif isinstance(module, GatedAttention):
            look_for_the_same(module)


def look_for_the_same(attention: GatedAttention) -> None:
    """Let every other query head begin by looking for what its token is itself: its keys are its queries.

    So the word "star" finds the star in the picture before anything is learnt.
    """
    Dh = attention.head_dim
    queries = attention.q_proj.weight.data.view(
        -1, 2, Dh, attention.q_proj.in_features
    )  # (Hq, query | gate, ..)
    keys = attention.k_proj.weight.data.view(-1, Dh, attention.k_proj.in_features)
    shared = len(queries) // len(keys)
    for head in range(0, len(queries), 2):
        queries[head, 0] = keys[head // shared]


def name_things(embeddings: Tensor, tokenizer: MiniTokenizer, codes: Codes) -> None:
    """Let the words for what a picture token may hold begin as the codes that the eyes say.

    `embeddings` (vocabulary, D) are read with the same table: what attention brings from the picture
    is then nearly the word to answer with.
    """
    places = codes.of("place")[1:].view(3, 3, -1)
    rows = dict(zip(("top", "middle", "bottom"), places.sum(1), strict=True))
    columns = dict(zip(("left", "centre", "right"), places.sum(0), strict=True))
    named = rows | columns | {"center": columns["centre"]}
    for column, words in (("kind", KINDS), ("colour", COLOURS)):
        named |= dict(zip(words, codes.of(column)[1:], strict=True))
    named["gray"] = named["grey"]
    char_codes = torch.stack([codes.of(f"char{slot}")[1:] for slot in range(SLOTS)]).mean(0)
    chars = {chr(32 + index): code for index, code in enumerate(char_codes)}
    for index in range(tokenizer.num_plain):
        text = tokenizer.decode([index])
        code = chars.get(text) if len(text) == 1 else named.get(text.strip().lower())
        if code is not None:
            embeddings[index] = F.normalize(code, dim=0) + 0.3 * embeddings[index]


def waves(side: int, size: int) -> Tensor:
    """A square table of positions (side ** 2, size) made of slow waves along rows and columns.

    From random rows each place would have to be learnt on its own; from waves, "top left" is a
    direction from the start.
    """
    place = torch.arange(side) / side * math.pi
    angles = place[:, None] * torch.arange(1, size // 4 + 1) ** 0.75  # (side, size / 4)
    along = torch.cat([angles.sin(), angles.cos()], -1) * 0.5
    rows = along[:, None].expand(-1, side, -1)
    columns = along[None].expand(side, -1, -1)
    return torch.cat([rows, columns], -1).reshape(side**2, size)


def look_around(encoder: VisionEncoder) -> None:
    """Let each head begin by looking at one neighbour, as the taps of a convolution do.

    Rotary embedding turns a constant key by its position and a constant query by its own: their
    product is a bump over displacements, moved by turning one against the other. The constants are
    the biases, so that learning may forget them. Without this, what a patch's neighbours hold was
    found four times more slowly.
    """
    config = encoder.config
    Dh = config.hidden_size // config.num_heads
    half = Dh // 2  # of the angles, half turn with the row, half with the column
    inverse = 1.0 / ROPE_THETA ** (torch.arange(0, half, 2) / half)
    strengths = torch.zeros(half // 2)
    strengths[: len(LOOK_STRENGTHS)] = torch.tensor(LOOK_STRENGTHS)[: half // 2]
    strengths = strengths.repeat(2)
    for index, block in enumerate(encoder.blocks):
        query, key = torch.zeros(2, config.num_heads, Dh)
        for head in range(config.num_heads):
            look = (head + index * config.num_heads) % len(FIRST_LOOKS)
            if look == FREE_HEAD:
                continue
            down, right = FIRST_LOOKS[look]
            angles = torch.cat([down * inverse, right * inverse])
            key[head, :half] = strengths
            query[head] = torch.cat([strengths * angles.cos(), strengths * angles.sin()])
        d = config.hidden_size
        block.attn.qkv.bias.data[: 2 * d] = torch.cat([query.flatten(), key.flatten()])
        block.attn.qkv.weight.data[: 2 * d] *= 0.5
