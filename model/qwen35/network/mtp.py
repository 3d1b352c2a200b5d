"""Multi-token prediction: one more layer that guesses the token after the next.

It sees the main model's output at position t and the token t + 1, and drafts token t + 2. A wrong
draft costs time, never truth: the main model checks it.
"""

import torch
from torch import Tensor, nn

from qwen35.config import TextConfig
from qwen35.network.attention import KeyValues, attention_mask
from qwen35.network.norm import RMSNorm
from qwen35.network.rope import rotary_tables
from qwen35.network.text import DecoderLayer


class MTP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        D, eps = config.hidden_size, config.rms_norm_eps
        self.pre_fc_norm_embedding = RMSNorm(D, eps)
        self.pre_fc_norm_hidden = RMSNorm(D, eps)
        self.fc = nn.Linear(2 * D, D, bias=False)
        self.layers = nn.ModuleList([DecoderLayer(config, "full_attention")])
        self.norm = RMSNorm(D, eps)

    def forward(
        self, next_embeds: Tensor, hidden: Tensor, position_ids: Tensor, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Hidden states (B, T, D) from which the main head drafts token t + 2.

        `hidden` (B, T, D) is the main model's output after its final norm at t, or this module's own
        output when drafting further; `next_embeds` (B, T, D) embeds token t + 1, `position_ids`
        (3, B, T) are those of token t + 1. Also returns this step's keys and values.
        """
        config = self.config
        halves = [self.pre_fc_norm_embedding(next_embeds), self.pre_fc_norm_hidden(hidden)]
        x = self.fc(torch.cat(halves, dim=-1))
        rotary = rotary_tables(position_ids, config.rope, config.rotary_dim, x.dtype)
        num_past = 0 if past is None else past.k.shape[2]
        mask = attention_mask(x.shape[1], num_past, None, x.device)
        x, left = self.layers[0](x, rotary, past, mask, None)
        return self.norm(x), left
