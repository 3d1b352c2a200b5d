"""The reference and our network with the same weights, read from a checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.weights.load import load_model
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import Prompt, Shape, reference_model, reference_positions


@dataclass(frozen=True)
class Pair:
    """Both models are frozen and shared by all tests: copy one before changing it."""

    shape: Shape
    reference: PreTrainedModel
    ours: Qwen35
    folder: Path  # the whole checkpoint

    def positions(self, prompt: Prompt) -> Tensor:
        return reference_positions(self.reference, prompt)


def write_and_read(shape: Shape, folder: Path, reference: PreTrainedModel | None = None) -> Pair:
    """Save the reference model of `shape`, or the one given, and read it back as ours."""
    reference = reference or reference_model(shape)
    write_checkpoint(folder, reference, shape)
    config = ModelConfig.from_folder(folder)
    return Pair(shape, reference, load_model(folder, config, device="cpu", dtype=torch.float32), folder)
