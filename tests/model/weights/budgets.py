"""The least memory that a plan of the torch path takes: found by asking, not by its own arithmetic."""

from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.placement_torch import place_torch


def least_ram(config: ModelConfig, dtype: str) -> int:
    """Bytes."""
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high) // 2
        try:
            place_torch(config, dtype, ram=middle)
            high = middle
        except DoesNotFit:
            low = middle + 1
    return low
