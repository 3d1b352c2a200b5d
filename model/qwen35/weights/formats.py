"""Weight formats that lie in safetensors files and are not plain 16 or 32 bit floats: named and refused."""

from collections.abc import Mapping

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo

PLAIN_DTYPES = ("BF16", "F16", "F32")

# Tensors that only this format has, by the end of their names.
MARKS = (
    (".weight_scale_inv", "FP8"),
    (".qweight", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale", "compressed-tensors"),
    (".absmax", "bitsandbytes"),
    (".biases", "quantised MLX"),
)


def refuse_unsupported(tensors: Mapping[str, TensorInfo]) -> None:
    """Raise CheckpointError that says which format it is, and what to use instead."""
    for name, info in tensors.items():
        found = next((format_name for mark, format_name in MARKS if name.endswith(mark)), None)
        # MLX stores the convolution as (C, W, 1), and its norms have 1 added: both would load as noise.
        if name.endswith("linear_attn.conv1d.weight") and len(info.shape) == 3 and info.shape[1] != 1:
            found = "MLX"
        if found:
            raise CheckpointError(
                f"{info.path}: '{name}' shows {found} weights, which are not supported. "
                "Use the model's unquantised (bf16) safetensors files.",
                path=str(info.path),
            )
    for name, info in tensors.items():
        if info.dtype not in PLAIN_DTYPES:
            raise CheckpointError(
                f"{info.path}: '{name}' has the type {info.dtype}; supported: {', '.join(PLAIN_DTYPES)}.",
                path=str(info.path),
            )
