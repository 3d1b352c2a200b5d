"""What a checkpoint's config.json says, as frozen dataclasses.

Values come from the file. A missing one is an error that names the key and the file; the few
derivations below are those that the format itself defines (`layer_types` from
`full_attention_interval`, the places of the rope values), never a default of ours.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwen35.errors import CheckpointError

LayerType = Literal["linear_attention", "full_attention"]

DENSE_ARCHITECTURES = ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM")
MOE_ARCHITECTURES = ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM")
ARCHITECTURES = DENSE_ARCHITECTURES + MOE_ARCHITECTURES


class _Section:
    """One JSON object of the file: every read names the key and the file when it fails."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def get(self, key: str, kind: type) -> Any:
        if self.values.get(key) is None:
            raise CheckpointError(f"{self.where}: the key '{key}' is missing. The checkpoint is incomplete.")
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise CheckpointError(f"{self.where}: '{key}' is {value!r}, expected {kind.__name__}.")
        return value

    def require(self, key: str, allowed: tuple[Any, ...], default: Any) -> None:
        """Refuse a value that changes the mathematics into something not implemented."""
        value = self.values.get(key, default)
        if value not in allowed:
            raise CheckpointError(f"{self.where}: '{key}' is {value!r}; supported: {allowed}.")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding on the first `partial_rotary_factor` of each head, three interleaved axes."""

    theta: float
    partial_rotary_factor: float
    mrope_section: tuple[int, int, int]  # frequencies per axis (time, height, width)
    yarn_factor: float | None = None  # static YaRN; None: plain frequencies
    yarn_original_context: int | None = None

    @classmethod
    def from_section(cls, section: _Section) -> "RopeConfig":
        values = section.values
        rope = values.get("rope_parameters") or values.get("rope_scaling")
        if not isinstance(rope, dict):
            raise CheckpointError(f"{section.where}: the key 'rope_parameters' is missing.")
        # Older files keep theta and the factor beside the rope object instead of in it.
        beside = ("rope_theta", "partial_rotary_factor")
        merged: dict[str, Any] = {key: values[key] for key in beside if key in values} | rope
        inner = _Section(merged, f"{section.where}, rope_parameters")
        inner.require("rope_type", ("default", "yarn"), merged.get("type", "default"))
        inner.require("mrope_interleaved", (True,), True)
        sections = inner.get("mrope_section", list)
        is_yarn = merged.get("rope_type", merged.get("type")) == "yarn"
        return cls(
            theta=inner.get("rope_theta", float),
            partial_rotary_factor=inner.get("partial_rotary_factor", float),
            mrope_section=(int(sections[0]), int(sections[1]), int(sections[2])),
            yarn_factor=inner.get("factor", float) if is_yarn else None,
            yarn_original_context=inner.get("original_max_position_embeddings", int) if is_yarn else None,
        )


@dataclass(frozen=True, slots=True)
class MoeConfig:
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int


@dataclass(frozen=True, slots=True)
class TextConfig:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    layer_types: tuple[LayerType, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    intermediate_size: int | None  # dense MLP; None where every layer is MoE
    moe: MoeConfig | None
    num_mtp_layers: int

    @property
    def conv_channels(self) -> int:
        """C: queries, keys and values of the linear attention side by side."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.rope.partial_rotary_factor)

    @classmethod
    def from_section(cls, section: _Section, is_moe: bool) -> "TextConfig":
        get = section.get
        section.require("hidden_act", ("silu",), "silu")
        section.require("attention_bias", (False,), False)
        section.require("attn_output_gate", (True,), True)
        section.require("output_gate_type", ("swish", "silu", None), None)
        section.require("norm_topk_prob", (True, None), None)
        num_layers = get("num_hidden_layers", int)
        layer_types = section.values.get("layer_types")
        if layer_types is None:
            interval = get("full_attention_interval", int)
            kinds = ("linear_attention", "full_attention")
            layer_types = [kinds[(i + 1) % interval == 0] for i in range(num_layers)]
        for kind in layer_types:
            if kind not in ("linear_attention", "full_attention"):
                raise CheckpointError(f"{section.where}: unknown layer type {kind!r} in 'layer_types'.")
        if len(layer_types) != num_layers:
            raise CheckpointError(
                f"{section.where}: 'layer_types' has {len(layer_types)} entries "
                f"but 'num_hidden_layers' is {num_layers}."
            )
        moe = None
        if is_moe:
            moe = MoeConfig(
                num_experts=get("num_experts", int),
                num_experts_per_tok=get("num_experts_per_tok", int),
                moe_intermediate_size=get("moe_intermediate_size", int),
                shared_expert_intermediate_size=get("shared_expert_intermediate_size", int),
            )
        config = cls(
            vocab_size=get("vocab_size", int),
            hidden_size=get("hidden_size", int),
            num_hidden_layers=num_layers,
            layer_types=tuple(layer_types),
            num_attention_heads=get("num_attention_heads", int),
            num_key_value_heads=get("num_key_value_heads", int),
            head_dim=get("head_dim", int),
            linear_num_key_heads=get("linear_num_key_heads", int),
            linear_num_value_heads=get("linear_num_value_heads", int),
            linear_key_head_dim=get("linear_key_head_dim", int),
            linear_value_head_dim=get("linear_value_head_dim", int),
            linear_conv_kernel_dim=get("linear_conv_kernel_dim", int),
            rms_norm_eps=get("rms_norm_eps", float),
            max_position_embeddings=get("max_position_embeddings", int),
            rope=RopeConfig.from_section(section),
            intermediate_size=None if is_moe else get("intermediate_size", int),
            moe=moe,
            num_mtp_layers=section.values.get("mtp_num_hidden_layers") or 0,
        )
        config._check(section.where)
        return config

    def _check(self, where: str) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(f"{where}: attention heads are not a multiple of key/value heads.")
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise CheckpointError(f"{where}: linear value heads are not a multiple of linear key heads.")
        if sum(self.rope.mrope_section) * 2 != self.rotary_dim:
            raise CheckpointError(
                f"{where}: 'mrope_section' {list(self.rope.mrope_section)} does not fill "
                f"the {self.rotary_dim} rotary dimensions."
            )
        if self.num_mtp_layers > 1:
            raise CheckpointError(f"{where}: {self.num_mtp_layers} MTP layers; supported: 0 or 1.")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int
    out_hidden_size: int

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch: channels x frames x rows x columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @classmethod
    def from_section(cls, section: _Section) -> "VisionConfig":
        section.require("hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
        section.require("deepstack_visual_indexes", ([], None), None)
        names = cls.__dataclass_fields__
        return cls(**{name: section.get(name, int) for name in names})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The whole model. `vision` is None for text-only re-saves."""

    architecture: str
    text: TextConfig
    vision: VisionConfig | None
    tie_word_embeddings: bool
    image_token_id: int | None
    video_token_id: int | None
    vision_start_token_id: int | None
    vision_end_token_id: int | None
    dtype: str  # of the stored weights, as the file says: "bfloat16", "float16", "float32"

    @property
    def is_moe(self) -> bool:
        return self.text.moe is not None

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "ModelConfig":
        """Read a parsed config.json; `where` names the file in errors. Raises CheckpointError."""
        top = _Section(values, where)
        architectures = values.get("architectures") or []
        name = architectures[0] if architectures else None
        if name not in ARCHITECTURES:
            raise CheckpointError(
                f"{where}: unknown architecture {name!r} (model_type {values.get('model_type')!r}). "
                f"Supported: {', '.join(ARCHITECTURES)}."
            )
        has_vision = name.endswith("ForConditionalGeneration")
        text_values = top.get("text_config", dict) if has_vision else values
        text = _Section(text_values, f"{where}, text_config" if has_vision else where)
        tied = values.get("tie_word_embeddings", text_values.get("tie_word_embeddings"))
        if tied is None:
            raise CheckpointError(f"{where}: the key 'tie_word_embeddings' is missing.")
        vision = None
        if has_vision:
            vision = VisionConfig.from_section(
                _Section(top.get("vision_config", dict), f"{where}, vision_config")
            )
        dtype = values.get("dtype") or values.get("torch_dtype") or text_values.get("dtype")
        dtype = dtype or text_values.get("torch_dtype")
        if dtype not in ("bfloat16", "float16", "float32"):
            raise CheckpointError(f"{where}: 'dtype' is {dtype!r}; supported: bfloat16, float16, float32.")

        def token(key: str) -> int | None:
            return int(top.get(key, int)) if has_vision else None

        config = cls(
            architecture=name,
            text=TextConfig.from_section(text, name in MOE_ARCHITECTURES),
            vision=vision,
            tie_word_embeddings=bool(tied),
            image_token_id=token("image_token_id"),
            video_token_id=token("video_token_id"),
            vision_start_token_id=token("vision_start_token_id"),
            vision_end_token_id=token("vision_end_token_id"),
            dtype=dtype,
        )
        if vision and vision.out_hidden_size != config.text.hidden_size:
            raise CheckpointError(
                f"{where}: vision 'out_hidden_size' {vision.out_hidden_size} differs from "
                f"text 'hidden_size' {config.text.hidden_size}."
            )
        return config

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        if folder.is_file():
            raise CheckpointError(
                f"{folder}: a GGUF file has to be packed first: qwen models pack {folder}", path=str(folder)
            )
        path = folder / "config.json"
        return cls.from_dict(read_json(path), str(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder. Raises CheckpointError that names the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file. Is this a model folder?", path=str(path)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).", path=str(path)) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object.", path=str(path))
    return values
