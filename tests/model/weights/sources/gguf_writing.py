"""The built-in model as GGUF files, written by the gguf package from what the format's converter does."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from tests.model.weights.sources.mini import MINI, Arrays, Floats

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
MTP_NAMES = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head_norm",
}
TOP_NAMES = {
    "model.language_model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.language_model.norm.weight": "output_norm.weight",
}
VISION_NAMES = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}
VISION_TOP_NAMES = {
    "patch_embed.proj": "v.patch_embd",
    "pos_embed": "v.position_embd",
    "merger.norm": "v.post_ln",
    "merger.linear_fc1": "mm.0",
    "merger.linear_fc2": "mm.2",
}

# The type of a tensor (name and array there); its blocks and what they stand for.
Choose = Callable[[str, Floats], str]


def matrices_in(type_name: str, others: str = "F32") -> Choose:
    """Routers, small gates and the convolution are F32 always, as in published files."""
    plain = ("ssm_conv1d", "ffn_gate_inp", "ssm_alpha", "ssm_beta")

    def choose(name: str, array: Floats) -> str:
        values, _ = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
        if array.ndim < 2 or any(each in name for each in plain):
            return others
        return type_name if array.shape[-1] % values == 0 else "F16"

    return choose


def encode(array: Floats, type_name: str) -> tuple[NDArray[np.uint8], Floats]:
    """By the package's own quantiser and reader; K-quants, which it cannot write, are drawn at random."""
    kind = GGMLQuantizationType[type_name]
    if type_name.endswith("_K") or type_name == "IQ4_XS":
        blocks = random_blocks(array.shape, type_name)
    else:
        blocks = gguf.quants.quantize(np.ascontiguousarray(array), kind)
    return blocks, gguf.quants.dequantize(blocks, kind).reshape(array.shape)


# Where a block of 256 has its fp16 scales.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,)}


