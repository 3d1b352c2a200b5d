"""What weights that bitsandbytes rounded stand for."""

import copy

import torch
from torch import Tensor, nn

from qwen35.network.model import Qwen35
from qwen35.weights.bitsandbytes_linear import import_bitsandbytes
from qwen35.weights.placement_torch import TorchQuant, is_quantised


def stands_for(parameter: nn.Parameter, quant: TorchQuant) -> Tensor:
    """The numbers (N, K) that a rounded parameter is computed with."""
    if quant == "nf4":
        return import_bitsandbytes().functional.dequantize_4bit(parameter.data, parameter.quant_state)
    return parameter.data * parameter.SCB[:, None] / 127


def with_rounded_weights(exact: Qwen35, rounded: Qwen35, quant: TorchQuant) -> Qwen35:
    """A copy of `exact` with what the rounded weights of the other stand for; all others are the same."""
    meant = copy.deepcopy(exact)
    for name, parameter in rounded.named_parameters():
        expected = meant.get_parameter(name)
        if is_quantised(name):
            expected.copy_(stands_for(parameter, quant))
        else:
            assert torch.equal(parameter, expected), name
    return meant
