"""Weights as checkpoints store them, for numpy, which knows no bfloat16."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = Floats | NDArray[np.float16] | NDArray[np.uint16]  # uint16: the bits of bfloat16


def to_float32(numbers: Numbers) -> Floats:
    """The same numbers; `numbers` itself where they are float32 already."""
    if numbers.dtype != np.uint16:
        return numbers.astype(np.float32, copy=False)
    wide = numbers.astype(np.uint32)  # bfloat16 is the upper half of a float32
    wide <<= np.uint32(16)
    return wide.view(np.float32)
