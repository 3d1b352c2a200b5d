"""What the tests on a GPU have in common: a model somewhere, an input for it, and all that comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.synthetic import TINY_SIZES
from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.processing.positions import mrope_positions
from qwen35.state import KVBlocks, ModelState
from qwen35.weights.load import load_model
from qwen35.weights.placement_torch import TorchPlacement
from tests.model.reference import TOKEN_ID, Prompt, as_pieces

# Head sizes choose the kernels on a GPU: 256 for attention, 128 for the delta rule, as the family has them.
TRUE_HEADS = {
    "dense": replace(TINY_SIZES["tiny"], num_v_heads=32),
    "moe": replace(TINY_SIZES["tiny-moe"], num_v_heads=32),
}
STEPS = tuple(range(40, 52))  # tokens that are decoded one by one

# Of float32 results, to the largest of them: the order of sums differs, nothing else. A change of 1e-7 in
# every weight moves logits by up to 2e-5 with the odd sizes, by 3e-6 with true heads, and keys ten times as
# far. TF32 would show: it is off by some 3e-4 in a single product.
TOLERANCE = 1e-4
TRUE_TOLERANCE = 3e-5


@dataclass(frozen=True, eq=False)
class Input:
    """A prompt as a backend takes it."""

    ids: np.ndarray
    position_ids: np.ndarray
    delta: int
    patches: np.ndarray | None
    grids: list[tuple[int, int, int]]


def input_of(config: ModelConfig, prompt: Prompt) -> Input:
    """A prompt of the tiny reference models, its picture's marks as `config` numbers them."""
    assert config.image_token_id is not None
    ids = prompt.input_ids[0].numpy().copy()
    ids[ids == TOKEN_ID["<|image_pad|>"]] = config.image_token_id
    grids = [] if prompt.grid_thw is None else [tuple(grid) for grid in prompt.grid_thw.tolist()]
    positions, delta = mrope_positions(ids, config, grids)
    patches = None if prompt.pixel_values is None else prompt.pixel_values.numpy()
    return Input(ids, positions, delta, patches, grids)


def load(
    folder: Path,
    device: str,
    dtype: str = "float32",
    place: Callable[[ModelConfig], TorchPlacement] | None = None,
) -> PlainBackend:
    config = ModelConfig.from_folder(folder)
    return PlainBackend(load_model(folder, config, device=device, dtype=getattr(torch, dtype), place=place))


def features_of(backend: PlainBackend, given: Input) -> np.ndarray:
    """Of the pictures; no rows where there are none."""
    if given.patches is None:
        return np.empty((0, backend.model.config.text.hidden_size), np.float32)
    return backend.encode_pictures(given.patches, given.grids)


def prefill(
    backend: PlainBackend, given: Input, sizes: Sequence[int] = (10_000,)
) -> tuple[ModelState, np.ndarray]:
    """The state after the prompt, run in pieces of such sizes, and the next token's logits."""
    features = features_of(backend, given)
    is_placeholder = given.ids == backend.model.config.image_token_id
    state = backend.new_state()
    state.mrope_delta = given.delta
    for piece in as_pieces(len(given.ids), sizes):
        before, inside = is_placeholder[: piece.start].sum(), is_placeholder[piece].sum()
        part = features[before : before + inside] if inside else None
        logits = backend.prefill(state, given.ids[piece], given.position_ids[:, piece], part)
    return state, logits


def decode(backend: PlainBackend, state: ModelState, tokens: Sequence[int] = STEPS) -> np.ndarray:
    """Logits (steps, vocab_size) after each of `tokens`."""
    return np.concatenate([backend.decode([state], np.array([token])) for token in tokens])


def arrays_of(state: ModelState) -> list[np.ndarray]:
    """All that a state holds, as float32."""
    found: list[np.ndarray] = []
    for layer in state.layers:
        found += layer.gather() if isinstance(layer, KVBlocks) else (layer.conv, layer.state)
    return [_as_float32(array) for array in found]


def everything(
    backend: PlainBackend, given: Input, sizes: Sequence[int] = (10_000,)
) -> dict[str, np.ndarray]:
    """All that comes out: features, logits of prefill and of each step, the state after them."""
    state, first = prefill(backend, given, sizes)
    found = {"features": features_of(backend, given), "prefill": first, "decode": decode(backend, state)}
    return found | {f"state {index}": array for index, array in enumerate(arrays_of(state))}


def assert_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = TOLERANCE
) -> None:
    """Each array, by its largest difference to its largest value; states are as close as ten times that. NaN
    is never close."""
    assert found.keys() == expected.keys()
    errors = {name: error(array, expected[name]) for name, array in found.items()}
    assert all(
        value <= (10 * tolerance if name.startswith("state") else tolerance) for name, value in errors.items()
    ), errors


def tolerance_of(folder: Path) -> float:
    return TRUE_TOLERANCE if "true" in folder.name else TOLERANCE


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit for bit, and no NaN among them."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert np.isfinite(array).all(), name
        assert np.array_equal(array, expected[name]), (name, error(array, expected[name]))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, to the largest value."""
    assert found.shape == expected.shape
    if not found.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _as_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint16:
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)  # the bits of bfloat16
