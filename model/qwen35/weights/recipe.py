"""Which parameter is packed in which format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from qwen35.weights.tiles import F32

Quant = Literal["q4", "q8"]
QUANTS: tuple[Quant, ...] = ("q4", "q8")

BULK = "bulk"  # stands for what --quant chooses

# Patterns on our names; the first that fits counts. Parameters that are no matrices are f32 anyway.
RULES = (
    # A rounding here changes which experts are chosen, and the tables are a thousandth of the model.
    ("*.mlp.gate.weight", F32),
    ("*.mlp.shared_expert_gate.weight", F32),
    # Four taps a channel, used in float32: no product for a kernel.
    ("*.conv1d.weight", F32),
    # Interpolated between rows in float32, never multiplied with a vector.
    ("visual.pos_embed.weight", F32),
    # They set decay and write strength, whose errors add up over a whole text; a few rows each.
    ("*.linear_attn.in_proj_[ab].weight", "q8"),
    # Every token goes in and out through them: 4 bits cost more here than anywhere else.
    ("language_model.embed_tokens.weight", "q8"),
    ("lm_head.weight", "q8"),
    # Small beside the text model, and errors in what is seen are not recovered later.
    ("visual.*", "q8"),
    # Experts, MLPs, attention and linear attention: nearly all of the weights.
    ("*", BULK),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """`kept`: formats of parameters that the rules do not decide, as their source has them in few bits."""

    quant: Quant
    kept: Mapping[str, str] = field(default_factory=dict)

    def format_of(self, name: str, shape: tuple[int, ...]) -> str:
        if len(shape) < 2:  # norms, biases, A_log, dt_bias
            return F32
        if name in self.kept:
            return self.kept[name]
        chosen = next(format_name for pattern, format_name in RULES if fnmatchcase(name, pattern))
        return self.quant if chosen == BULK else chosen
