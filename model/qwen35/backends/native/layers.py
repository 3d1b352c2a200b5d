"""A packed model's weights as the library's structs: addresses and shapes, built when first used.

So the first prefill follows behind the reader of the weights, layer by layer.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.library import (
    After,
    Attention,
    Linear,
    Matrix,
    Mlp,
    Moe,
    Vision,
    VisionBlock,
)
from qwen35.config import ModelConfig, TextConfig

LAYER_NORM_EPS = 1e-6  # of the vision encoder

Pointer: TypeAlias = object  # what ctypes.byref gives: it holds its struct
pointer = ctypes.byref


class Weights(Protocol):
    """What `weights.packed.PackedModel` offers. Names are our parameters' (no leading `model.`)."""

    config: ModelConfig

    def wait_for(self, prefix: str) -> None:
        """Return when all that is named so is in memory."""
        ...

    def matrix(self, name: str) -> tuple[int, str, int, int]:
        """Address, format, N and K."""
        ...

    def vector(self, name: str) -> NDArray[np.float32]: ...

    def experts(self, layer: int | str) -> tuple[int, int]:
        """Address of expert 0's record, bytes to the next one; `layer`: an index, or "mtp.layers.0"."""
        ...

    def expert_format(self, layer: int | str) -> str: ...

    def close(self) -> None: ...


# Drafts are looked for among the first tokens of a vocabulary: a BPE's merges are in order of frequency, and
# reading the whole head, of a small model a third of all weights, would cost more than drafts bring.
DRAFT_TOKENS = 32768


