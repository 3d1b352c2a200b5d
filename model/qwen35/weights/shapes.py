"""Every parameter's name and shape as config.json implies them, in the order in which a pass uses them.

What `network` builds, told without torch; a test holds the two together.
"""

from collections.abc import Iterator

from qwen35.config import LayerType, ModelConfig, TextConfig, VisionConfig

Shapes = dict[str, tuple[int, ...]]
_Named = Iterator[tuple[str, tuple[int, ...]]]


def parameter_shapes(config: ModelConfig) -> Shapes:
    """Our names (the checkpoint's without `model.`); experts fused, no head where it is the embedding."""
    text = config.text
    shapes: Shapes = {"language_model.embed_tokens.weight": (text.vocab_size, text.hidden_size)}
    for index, kind in enumerate(text.layer_types):
        shapes |= _within(f"language_model.layers.{index}", _layer(text, kind))
    shapes["language_model.norm.weight"] = (text.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (text.vocab_size, text.hidden_size)
    if text.num_mtp_layers:
        shapes |= _within("mtp", _mtp(text))
    if config.vision:
        shapes |= _within("visual", _vision(config.vision))
    return shapes


def _within(prefix: str, named: _Named) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in named}


def _layer(text: TextConfig, kind: LayerType) -> _Named:
    D = text.hidden_size
    yield "input_layernorm.weight", (D,)
    yield from (_linear_attention if kind == "linear_attention" else _attention)(text)
    yield "post_attention_layernorm.weight", (D,)
    yield from _mlp(text)


def _linear_attention(text: TextConfig) -> _Named:
    D, C, heads = text.hidden_size, text.conv_channels, text.linear_num_value_heads
    values = heads * text.linear_value_head_dim
    yield "linear_attn.in_proj_qkv.weight", (C, D)
    yield "linear_attn.in_proj_z.weight", (values, D)
    yield "linear_attn.in_proj_b.weight", (heads, D)
    yield "linear_attn.in_proj_a.weight", (heads, D)
    yield "linear_attn.conv1d.weight", (C, 1, text.linear_conv_kernel_dim)
    yield "linear_attn.A_log", (heads,)
    yield "linear_attn.dt_bias", (heads,)
    yield "linear_attn.norm.weight", (text.linear_value_head_dim,)
    yield "linear_attn.out_proj.weight", (D, values)


def _attention(text: TextConfig) -> _Named:
    D, Dh = text.hidden_size, text.head_dim
    queries, keys = text.num_attention_heads * Dh, text.num_key_value_heads * Dh
    yield "self_attn.q_proj.weight", (2 * queries, D)  # of each head the query, then its gate
    yield "self_attn.k_proj.weight", (keys, D)
    yield "self_attn.v_proj.weight", (keys, D)
    yield "self_attn.q_norm.weight", (Dh,)
    yield "self_attn.k_norm.weight", (Dh,)
    yield "self_attn.o_proj.weight", (D, queries)


def _mlp(text: TextConfig) -> _Named:
    D, moe = text.hidden_size, text.moe
    if moe is None:
        assert text.intermediate_size is not None
        yield from _gated("mlp", D, text.intermediate_size)
        return
    E, size = moe.num_experts, moe.moe_intermediate_size
    yield "mlp.gate.weight", (E, D)
    yield "mlp.experts.gate_up_proj", (E, 2 * size, D)
    yield "mlp.experts.down_proj", (E, D, size)
    yield from _gated("mlp.shared_expert", D, moe.shared_expert_intermediate_size)
    yield "mlp.shared_expert_gate.weight", (1, D)


def _gated(prefix: str, hidden_size: int, size: int) -> _Named:
    yield f"{prefix}.gate_proj.weight", (size, hidden_size)
    yield f"{prefix}.up_proj.weight", (size, hidden_size)
    yield f"{prefix}.down_proj.weight", (hidden_size, size)


def _mtp(text: TextConfig) -> _Named:
    D = text.hidden_size
    yield "pre_fc_norm_embedding.weight", (D,)
    yield "pre_fc_norm_hidden.weight", (D,)
    yield "fc.weight", (D, 2 * D)
    yield from _within("layers.0", _layer(text, "full_attention")).items()
    yield "norm.weight", (D,)


def _vision(vision: VisionConfig) -> _Named:
    d, side = vision.hidden_size, vision.patch_size
    block = d * vision.spatial_merge_size**2
    yield "patch_embed.proj.weight", (d, vision.in_channels, vision.temporal_patch_size, side, side)
    yield "patch_embed.proj.bias", (d,)
    yield "pos_embed.weight", (vision.num_position_embeddings, d)
    for index in range(vision.depth):
        yield from _within(f"blocks.{index}", _vision_block(d, vision.intermediate_size)).items()
    yield from _with_bias("merger.norm", (d,))
    yield from _with_bias("merger.linear_fc1", (block, block))
    yield from _with_bias("merger.linear_fc2", (vision.out_hidden_size, block))


def _vision_block(d: int, size: int) -> _Named:
    yield from _with_bias("norm1", (d,))
    yield from _with_bias("attn.qkv", (3 * d, d))
    yield from _with_bias("attn.proj", (d, d))
    yield from _with_bias("norm2", (d,))
    yield from _with_bias("mlp.linear_fc1", (size, d))
    yield from _with_bias("mlp.linear_fc2", (d, size))


def _with_bias(name: str, shape: tuple[int, ...]) -> _Named:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
