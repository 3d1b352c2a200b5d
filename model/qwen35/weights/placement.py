"""Where a packed model's weights lie, for a given amount of memory: one plan, before anything is read."""

from dataclasses import dataclass
from typing import Literal

from qwen35.config import ModelConfig, TextConfig
from qwen35.errors import DoesNotFit
from qwen35.memory import available_memory
from qwen35.weights.manifest import ExpertsEntry, Manifest
from qwen35.weights.stretches import layer_stretches, resident_stretches

LoadMode = Literal["auto", "read", "mmap"]

ROOM = 0.9  # of the memory available that is taken where the user names no amount
WORKING_BYTES = 350 << 20  # the program, a chunk's activations, keys and values of some thousand tokens
CHUNK, LONG_CHUNK = 512, 2048  # tokens of a prompt at a time; what is on the disk is read once for each
MANY_EXPERTS = 0.5  # of all: where fewer fit, those need the room of the vision encoder more than it does
NUM_BUFFERS = 2  # for layers on the disk: one is computed while the next is read


@dataclass(frozen=True, slots=True)
class Placement:
    """`load`: how weights come into memory; `expert_bytes`: room for experts, the others stay on disk.

    `expert_bytes` None: all experts are in memory, or mapped, as the rest is. `ram_bytes`: what the user
    allows the process. `prefill_chunk`: tokens of a prompt at a time. `is_tight`: only what every token needs
    is in memory (see `stretches.resident_stretches`), the vision encoder and an embedding that is no head are
    mapped; and the layers `streamed` are read from disk at every step, into NUM_BUFFERS buffers. `fits`: all
    of it stays in memory.
    """

    load: Literal["read", "mmap"]
    expert_bytes: int | None = None
    ram_bytes: int | None = None
    prefill_chunk: int = CHUNK
    is_tight: bool = False
    streamed: tuple[int, ...] = ()
    fits: bool = False


def place(
    manifest: Manifest, config: ModelConfig, load: LoadMode = "auto", ram: int | None = None
) -> Placement:
    """The fastest way that fits into `ram` bytes (None: what is available, less a reserve).

    All in memory: a copy, or mapped where no second one would fit, so that the next process finds the file in
    the system's cache. Else experts on disk, as far as they do not fit; where few do, what a token needs
    little of is mapped, which leaves them more room; else layers too. What is too large even so is mapped;
    but where the user names an amount, DoesNotFit is raised, and says what would be the least.
    """
    if load == "mmap":
        return Placement("mmap")
    available = available_memory() if ram is None else ram
    budget = int(ROOM * available) if ram is None else ram - WORKING_BYTES
    if manifest.data_bytes <= budget or (load == "read" and ram is None):
        # A copy beside which the system cannot keep the file is read from the disk again by the next process.
        is_copied = load == "read" or ram is not None or 2 * manifest.data_bytes <= available
        return Placement("read" if is_copied else "mmap", ram_bytes=ram, fits=manifest.data_bytes <= budget)
    experts = text_experts(manifest)
    least_experts = 0
    if config.text.moe is not None:
        least_experts = config.text.moe.num_experts_per_tok * max(entry.stride for entry in experts)
        on_disk = sum(entry.count * entry.stride for entry in manifest.experts.values())
        room = budget - (manifest.data_bytes - on_disk)
        if room >= max(least_experts, MANY_EXPERTS * on_disk):
            chunk, room = _chunk(config.text, room)
            return Placement("read", room, ram, chunk)
    layers = [stretch.size_bytes for stretch in layer_stretches(manifest, config.text.num_hidden_layers)]
    every_layer = range(len(layers))
    ends = sum(stretch.size_bytes for stretch in resident_stretches(manifest, config, every_layer))
    # Layers in memory give nothing back later, as experts do: what else the program needs is left at once.
    room = min(budget, available - WORKING_BYTES) - ends - least_experts
    chunk, left = CHUNK, room
    streamed = _streamed(layers, room)
    if streamed or (streamed is not None and least_experts):
        longer, rest = _chunk(config.text, room)
        if (more := _streamed(layers, rest)) is not None:
            chunk, left, streamed = longer, rest, more
    if streamed is None:
        if ram is None:
            return Placement("mmap")
        least = (ends + least_experts + _in_memory(layers, tuple(every_layer)) + WORKING_BYTES) / 1e9
        raise DoesNotFit(
            f"This model needs at least {least:.2f} GB of memory, with its layers "
            f"{'and experts ' if least_experts else ''}on the disk; --ram allows {ram / 1e9:.2f} GB. Allow "
            "more, use a smaller model, or take --load mmap, which reads weights from disk again and again."
        )
    for_experts = least_experts + left - _in_memory(layers, streamed) if least_experts else None
    return Placement("read", for_experts, ram, chunk, is_tight=True, streamed=streamed)


def _chunk(text: TextConfig, room: int) -> tuple[int, int]:
    """How many tokens of a prompt at a time, and what that leaves of `room` for weights."""
    extra = (LONG_CHUNK - CHUNK) * row_bytes(text)
    return (CHUNK, room) if extra > room // 8 else (LONG_CHUNK, room - extra)  # weights need it more


def _streamed(layers: list[int], room: int) -> tuple[int, ...] | None:
    """The fewest layers, evenly spread, without which the others fit into `room` bytes; None: there are none.

    Between two of them lie layers in memory, whose computation gives the disk time. As few as there are
    buffers would save nothing.
    """
    for count in (0, *range(NUM_BUFFERS + 1, len(layers) + 1)):
        streamed = tuple((2 * i + 1) * len(layers) // (2 * count) for i in range(count))
        if _in_memory(layers, streamed) <= room:
            return streamed
    return None


def _in_memory(layers: list[int], streamed: tuple[int, ...]) -> int:
    """Bytes of the other layers, and of the buffers that the streamed ones pass through."""
    resident = sum(layers) - sum(layers[index] for index in streamed)
    return resident + NUM_BUFFERS * max((layers[index] for index in streamed), default=0)


def row_bytes(text: TextConfig) -> int:
    """Bytes of activations, about, that a token of a prompt needs on its way through a layer."""
    values = text.linear_num_value_heads * text.linear_value_head_dim
    linear = 2 * text.conv_channels + 3 * values
    attention = 4 * text.num_attention_heads * text.head_dim
    if text.moe is not None:
        mlp = (text.moe.num_experts_per_tok + 1) * text.hidden_size
    else:
        assert text.intermediate_size is not None
        mlp = text.intermediate_size + text.hidden_size
    return 5 * (max(linear, attention) + mlp + 6 * text.hidden_size)  # float32, and quantised beside it


def text_experts(manifest: Manifest) -> list[ExpertsEntry]:
    """The experts of the text model's layers, in order."""
    prefix = "language_model.layers."
    layers = {
        int(name.removeprefix(prefix)): entry
        for name, entry in manifest.experts.items()
        if name.startswith(prefix)
    }
    return [layers[index] for index in sorted(layers)]
