"""What a model folder holds beside the weights, made of a GGUF file's metadata: config, tokenizer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.header import AGAIN
from qwen35.weights.sources.gguf_file import GgufHeader

# How text is cut into words before bytes are merged, by the name that the files give it.
WORDS = {
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # kinds of tokens that no merging makes
_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")
# The family's, for a file that names none.
_SAMPLING = {"temperature": 1.0, "top_k": 20, "top_p": 0.95}
_SAMPLING_KEYS = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_CLIP_MEAN = 0.48145466  # which converters write where the model's own settings were not there
_MIN_TOKENS, _MAX_TOKENS = 64, 16384  # of a picture, the official bounds

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`contents` makes the small files anew at each call: a vocabulary is long."""

    config: ModelConfig
    contents: Callable[[], dict[str, bytes]]
    num_layers: int  # the draft layer not counted
    notes: tuple[str, ...]


def model_files(header: GgufHeader, mmproj: GgufHeader | None) -> ModelFiles:
    """Raises CheckpointError for metadata that is missing, or that nothing here implements."""
    text = _text_config(header)
    dtype = "bfloat16"
    is_tied = "output.weight" not in header.tensors
    moe = "Moe" if "num_experts" in text else ""
    if mmproj:
        values: Values = {
            "architectures": [f"Qwen3_5{moe}ForConditionalGeneration"],
            "model_type": "qwen3_5_moe" if moe else "qwen3_5",
            "dtype": dtype,
            "tie_word_embeddings": is_tied,
            **{key: _token_id(header, token) for key, token in _TOKEN_IDS.items()},
            "text_config": text,
            "vision_config": _vision_config(mmproj, text["hidden_size"]),
        }
    else:
        values = {
            "architectures": [f"Qwen3_5{moe}ForCausalLM"],
            **text,
            "dtype": dtype,
            "tie_word_embeddings": is_tied,
        }
    notes = []
    if mmproj is None:
        notes.append(f"{header.path.name}: no mmproj file beside it; packed for text alone")
    if not header.metadata.get("tokenizer.chat_template"):
        notes.append(f"{header.path.name}: no chat template: prompts are completed as they are")
    config = ModelConfig.from_dict(values, str(header.path))
    _check_tokenizer(header)
    return ModelFiles(
        config, lambda: _contents(header, mmproj, values), text["num_hidden_layers"], tuple(notes)
    )


def _contents(header: GgufHeader, mmproj: GgufHeader | None, config: Values) -> dict[str, bytes]:
    files = {
        "config.json": _json(config),
        "generation_config.json": _json(_generation_config(header)),
        "tokenizer.json": _json(tokenizer_of(header)),
        "tokenizer_config.json": _json(_tokenizer_config(header)),
    }
    if template := header.metadata.get("tokenizer.chat_template"):
        files["chat_template.jinja"] = str(template).encode()
    if mmproj:
        files["preprocessor_config.json"] = _json(_preprocessor_config(mmproj))
    return files


def _json(values: Values) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode()


def _text_config(header: GgufHeader) -> Values:
    name = header.metadata["general.architecture"]

    def get(key: str, kind: type = int) -> Any:
        return header.get(f"{name}.{key}", kind)

    num_draft = header.metadata.get(f"{name}.nextn_predict_layers", 0)
    num_layers = get("block_count") - num_draft
    value_heads, head_dim = get("ssm.time_step_rank"), get("attention.key_length")
    if get("attention.value_length") != head_dim:
        raise CheckpointError(f"{header.path}: keys and values of different lengths are not supported.")
    sections = get("rope.dimension_sections", list)
    config: Values = {
        "model_type": "qwen3_5_moe_text" if name == "qwen35moe" else "qwen3_5_text",
        "vocab_size": header.tensors["token_embd.weight"].shape[0]
        if "token_embd.weight" in header.tensors
        else 0,
        "hidden_size": get("embedding_length"),
        "num_hidden_layers": num_layers,
        "layer_types": [_layer_type(header, index) for index in range(num_layers)],
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": head_dim,
        "attention_bias": False,
        "attn_output_gate": True,
        "linear_num_key_heads": get("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": get("ssm.state_size"),
        "linear_value_head_dim": get("ssm.inner_size") // value_heads,
        "linear_conv_kernel_dim": get("ssm.conv_kernel"),
        "mamba_ssm_dtype": "float32",
        "hidden_act": "silu",
        "rms_norm_eps": _rounded(get("attention.layer_norm_rms_epsilon", float)),
        "max_position_embeddings": get("context_length"),
        "mtp_num_hidden_layers": num_draft,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": get("rope.freq_base", float),
            "partial_rotary_factor": get("rope.dimension_count") / head_dim,
            "mrope_section": sections[:3],
            "mrope_interleaved": True,
        },
    }
    if header.metadata.get(f"{name}.rope.scaling.type", "none") != "none":
        config["rope_parameters"] |= {
            "rope_type": get("rope.scaling.type", str),
            "factor": get("rope.scaling.factor", float),
            "original_max_position_embeddings": get("rope.scaling.original_context_length"),
        }
    if name == "qwen35moe":
        config |= {
            "num_experts": get("expert_count"),
            "num_experts_per_tok": get("expert_used_count"),
            "moe_intermediate_size": get("expert_feed_forward_length"),
            "shared_expert_intermediate_size": get("expert_shared_feed_forward_length"),
        }
    else:
        config["intermediate_size"] = get("feed_forward_length")
    return config


