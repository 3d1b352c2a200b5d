"""Linear layers with weights in 4 or 8 bits, by bitsandbytes: for the plain path, on CUDA and on CPUs."""

import logging
from types import ModuleType

import torch
from torch import Tensor, nn

from qwen35.errors import DoesNotFit
from qwen35.weights.placement_torch import NF4_BLOCK, TorchQuant

PART = 1 << 16  # weights that are quantised at a time: bitsandbytes takes 20 bytes for each meanwhile
INT8_OUTLIER = 6.0  # inputs beyond it are multiplied unrounded, as the LLM.int8 paper has it


def import_bitsandbytes() -> ModuleType:
    """Raises DoesNotFit where it is missing or does not load."""
    try:
        import bitsandbytes
    except Exception as error:  # besides ImportError, whatever its native library makes of this machine
        raise DoesNotFit(
            f"--quant needs bitsandbytes, which cannot be loaded ({error}). Install it (pip install "
            "bitsandbytes), or pack the model instead: qwen models pack"
        ) from None
    # At every product it would say that it casts to float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return bitsandbytes


def numerics_of(quant: TorchQuant) -> str:
    """Names what the quantised layers compute, for cache keys."""
    return f"{quant} bitsandbytes {import_bitsandbytes().__version__}"


def quantised_linear(weight: Tensor, quant: TorchQuant, device: str | torch.device) -> nn.Module:
    """A layer with `weight` (N, K), which is on the CPU, quantised on `device`."""
    return (_nf4 if quant == "nf4" else _int8)(weight, device)


def _nf4(weight: Tensor, device: str | torch.device) -> nn.Module:
    bnb = import_bitsandbytes()
    values = weight.view(-1)
    count = values.numel()
    packed = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device=device)
    scales = torch.empty(-(-count // NF4_BLOCK), dtype=torch.float32, device=device)
    for first in range(0, count, PART):
        part, state = bnb.functional.quantize_4bit(
            values[first : first + PART].to(device), blocksize=NF4_BLOCK, quant_type="nf4"
        )
        packed[first // 2 :][: len(part)] = part
        scales[first // NF4_BLOCK :][: len(state.absmax)] = state.absmax
    state = bnb.functional.QuantState(
        scales, weight.shape, state.code, NF4_BLOCK, quant_type="nf4", dtype=weight.dtype
    )
    N, K = weight.shape
    linear = bnb.nn.Linear4bit(
        K,
        N,
        bias=False,
        compute_dtype=weight.dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    linear.weight = bnb.nn.Params4bit(
        packed,
        quant_state=state,
        blocksize=NF4_BLOCK,
        compress_statistics=False,
        quant_type="nf4",
        bnb_quantized=True,
        module=linear,
    )
    linear.quant_state = state
    # On processors with AVX512-BF16 it would lay its weights out anew at the first product: whole tiles,
    # with scales rounded to bfloat16, and again at each reading of a layer that is offloaded.
    linear.support_avx512bf16_for_cpu = False
    return linear


def _int8(weight: Tensor, device: str | torch.device) -> nn.Module:
    bnb = import_bitsandbytes()
    N, K = weight.shape
    rounded = torch.empty(N, K, dtype=torch.int8, device=device)
    scales = torch.empty(N, dtype=torch.float32, device=device)
    rows = max(1, PART // K)
    for first in range(0, N, rows):
        part = weight[first : first + rows].to(device, torch.float16)
        rounded[first : first + rows], scales[first : first + rows], _ = bnb.functional.int8_vectorwise_quant(
            part
        )
    linear = bnb.nn.Linear8bitLt(
        K, N, bias=False, has_fp16_weights=False, threshold=INT8_OUTLIER, device="meta"
    )
    linear.weight = bnb.nn.Int8Params(
        rounded, requires_grad=False, has_fp16_weights=False, CB=rounded, SCB=scales
    )
    return linear
