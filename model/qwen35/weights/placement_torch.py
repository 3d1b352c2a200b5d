"""Where the weights of a model that torch runs lie: one plan, from shapes alone, before anything is read.

Its blocks are never split: the embedding, a layer, the head, a block of the vision encoder. Those that
find no room on the device come there whenever they are run, from memory or from the checkpoint's files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Literal

from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.memory import available_memory
from qwen35.weights.placement import CHUNK, ROOM
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.tiles import LINE, round_up

Where = Literal["cuda", "cpu", "disk"]
TorchQuant = Literal["nf4", "int8"]

NF4_BLOCK = 64  # weights that share a float32 scale
TORCH_BYTES = 340 << 20  # Python, torch, accelerate, a large tokenizer
BITSANDBYTES_BYTES = 130 << 20  # its own, measured
NUM_CACHED = 4096  # tokens whose keys and values are counted
NUM_PATCHES = 8192  # of a picture of 2048 tokens, what a CPU is given at most unless asked for more

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LAYER, _VISION = "language_model.layers.", "visual.blocks."
_BLOCK = re.compile(r"(language_model\.layers\.\d+|visual\.blocks\.\d+|mtp)\.")
_EMBEDDING, _HEAD = "language_model.embed_tokens", "lm_head"

# The text model's large products. What stays as it is: the head, as is usual with bitsandbytes; the router
# and the gates, which are small and decide; experts, which are no linear modules but one fused tensor.
_QUANTISED = (
    "language_model.layers.*_proj.weight",
    "language_model.layers.*.in_proj_qkv.weight",
    "language_model.layers.*.in_proj_z.weight",
)


@dataclass(frozen=True, slots=True)
class Block:
    """A module, and where its weights rest between two uses."""

    name: str
    size_bytes: int
    where: Where


@dataclass(frozen=True, slots=True)
class TorchPlacement:
    """`device` is where everything is computed: "cpu" or "cuda". Blocks stand in the order of their use."""

    device: str
    dtype: str
    quant: TorchQuant | None
    has_experts: bool
    blocks: tuple[Block, ...]

    @property
    def is_resident(self) -> bool:
        """Whether all weights stay where they are used."""
        return all(block.where == self.device for block in self.blocks)

    def size_bytes(self, where: Where) -> int:
        """Of all weights that rest there."""
        return sum(block.size_bytes for block in self.blocks if block.where == where)

    def notes(self) -> list[str]:
        """What a person should know of weights that come and go, or are not rounded where it is asked for."""
        total = sum(block.size_bytes for block in self.blocks)
        stay = f"{self.size_bytes('cpu') / 1e9:.2f} of {total / 1e9:.2f} GB of weights stay in memory"
        if self.device == "cuda":
            stay = f"{self.size_bytes('cuda') / 1e9:.2f} of {total / 1e9:.2f} GB stay on the GPU"
        found = []
        if self.quant and self.has_experts:
            found.append(f"the experts stay in {self.dtype}: {self.quant} rounds the other layers alone")
        for where, source in (("cpu", "copied from memory"), ("disk", "read from disk")):
            names = [block.name for block in self.blocks if block.where == where != self.device]
            if text := self._text_of(names):
                found.append(f"{text} {source} at every step; {stay}")
            if count := sum(name.startswith(_VISION) for name in names):
                depth = sum(block.name.startswith(_VISION) for block in self.blocks)
                found.append(f"{count} of {depth} layers of the vision encoder are {source} for each picture")
        return found

    def _text_of(self, names: list[str]) -> str:
        """As "the embedding, the head and 24 of 24 layers are"; empty for none."""
        parts = [text for name, text in ((_EMBEDDING, "the embedding"), (_HEAD, "the head")) if name in names]
        if count := sum(name.startswith(_LAYER) for name in names):
            parts.append(f"{count} of {sum(block.name.startswith(_LAYER) for block in self.blocks)} layers")
        if not parts:
            return ""
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        return f"{listed} {'is' if parts in (['the embedding'], ['the head']) else 'are'}"


def block_of(parameter: str) -> str:
    """The block that a parameter belongs to; its own module, where that is always in memory."""
    match = _BLOCK.match(parameter)
    return match[1] if match else parameter.rpartition(".")[0]


def is_quantised(parameter: str) -> bool:
    """Whether a `quant` applies to it."""
    return any(fnmatchcase(parameter, pattern) for pattern in _QUANTISED)


def place_torch(
    config: ModelConfig,
    dtype: str,
    *,
    device: str = "cpu",
    ram: int | None = None,
    gpu_bytes: int = 0,
    quant: TorchQuant | None = None,
) -> TorchPlacement:
    """The plan that keeps as many weights as possible on `device`, then in memory; the rest lies on the disk.

    `ram`: bytes that the process may take (None: what is available, less a reserve); `gpu_bytes`: those
    of a CUDA `device`. Quantised weights all stay: to read one anew is to quantise it anew, which takes
    seconds. Raises DoesNotFit, which says the least that works.
    """
    left = sizes = _block_sizes(config, dtype, quant)
    kept = set(sizes) if quant else {name for name in sizes if not _may_rest_elsewhere(name, config)}
    working = _working_bytes(config, dtype, quant)
    tiers: list[tuple[Where, int]] = [("cpu", int(ROOM * available_memory()) if ram is None else ram)]
    if device == "cuda":
        tiers.insert(0, ("cuda", gpu_bytes))
    where: dict[str, Where] = {}
    for tier, budget in tiers:
        if not left:
            break
        stay = _staying(left, kept, budget - working)
        if stay is None:
            allowed = "--ram allows" if tier == "cpu" and ram is not None else "there are"
            raise _does_not_fit(tier, _least(left, kept) + working, f"{allowed} {budget / 1e9:.2f} GB", quant)
        where |= dict.fromkeys(stay, tier)
        left = {name: size for name, size in left.items() if name not in stay}
        kept = set()
    blocks = tuple(Block(name, size, where.get(name, "disk")) for name, size in sizes.items())
    return TorchPlacement(device, dtype, quant, config.text.moe is not None, blocks)


def _block_sizes(config: ModelConfig, dtype: str, quant: TorchQuant | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, shape in parameter_shapes(config).items():
        block = block_of(name)
        sizes[block] = sizes.get(block, 0) + parameter_bytes(name, shape, dtype, quant)
    return sizes


def parameter_bytes(name: str, shape: tuple[int, ...], dtype: str, quant: TorchQuant | None = None) -> int:
    """Of a parameter in memory, up to the next one's start."""
    if quant and is_quantised(name):
        rows, values = shape[0], prod(shape)
        size = values // 2 + 4 * -(-values // NF4_BLOCK) if quant == "nf4" else values + 4 * rows
    else:
        # Decays are kept in float32 (see load.py).
        size = prod(shape) * (4 if name.endswith(".A_log") else _BYTES[dtype])
    return round_up(size, LINE)


