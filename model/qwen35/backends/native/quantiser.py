"""What `weights.quantize` defines, by the library: the same tiles, bit for bit, sooner."""

from pathlib import Path

import numpy as np

from qwen35.backends.native.library import FORMATS, Context, forced_isa, load
from qwen35.backends.native.places import address
from qwen35.weights.numbers import Numbers
from qwen35.weights.quantize import quantise
from qwen35.weights.slabs import Quantiser
from qwen35.weights.tiles import TileFormat, matrix_bytes

_TYPES = {np.dtype("<f4"): 0, np.dtype("<f2"): 1, np.dtype("<u2"): 2}
_REFUSED = 2


class NativeQuantiser:
    """Called as `quantise` is, in any number of threads at once; each call works on its own thread alone."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, w: Numbers, tile: TileFormat) -> memoryview:
        """The tiles of `w` (N, K). Raises ValueError, with the reason, for weights that cannot be held."""
        n, k = w.shape
        rows = np.ascontiguousarray(w)
        tiles = np.empty(matrix_bytes(tile.name, n, k), np.uint8)
        code = self._context.call(
            "qw_quantise", address(rows), _TYPES[rows.dtype], n, k, FORMATS[tile.name], address(tiles)
        )
        if code == _REFUSED:
            quantise(w, tile)  # tells the reason
            raise AssertionError("the native quantiser refuses what the plain one holds")
        return tiles.data


def best_quantiser(cache: Path | None = None) -> tuple[Quantiser, str]:
    """The library's, "", or where there is none (nothing is compiled for this) the plain one and the reason.

    `cache`: where a library may have been compiled. Raises DoesNotFit where `QWEN_CPU` forces kernels that
    cannot run here.
    """
    library, reason = load(cache)
    if library is None:
        return quantise, reason
    return NativeQuantiser(Context(library, 1, forced_isa())), ""
