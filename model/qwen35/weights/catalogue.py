"""The family as it was published: short names, repositories, licences, and the shapes of the eight sizes.

From a shape follows all that a plan needs, so that one can be made without a network; the tables' numbers are
those of the files' config.json.
"""

from dataclasses import dataclass
from math import prod

from qwen35.config import LayerType, ModelConfig, MoeConfig, RopeConfig, TextConfig, VisionConfig
from qwen35.weights.shapes import parameter_shapes

CONTEXT = 262144
_LAYERS: tuple[LayerType, ...] = (
    "linear_attention",
    "linear_attention",
    "linear_attention",
    "full_attention",
)
_SMALL, _MIDDLE, _LARGE = (12, 768, 12, 3072), (24, 1024, 16, 4096), (27, 1152, 16, 4304)


@dataclass(frozen=True, slots=True)
class Size:
    """What tells the sizes apart. `mlp`: of the dense MLP, or of each expert."""

    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_value_heads: int  # of linear attention
    mlp: int
    vision: tuple[int, int, int, int]  # depth, hidden size, heads, MLP
    is_tied: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0

    @property
    def config(self) -> ModelConfig:
        """As config.json would give it."""
        moe = None
        if self.num_experts:
            moe = MoeConfig(self.num_experts, self.num_experts_per_tok, self.mlp, self.mlp)
        text = TextConfig(
            vocab_size=248320,
            hidden_size=self.hidden,
            num_hidden_layers=self.num_layers,
            layer_types=_LAYERS * (self.num_layers // 4),
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=256,
            linear_num_key_heads=16,
            linear_num_value_heads=self.num_value_heads,
            linear_key_head_dim=128,
            linear_value_head_dim=128,
            linear_conv_kernel_dim=4,
            rms_norm_eps=1e-6,
            max_position_embeddings=CONTEXT,
            rope=RopeConfig(10_000_000.0, 0.25, (11, 11, 10)),
            intermediate_size=None if moe else self.mlp,
            moe=moe,
            num_mtp_layers=1,
        )
        depth, hidden, heads, mlp = self.vision
        vision = VisionConfig(
            depth=depth,
            hidden_size=hidden,
            num_heads=heads,
            intermediate_size=mlp,
            in_channels=3,
            patch_size=16,
            temporal_patch_size=2,
            spatial_merge_size=2,
            num_position_embeddings=2304,
            out_hidden_size=self.hidden,
        )
        kind = "Qwen3_5MoeForConditionalGeneration" if moe else "Qwen3_5ForConditionalGeneration"
        ids = {"image_token_id": 248056, "video_token_id": 248057}
        ids |= {"vision_start_token_id": 248053, "vision_end_token_id": 248054}
        return ModelConfig(kind, text, vision, self.is_tied, dtype="bfloat16", **ids)

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, parameter_shapes(self.config).values()))


SIZES = {
    "0.8b": Size(1024, 24, 8, 2, 16, 3584, _SMALL, is_tied=True),
    "2b": Size(2048, 24, 8, 2, 16, 6144, _MIDDLE, is_tied=True),
    "4b": Size(2560, 32, 16, 4, 32, 9216, _MIDDLE, is_tied=True),
    "9b": Size(4096, 32, 16, 4, 32, 12288, _LARGE),
    "27b": Size(5120, 64, 24, 4, 48, 17408, _LARGE),
    "35b-a3b": Size(2048, 40, 16, 2, 32, 512, _LARGE, num_experts=256, num_experts_per_tok=8),
    "122b-a10b": Size(3072, 48, 32, 2, 64, 1024, _LARGE, num_experts=256, num_experts_per_tok=8),
    "397b-a17b": Size(4096, 60, 32, 2, 64, 1024, _LARGE, num_experts=512, num_experts_per_tok=10),
}


@dataclass(frozen=True, slots=True)
class Release:
    """A published repository. `size` is a key of SIZES; `form` what its weights are in."""

    alias: str
    repo: str
    size: str
    form: str = "bf16"
    license: str = "apache-2.0"

    @property
    def download_bytes(self) -> int | None:
        """Of the weights; None where only the files tell."""
        return 2 * SIZES[self.size].num_parameters if self.form == "bf16" else None


def _official(size: str) -> str:
    number, _, active = size.partition("-")
    return number.upper() + (f"-{active.upper()}" if active else "")


RELEASES = (
    *(Release(size, f"Qwen/Qwen3.5-{_official(size)}", size) for size in SIZES),
    Release("3.6-27b", "Qwen/Qwen3.6-27B", "27b"),
    Release("3.6-35b-a3b", "Qwen/Qwen3.6-35B-A3B", "35b-a3b"),
    Release("3.8-27b", "Qwen/Qwen3.8-27B", "27b"),
    *(
        Release(f"{size}-base", f"Qwen/Qwen3.5-{_official(size)}-Base", size)
        for size in ("0.8b", "2b", "4b", "9b")
    ),
    *(
        Release(f"{size}-{form.lower()}", f"Qwen/Qwen3.5-{_official(size)}-{form}", size, form)
        for size in ("27b", "35b-a3b", "122b-a10b", "397b-a17b")
        for form in ("FP8", "GPTQ-Int4")
    ),
)


def find_release(name: str) -> Release | None:
    """By alias or repository, whatever the case."""
    return next((own for own in RELEASES if name.lower() in (own.alias, own.repo.lower())), None)