def random_blocks(shape: tuple[int, ...], type_name: str, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // values, size), dtype=np.uint8)
    for at in SCALES[type_name]:
        scales = rng.uniform(0.5e-4, 2e-4, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def tile_heads(array: Floats, axis: int, num_key_heads: int, ratio: int, begin: int = 0) -> Floats:
    """Value heads from the order of their key heads' to all first ones, all second ones, ..."""
    moved = np.moveaxis(array, axis, 0)
    heads = moved[begin:].reshape(num_key_heads, ratio, -1, *moved.shape[1:])
    tiled = np.concatenate([moved[:begin], heads.swapaxes(0, 1).reshape(moved[begin:].shape)])
    return np.ascontiguousarray(np.moveaxis(tiled, 0, axis))


def write_gguf(
    path: Path, arrays: Arrays, choose: Choose, folder: Path = MINI, **metadata: Any
) -> tuple[Path, Arrays]:
    """The text model of `arrays` (official names) with the config of `folder`; and what the file stands for.

    `metadata` adds keys, their dots written as double underscores.
    """
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    is_moe = "num_experts" in text
    writer = gguf.GGUFWriter(path, "qwen35moe" if is_moe else "qwen35")
    _write_config(writer, text, has_mtp=any(name.startswith("mtp.") for name in arrays))
    _write_vocabulary(writer, folder, text["vocab_size"])
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(key.replace("__", "."), value)
    key_heads, value_heads = text["linear_num_key_heads"], text["linear_num_value_heads"]
    heads = key_heads, value_heads // key_heads
    keys = 2 * key_heads * text["linear_key_head_dim"]
    expected: Arrays = {}
    for name, array in arrays.items():
        if name.startswith("model.visual."):
            continue
        prefix, rest = _layer(name, text["num_hidden_layers"])
        if rest.startswith("mlp.experts."):
            parts = (
                {"down": array}
                if rest.endswith("down_proj")
                else dict(zip(("gate", "up"), np.split(array, 2, axis=1), strict=True))
            )
            stands_for = [
                _add(writer, f"{prefix}ffn_{part}_exps.weight", matrix, choose)
                for part, matrix in parts.items()
            ]
            expected[name] = np.concatenate(stands_for, axis=1)
            continue
        undo: Callable[[Floats], Floats] = lambda values: values  # noqa: E731
        module, _, kind = rest.rpartition(".")
        there = f"{prefix}{LAYER_NAMES.get(module, module)}.{kind}"
        stored = array
        if name in TOP_NAMES:
            there = TOP_NAMES[name]
        elif rest == "linear_attn.A_log":
            there, stored = f"{prefix}ssm_a", tile_heads(-np.exp(array), 0, *heads)
            undo = lambda values: np.log(-untile(values, 0, heads))  # noqa: E731
        elif rest == "linear_attn.dt_bias":
            there, stored = f"{prefix}ssm_dt.bias", tile_heads(array, 0, *heads)
            undo = lambda values: untile(values, 0, heads)  # noqa: E731
        elif module in ("linear_attn.in_proj_qkv", "linear_attn.conv1d"):
            stored = tile_heads(array.squeeze(), 0, *heads, keys)
            shape = array.shape

            def undo(values: Floats, shape: tuple[int, ...] = shape) -> Floats:
                return untile(values, 0, heads, keys).reshape(shape)

        elif module in ("linear_attn.in_proj_z", "linear_attn.in_proj_a", "linear_attn.in_proj_b"):
            stored = tile_heads(array, 0, *heads)
            undo = lambda values: untile(values, 0, heads)  # noqa: E731
        elif module == "linear_attn.out_proj":
            stored = tile_heads(array, 1, *heads)
            undo = lambda values: untile(values, 1, heads)  # noqa: E731
        elif module == "mlp.shared_expert_gate":
            stored = array[0]
            undo = lambda values: values[None]  # noqa: E731
        if rest.endswith("norm.weight") and module != "linear_attn.norm":
            stored = array + 1
            undo = lambda values: values - np.float32(1)  # noqa: E731
        expected[name] = undo(_add(writer, there, stored, choose))
    _finish(writer)
    return path, expected


def untile(array: Floats, axis: int, heads: tuple[int, int], begin: int = 0) -> Floats:
    return tile_heads(array, axis, heads[1], heads[0], begin)


def write_mmproj(
    path: Path, arrays: Arrays, folder: Path = MINI, type_name: str = "F16"
) -> tuple[Path, Arrays]:
    """What sees, as a file of its own; and what the file stands for."""
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
    writer.add_vision_use_gelu(True)
    side = int(vision["num_position_embeddings"] ** 0.5)
    writer.add_vision_image_size(side * vision["patch_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_projection_dim(vision["out_hidden_size"])
    writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean(pictures["image_mean"])
    writer.add_vision_image_std(pictures["image_std"])
    writer.add_uint32("clip.vision.image_min_pixels", pictures["size"]["shortest_edge"])
    writer.add_uint32("clip.vision.image_max_pixels", pictures["size"]["longest_edge"])
    expected: Arrays = {}

    def choose(name: str, array: Floats) -> str:
        return type_name if array.ndim > 1 and "position" not in name else "F32"

    for name, array in arrays.items():
        if not name.startswith("model.visual."):
            continue
        module, _, kind = name.removeprefix("model.visual.").rpartition(".")
        if module == "patch_embed.proj" and kind == "weight":
            halves = [
                _add(writer, f"v.patch_embd.weight{ending}", np.ascontiguousarray(array[:, :, frame]), choose)
                for frame, ending in enumerate(("", ".1"))
            ]
            expected[name] = np.stack(halves, axis=2)
            continue
        if module.startswith("blocks."):
            _, index, inner = module.split(".", 2)
            there = f"v.blk.{index}.{VISION_NAMES[inner]}.{kind}"
        else:
            there = f"{VISION_TOP_NAMES[module]}.{kind}"
        expected[name] = _add(writer, there, array, choose)
    _finish(writer)
    return path, expected


def _layer(name: str, num_layers: int) -> tuple[str, str]:
    """The prefix there, and the rest of the official name."""
    if name.startswith("model.language_model.layers."):
        index, _, rest = name.removeprefix("model.language_model.layers.").partition(".")
        return f"blk.{index}.", rest
    if name.startswith("mtp.layers.0."):
        return f"blk.{num_layers}.", name.removeprefix("mtp.layers.0.")
    if name.startswith("mtp."):
        module = name.removeprefix("mtp.").removesuffix(".weight")
        return f"blk.{num_layers}.nextn.", f"{MTP_NAMES[module]}.weight"
    return "", name


def _add(writer: gguf.GGUFWriter, name: str, array: Floats, choose: Choose) -> Floats:
    type_name = choose(name, array)
    blocks, stands_for = encode(array, type_name)
    writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType[type_name])
    return stands_for


def _write_config(writer: gguf.GGUFWriter, text: Mapping[str, Any], *, has_mtp: bool) -> None:
    rope = text["rope_parameters"]
    writer.add_block_count(text["num_hidden_layers"] + has_mtp)
    if has_mtp:
        writer.add_uint32(f"{writer.arch}.nextn_predict_layers", 1)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(text["head_dim"] * rope["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    writer.add_ssm_conv_kernel(text["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(text["linear_key_head_dim"])
    writer.add_ssm_group_count(text["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(text["linear_num_value_heads"])
    writer.add_ssm_inner_size(text["linear_value_head_dim"] * text["linear_num_value_heads"])
    writer.add_full_attention_interval(4)
    if "num_experts" in text:
        writer.add_expert_count(text["num_experts"])
        writer.add_expert_used_count(text["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(text["moe_intermediate_size"])
        writer.add_expert_shared_feed_forward_length(text["shared_expert_intermediate_size"])
    else:
        writer.add_feed_forward_length(text["intermediate_size"])


def _write_vocabulary(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = {i: (token, gguf.TokenType.NORMAL) for token, i in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]] = added["content"], kind
    all_tokens = [tokens.get(i, (f"[PAD{i}]", gguf.TokenType.UNUSED)) for i in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen35")
    writer.add_token_list([token for token, _ in all_tokens])
    writer.add_token_types([kind for _, kind in all_tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    ids = {token: i for i, (token, _) in enumerate(all_tokens)}
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
