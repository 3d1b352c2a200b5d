"""Weight formats that lie in safetensors files and are not plain 16 or 32 bit floats: named and refused.

They can be packed (`sources` reads them), but not run as they are.
"""

from collections.abc import Mapping

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo

PLAIN_DTYPES = ("BF16", "F16", "F32")

# Tensors that only this format has, by the end of their names; and whether `qwen models pack` reads it.
MARKS = (
    (".weight_scale_inv", "FP8", True),
    (".qweight", "GPTQ or AWQ", True),
    (".weight_packed", "compressed-tensors", True),
    (".weight_scale", "compressed-tensors", True),
    (".absmax", "bitsandbytes", False),
    (".biases", "quantised MLX", True),
)


def refuse_unsupported(tensors: Mapping[str, TensorInfo]) -> None:
    """Raise CheckpointError that says which format it is, and what to do instead."""
    for name, info in tensors.items():
        found = next((mark[1:] for mark in MARKS if name.endswith(mark[0])), None)
        # MLX stores the convolution as (C, W, 1), and its norms have 1 added: both would load as noise.
        if is_converted_convolution(name, info):
            found = "MLX", True
        if found:
            format_name, is_packable = found
            advice = "Pack them first: qwen models pack FOLDER" if is_packable else UNQUANTISED
            raise CheckpointError(
                f"{info.path}: '{name}' shows {format_name} weights, which cannot be run as they are. "
                f"{advice}",
                path=str(info.path),
            )
    refuse_unknown_types(tensors)


def is_converted_convolution(name: str, info: TensorInfo) -> bool:
    return name.endswith("linear_attn.conv1d.weight") and len(info.shape) == 3 and info.shape[1] != 1


def refuse_unknown_types(tensors: Mapping[str, TensorInfo]) -> None:
    for name, info in tensors.items():
        if info.dtype not in PLAIN_DTYPES:
            raise CheckpointError(
                f"{info.path}: '{name}' has the type {info.dtype}; supported: {', '.join(PLAIN_DTYPES)}.",
                path=str(info.path),
            )


UNQUANTISED = "Use the model's unquantised (bf16) safetensors files."
