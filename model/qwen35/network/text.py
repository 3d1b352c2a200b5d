"""The decoder: layers of linear or full attention, each followed by an MLP."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from qwen35.config import LayerType, TextConfig
from qwen35.network.attention import GatedAttention, KeyValues, attention_mask
from qwen35.network.linear_attention import GatedDeltaNet, LinearState
from qwen35.network.moe import make_mlp
from qwen35.network.norm import RMSNorm
from qwen35.network.rope import rotary_tables

LayerPast = KeyValues | LinearState


@dataclass(frozen=True, slots=True)
class Past:
    """What came before this step, layer by layer.

    `lengths` (B,) counts each row's real keys where rows differ (right-padded to S); None: all S are.
    """

    layers: Sequence[LayerPast]
    lengths: Tensor | None = None


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, layer_type: LayerType) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if layer_type == "linear_attention":
            self.linear_attn = GatedDeltaNet(config)
        else:
            self.self_attn = GatedAttention(config)
        self.is_linear = layer_type == "linear_attention"
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = make_mlp(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        past: LayerPast | None,
        mask: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, LayerPast]:
        """One layer on `x` (B, T, D). Returns the new `x` and what it adds to or makes of its past."""
        h = self.input_layernorm(x)
        left: LayerPast
        if self.is_linear:
            assert past is None or isinstance(past, LinearState)
            mixed, left = self.linear_attn(h, past, lengths)
        else:
            assert past is None or isinstance(past, KeyValues)
            mixed, left = self.self_attn(h, rotary, past, mask)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), left


class TextModel(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, kind) for kind in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, position_ids: Tensor, past: Past | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[LayerPast]]:
        """Run embeddings `x` (B, T, D) at positions (3, B, T) after `past`.

        Rows are right-padded: `lengths` (B,) says how many of the T tokens are real (None: all).
        Returns the hidden states after the final norm (B, T, D), and for each layer what this step
        leaves: the KeyValues of these T tokens alone, or the LinearState after them.
        """
        config = self.config
        rotary = rotary_tables(position_ids, config.rope, config.rotary_dim, x.dtype)
        num_past, past_lengths = 0, None
        if past is not None:
            num_past = next((p.k.shape[2] for p in past.layers if isinstance(p, KeyValues)), 0)
            past_lengths = past.lengths
        mask = attention_mask(x.shape[1], num_past, past_lengths, x.device)
        left = []
        for index, layer in enumerate(self.layers):
            x, layer_left = layer(x, rotary, past.layers[index] if past else None, mask, lengths)
            left.append(layer_left)
        return self.norm(x), left