@dataclass(frozen=True, slots=True, eq=False)
class MtpLayers:
    """The MTP module: `layer` between what joins its two inputs and what drafts."""

    norm_embedding: NDArray[np.float32]  # (D,), as stored: applied as 1 + w
    norm_hidden: NDArray[np.float32]
    fc: Pointer  # (D, 2 D)
    layer: "Layer"
    norm: NDArray[np.float32]
    head: Pointer  # (at most DRAFT_TOKENS, D)
    num_drafted: int  # its rows


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder layer; `mixer`, `after` and `mlp` are pointers, ready to be passed on."""

    is_linear: bool  # else full attention
    mixer: Pointer
    after: Pointer  # a part of the mixer: its norm and router
    mlp: Pointer
    records: int | None  # address of the addresses (E) of the experts; None: a dense MLP


class Layers:
    """All layers and both ends of the text model, and the vision encoder where there is one.

    Keeps alive the arrays that were made for the library; the weights themselves belong to `weights`.
    """

    def __init__(self, weights: Weights, expert_tables: Sequence[NDArray[np.uintp]] | None = None) -> None:
        """`expert_tables`: by layer, where its experts (E) are; None: `weights` holds them all."""
        self._weights = weights
        self._expert_tables = expert_tables
        self._kept: list[object] = [weights]
        _check_sizes(weights.config)
        self._layers: list[Layer] = []

    @cached_property
    def embedding(self) -> Pointer:
        return self._whole("language_model.embed_tokens.weight")

    @cached_property
    def head(self) -> Pointer:
        tied = self._weights.config.tie_word_embeddings
        return self.embedding if tied else self._whole("lm_head.weight")

    @cached_property
    def norm(self) -> int:
        return self._vector("language_model.norm.weight")

    def layer(self, index: int) -> Layer:
        while index >= len(self._layers):
            self._layers.append(self._layer(self._weights.config.text, len(self._layers)))
        return self._layers[index]

    @cached_property
    def final_norm(self) -> NDArray[np.float32]:
        """(D,), as stored."""
        self._weights.wait_for("language_model.norm.weight")
        return self._floats("language_model.norm.weight")

    @cached_property
    def mtp(self) -> MtpLayers | None:
        """None where the model has none."""
        config = self._weights.config
        if not config.text.num_mtp_layers:
            return None
        self._weights.wait_for("mtp.")
        tied = config.tie_word_embeddings
        name = "language_model.embed_tokens.weight" if tied else "lm_head.weight"
        self._weights.wait_for(name)
        address, format_name, n, k = self._weights.matrix(name)
        num_drafted = min(n, DRAFT_TOKENS)
        layer = self._attention_layer(config.text, "mtp.layers.0.", "mtp.layers.0")
        return MtpLayers(
            self._floats("mtp.pre_fc_norm_embedding.weight"),
            self._floats("mtp.pre_fc_norm_hidden.weight"),
            pointer(self._matrix("mtp.fc.weight")),
            layer,
            self._floats("mtp.norm.weight"),
            pointer(Matrix.of(address, format_name, num_drafted, k)),
            num_drafted,
        )

    @cached_property
    def vision(self) -> Pointer:
        self._weights.wait_for("visual.")
        return pointer(self._vision())

    @cached_property
    def vision_positions(self) -> NDArray[np.float32]:
        return self._floats("visual.pos_embed.weight")

    def _whole(self, name: str) -> Pointer:
        self._weights.wait_for(name)
        return pointer(self._matrix(name))

    def _matrix(self, name: str, *, needs_tiles: bool = False) -> Matrix:
        address, format_name, n, k = self._weights.matrix(name)
        assert not needs_tiles or format_name != "f32", f"{name}: its inputs come quantised"
        return Matrix.of(address, format_name, n, k)

    def _floats(self, name: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._weights.vector(name), np.float32)

    def _keep(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def _vector(self, name: str) -> int:
        return self._keep(self._floats(name))

    def _layer(self, text: TextConfig, index: int) -> Layer:
        prefix = f"language_model.layers.{index}."
        self._weights.wait_for(prefix)
        is_linear = text.layer_types[index] == "linear_attention"
        mixer = self._linear(text, prefix) if is_linear else self._attention(text, prefix)
        tables = self._expert_tables
        return self._with_mlp(
            text, is_linear, mixer, prefix, index, None if tables is None else tables[index]
        )

    def _attention_layer(self, text: TextConfig, prefix: str, experts: str) -> Layer:
        """One beside the main model's. `experts`: the name of its experts."""
        return self._with_mlp(text, False, self._attention(text, prefix), prefix, experts, None)

    def _with_mlp(
        self,
        text: TextConfig,
        is_linear: bool,
        mixer: Linear | Attention,
        prefix: str,
        experts: int | str,
        records: NDArray[np.uintp] | None,
    ) -> Layer:
        """`records`: where its experts are; None: `weights` holds them."""
        pointers = pointer(mixer), pointer(mixer.after)
        if text.moe is None:
            return Layer(is_linear, *pointers, pointer(self._mlp(prefix + "mlp.")), None)
        D, size, moe = text.hidden_size, text.moe.moe_intermediate_size, text.moe
        format_name = self._weights.expert_format(experts)
        mlp = Moe(
            self._mlp(prefix + "mlp.shared_expert."),
            self._matrix(prefix + "mlp.shared_expert_gate.weight"),
            Matrix.of(None, format_name, size, D),
            Matrix.of(None, format_name, size, D),
            Matrix.of(None, format_name, D, size),
            moe.num_experts,
            moe.num_experts_per_tok,
        )
        if records is None:
            address, stride = self._weights.experts(experts)
            records = np.arange(moe.num_experts, dtype=np.uintp) * np.uintp(stride) + np.uintp(address)
        return Layer(is_linear, *pointers, pointer(mlp), self._keep(records))

    def _after(self, text: TextConfig, prefix: str) -> After:
        norm = self._vector(prefix + "post_attention_layernorm.weight")
        if text.moe is None:
            return After(norm, Matrix(), 0, 0)
        return After(norm, self._matrix(prefix + "mlp.gate.weight"), text.moe.num_experts_per_tok, 0)

    def _linear(self, text: TextConfig, prefix: str) -> Linear:
        at = prefix + "linear_attn."
        conv = self._floats(at + "conv1d.weight")  # (C, 1, W)
        return Linear(
            text.hidden_size,
            text.linear_num_key_heads,
            text.linear_num_value_heads,
            text.linear_key_head_dim,
            text.linear_value_head_dim,
            text.linear_conv_kernel_dim,
            text.rms_norm_eps,
            0,
            self._vector(prefix + "input_layernorm.weight"),
            self._matrix(at + "in_proj_qkv.weight"),
            self._matrix(at + "in_proj_z.weight"),
            self._matrix(at + "in_proj_b.weight"),
            self._matrix(at + "in_proj_a.weight"),
            self._matrix(at + "out_proj.weight"),
            self._keep(np.ascontiguousarray(conv.reshape(conv.shape[0], -1).T)),  # (W, C)
            self._keep(-np.exp(self._floats(at + "A_log"))),
            self._vector(at + "dt_bias"),
            self._vector(at + "norm.weight"),
            self._after(text, prefix),
        )

    def _attention(self, text: TextConfig, prefix: str) -> Attention:
        at = prefix + "self_attn."
        return Attention(
            text.hidden_size,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.head_dim,
            text.rotary_dim,
            text.rms_norm_eps,
            self._vector(prefix + "input_layernorm.weight"),
            self._matrix(at + "q_proj.weight"),
            self._matrix(at + "k_proj.weight"),
            self._matrix(at + "v_proj.weight"),
            self._matrix(at + "o_proj.weight"),
            self._vector(at + "q_norm.weight"),
            self._vector(at + "k_norm.weight"),
            self._after(text, prefix),
        )

    def _mlp(self, prefix: str) -> Mlp:
        return Mlp(
            self._matrix(prefix + "gate_proj.weight"),
            self._matrix(prefix + "up_proj.weight"),
            self._matrix(prefix + "down_proj.weight", needs_tiles=True),
        )

    def _vision(self) -> Vision:
        config = self._weights.config.vision
        assert config is not None
        blocks = (VisionBlock * config.depth)(*(self._vision_block(i) for i in range(config.depth)))
        self._kept.append(blocks)
        return Vision(
            config.depth,
            config.hidden_size,
            config.num_heads,
            config.spatial_merge_size**2,
            LAYER_NORM_EPS,
            0,
            self._matrix("visual.patch_embed.proj.weight", needs_tiles=True),
            self._vector("visual.patch_embed.proj.bias"),
            blocks,
            self._vector("visual.merger.norm.weight"),
            self._vector("visual.merger.norm.bias"),
            self._matrix("visual.merger.linear_fc1.weight", needs_tiles=True),
            self._matrix("visual.merger.linear_fc2.weight", needs_tiles=True),
            self._vector("visual.merger.linear_fc1.bias"),
            self._vector("visual.merger.linear_fc2.bias"),
        )

    def _vision_block(self, index: int) -> VisionBlock:
        at = f"visual.blocks.{index}."
        matrices = ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
        return VisionBlock(
            *(
                self._vector(f"{at}{norm}.{part}")
                for norm in ("norm1", "norm2")
                for part in ("weight", "bias")
            ),
            *(self._matrix(f"{at}{name}.weight", needs_tiles=True) for name in matrices),
            *(self._vector(f"{at}{name}.bias") for name in matrices),
        )


def _check_sizes(config: ModelConfig) -> None:
    """What the kernels keep in arrays of a fixed size; every released model fits."""
    text, vision = config.text, config.vision
    assert text.linear_key_head_dim <= 256
    assert text.linear_conv_kernel_dim <= 8
    assert vision is None or vision.hidden_size // vision.num_heads <= 512
