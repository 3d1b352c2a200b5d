"""The whole model: embed, put vision features in place, run the decoder, read the logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen35.config import ModelConfig
from qwen35.network.mtp import MTP
from qwen35.network.text import LayerPast, Past, TextModel
from qwen35.network.vision import VisionEncoder


class Qwen35(nn.Module):
    """Parameters carry the checkpoint's names without their leading `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.visual = VisionEncoder(config.vision) if config.vision else None
        self.language_model = TextModel(text)
        self.mtp = MTP(text) if text.num_mtp_layers else None
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        )

    def embed(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        """Token embeddings (B, T, D) of `ids` (B, T).

        `features` (M, D), from `visual`, overwrite the rows of image and video placeholders in
        order, row by row of the batch; as many as there are placeholders.
        """
        x = self.language_model.embed_tokens(ids)
        if features is None:
            return x
        media = torch.tensor([self.config.image_token_id, self.config.video_token_id], device=ids.device)
        return x.masked_scatter(torch.isin(ids, media)[..., None], features.to(x.dtype))

    def forward(
        self,
        ids: Tensor,
        position_ids: Tensor,
        features: Tensor | None = None,
        past: Past | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerPast]]:
        """Hidden states (B, T, D) after the final norm, and what each layer leaves (see TextModel)."""
        return self.language_model(self.embed(ids, features), position_ids, past, lengths)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (..., vocab_size), in the run's dtype."""
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return F.linear(hidden, self.language_model.embed_tokens.weight)