def _may_rest_elsewhere(block: str, config: ModelConfig) -> bool:
    """Not those that are small or, as the embedding of a tied model, used at both ends of every step."""
    if block == _EMBEDDING:
        return not config.tie_word_embeddings
    return block.startswith((_LAYER, _VISION)) or block in (_HEAD, "mtp")


def _staying(sizes: Mapping[str, int], kept: set[str], budget: int) -> set[str] | None:
    """The blocks that stay within `budget` bytes, with room beside them for each of the others in turn.

    Of all such rooms the one that lets most bytes stay. None: there is none.
    """
    if sum(sizes.values()) <= budget:
        return set(sizes)
    best: set[str] | None = None
    for room in _rooms(sizes, kept):
        stay = _larger(sizes, kept, room)
        left = budget - room - _total(sizes, stay)
        if left < 0:
            continue
        for name, size in sizes.items():
            if name not in stay and size <= left:
                stay.add(name)
                left -= size
        if best is None or _total(sizes, stay) > _total(sizes, best):
            best = stay
    return best


def _least(sizes: Mapping[str, int], kept: set[str]) -> int:
    return min(room + _total(sizes, _larger(sizes, kept, room)) for room in _rooms(sizes, kept))


def _rooms(sizes: Mapping[str, int], kept: set[str]) -> list[int]:
    return sorted({size for name, size in sizes.items() if name not in kept}) or [0]


def _larger(sizes: Mapping[str, int], kept: set[str], room: int) -> set[str]:
    return {name for name, size in sizes.items() if name in kept or size > room}


def _total(sizes: Mapping[str, int], names: set[str]) -> int:
    return sum(sizes[name] for name in names)


def _working_bytes(config: ModelConfig, dtype: str, quant: TorchQuant | None) -> int:
    """The program, activations of a prompt's chunk or of a picture, keys and values, about."""
    text, size = config.text, _BYTES[dtype]
    values = text.linear_num_value_heads * text.linear_value_head_dim
    keys = text.linear_num_value_heads * text.linear_key_head_dim  # repeated for each value head
    row = 4 * (3 * text.conv_channels + 8 * (2 * keys + values)) + 8 * size * text.hidden_size
    if text.moe:
        row += 3 * size * text.moe.num_experts_per_tok * text.hidden_size
    else:
        row += 3 * size * (text.intermediate_size or 0)
    activations = CHUNK * row
    if config.vision:
        patch = 30 * config.vision.hidden_size + 2 * size * config.vision.intermediate_size
        activations = max(activations, NUM_PATCHES * patch)
    num_attention = sum(kind == "full_attention" for kind in text.layer_types)
    # Kept in blocks, and gathered for each step.
    cached = 2 * NUM_CACHED * num_attention * 2 * text.num_key_value_heads * text.head_dim * size
    if quant:  # on a CPU a weight is restored, whole, for each product
        shapes = parameter_shapes(config).items()
        cached += BITSANDBYTES_BYTES + 4 * max(prod(shape) for name, shape in shapes if is_quantised(name))
    return TORCH_BYTES + activations + cached


def _does_not_fit(tier: Where, needed: int, allowed: str, quant: TorchQuant | None) -> DoesNotFit:
    how = f"in {quant}" if quant else "with its layers on the disk"
    return DoesNotFit(
        f"This model needs at least {needed / 1e9:.2f} GB of {'GPU ' if tier == 'cuda' else ''}memory, "
        f"{how}; {allowed}. {'Without --quant its layers may lie on the disk. ' if quant else ''}"
        "Allow more, use a smaller model, or pack this one: `qwen models pack`."
    )
