"""The MTP module as the reference document describes it, out of the parts of `transformers`.

`transformers` itself ignores `mtp.*`. Here its decoder layer and its norms are joined by hand:
embedding half first, the hidden state taken after the final norm, rope positions of the next token.
"""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.model.reference import Shape, randomise


class ReferenceMtp(nn.Module):
    """Its parameters have the names of the checkpoint, less the leading `mtp.`."""

    def __init__(self, model: PreTrainedModel, shape: Shape) -> None:
        super().__init__()
        text = model.model.language_model
        size = text.config.hidden_size
        full_attention = text.config.layer_types.index("full_attention")
        self.fc = nn.Linear(2 * size, size, bias=False)
        self.pre_fc_norm_embedding = copy.deepcopy(text.norm)
        self.pre_fc_norm_hidden = copy.deepcopy(text.norm)
        self.layers = nn.ModuleList([copy.deepcopy(text.layers[full_attention])])
        self.norm = copy.deepcopy(text.norm)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.zeros_(parameter)
        randomise(self.named_parameters(), shape.seed + 1000)
        # Kept out of the module's own parameters: these belong to the main model.
        self._shared = (text.embed_tokens, text.rotary_emb, model.lm_head)

    def forward(self, next_ids: Tensor, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D) and draft logits; `position_ids` (3, B, T) are the next tokens'."""
        embed_tokens, rotary_emb, lm_head = self._shared
        embedding = self.pre_fc_norm_embedding(embed_tokens(next_ids))
        x = self.fc(torch.cat([embedding, self.pre_fc_norm_hidden(hidden)], dim=-1))
        x = self.layers[0](x, position_embeddings=rotary_emb(x, position_ids))
        x = self.norm(x)
        return x, lm_head(x)