def _layer_type(header: GgufHeader, index: int) -> str:
    return "linear_attention" if f"blk.{index}.ssm_a" in header.tensors else "full_attention"


def _rounded(number: float) -> float:
    """The decimal number that a float32 was written as."""
    return float(str(np.float32(number)))


def _vision_config(header: GgufHeader, hidden_size: int) -> Values:
    positions, patches = (
        header.tensors.get("v.position_embd.weight"),
        header.tensors.get("v.patch_embd.weight"),
    )
    if positions is None or patches is None or "v.patch_embd.weight.1" not in header.tensors:
        raise CheckpointError(
            f"{header.path}: lacks 'v.position_embd.weight', or one of the two of 'v.patch_embd.weight'. "
            "Download the mmproj file again.",
            path=str(header.path),
        )

    def get(key: str) -> int:
        return int(header.get(f"clip.vision.{key}", int))

    if any(header.metadata.get("clip.vision.is_deepstack_layers", [])):
        raise CheckpointError(
            f"{header.path}: of a model with deepstack layers, which Qwen3.5 has none of.",
            path=str(header.path),
        )
    return {
        "model_type": "qwen3_5",
        "depth": get("block_count"),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_heads": get("attention.head_count"),
        "in_channels": patches.shape[1],
        "patch_size": get("patch_size"),
        "temporal_patch_size": 2,
        "spatial_merge_size": get("spatial_merge_size"),
        "num_position_embeddings": positions.shape[0],
        "out_hidden_size": hidden_size,
        "hidden_act": "gelu_pytorch_tanh",
        "deepstack_visual_indexes": [],
    }


def _preprocessor_config(header: GgufHeader) -> Values:
    metadata = header.metadata
    patch, merge = metadata["clip.vision.patch_size"], metadata["clip.vision.spatial_merge_size"]
    area = (patch * merge) ** 2  # pixels of a token
    mean = [_rounded(value) for value in metadata.get("clip.vision.image_mean", [])]
    std = [_rounded(value) for value in metadata.get("clip.vision.image_std", [])]
    if not mean or not std or mean[0] == _CLIP_MEAN:
        mean = std = [0.5, 0.5, 0.5]
    return {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {
            "shortest_edge": metadata.get("clip.vision.image_min_pixels", _MIN_TOKENS * area),
            "longest_edge": metadata.get("clip.vision.image_max_pixels", _MAX_TOKENS * area),
        },
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": 2,
        "image_mean": mean,
        "image_std": std,
    }


def _generation_config(header: GgufHeader) -> Values:
    tokens = _tokens(header)
    ends = [header.metadata.get("tokenizer.ggml.eos_token_id")]
    ends += [tokens.index(token) for token in _END_TOKENS if token in tokens]
    given = {
        name: header.metadata[f"general.sampling.{key}"]
        for name, key in _SAMPLING_KEYS.items()
        if f"general.sampling.{key}" in header.metadata
    }
    sampling = {name: _rounded(value) if isinstance(value, float) else value for name, value in given.items()}
    values: Values = {"do_sample": True, **(sampling or _SAMPLING)}
    values["eos_token_id"] = list(dict.fromkeys(end for end in ends if end is not None))
    if values.get("temperature") == 0:
        values = {"do_sample": False, "eos_token_id": values["eos_token_id"]}
    return values


def _check_tokenizer(header: GgufHeader) -> None:
    kind, words = header.get("tokenizer.ggml.model", str), header.get("tokenizer.ggml.pre", str)
    if kind != "gpt2" or words not in WORDS:
        raise CheckpointError(
            f"{header.path}: its tokenizer is {kind!r} with {words!r}; supported: 'gpt2' with "
            f"{', '.join(WORDS)}.",
            path=str(header.path),
        )
    kinds = header.get("tokenizer.ggml.token_type", list)
    if len(kinds) != len(_tokens(header)):
        raise CheckpointError(
            f"{header.path}: {len(_tokens(header))} tokens and {len(kinds)} kinds of them. {AGAIN}",
            path=str(header.path),
        )


def tokenizer_of(header: GgufHeader) -> Values:
    """tokenizer.json, of the vocabulary, its kinds and merges."""
    tokens, kinds = _tokens(header), header.metadata["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    words = WORDS[header.metadata["tokenizer.ggml.pre"]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": kinds[i] == _CONTROL}
            for i, token in enumerate(tokens)
            if kinds[i] in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {
                token: i
                for i, token in enumerate(tokens)
                if kinds[i] not in (_CONTROL, _USER_DEFINED, _UNUSED)
            },
            "merges": [merge.split(" ", 1) for merge in header.metadata.get("tokenizer.ggml.merges", [])],
        },
    }


def _tokenizer_config(header: GgufHeader) -> Values:
    tokens, metadata = _tokens(header), header.metadata

    def named(key: str) -> str | None:
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[token_id] if isinstance(token_id, int) and 0 <= token_id < len(tokens) else None

    name = metadata["general.architecture"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": named("eos"),
        "pad_token": named("padding"),
        "model_max_length": metadata[f"{name}.context_length"],
    }


def _token_id(header: GgufHeader, token: str) -> int:
    try:
        return _tokens(header).index(token)
    except ValueError:
        raise CheckpointError(
            f"{header.path}: its vocabulary lacks {token!r}, which pictures need. Move the mmproj file away "
            "to pack the text model alone.",
            path=str(header.path),
        ) from None


def _tokens(header: GgufHeader) -> list[str]:
    tokens: list[str] = header.get("tokenizer.ggml.tokens", list)
    return tokens
