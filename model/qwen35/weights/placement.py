"""Where a packed model's weights lie, for a given amount of memory: one plan, before anything is read."""

from dataclasses import dataclass
from typing import Literal

from qwen35.config import ModelConfig, TextConfig
from qwen35.errors import DoesNotFit
from qwen35.memory import available_memory
from qwen35.weights.manifest import ExpertsEntry, Manifest

LoadMode = Literal["auto", "read", "mmap"]

ROOM = 0.9  # of the memory available that is taken where the user names no amount
WORKING_BYTES = 350 << 20  # the program, a chunk's activations, keys and values of some thousand tokens
CHUNK, LONG_CHUNK = 512, 2048  # tokens of a prompt at a time; experts on disk are read once for each


@dataclass(frozen=True, slots=True)
class Placement:
    """`load`: how weights come into memory; `expert_bytes`: room for experts, the others stay on disk.

    `expert_bytes` None: all experts are in memory, or mapped, as the rest is. `ram_bytes`: what the user
    allows the process. `prefill_chunk`: tokens of a prompt at a time.
    """

    load: Literal["read", "mmap"]
    expert_bytes: int | None = None
    ram_bytes: int | None = None
    prefill_chunk: int = CHUNK


def place(
    manifest: Manifest, config: ModelConfig, load: LoadMode = "auto", ram: int | None = None
) -> Placement:
    """The fastest way that fits into `ram` bytes (None: what is available, less a reserve).

    All in memory; else experts on disk, as far as they do not fit. What is too large even so is mapped; but
    where the user names an amount, DoesNotFit is raised, and says what would be the least.
    """
    if load == "mmap":
        return Placement("mmap")
    budget = int(ROOM * available_memory()) if ram is None else ram - WORKING_BYTES
    if manifest.data_bytes <= budget or (load == "read" and ram is None):
        return Placement("read", ram_bytes=ram)
    on_disk = sum(entry.count * entry.stride for entry in manifest.experts.values())
    resident, least = manifest.data_bytes - on_disk, 0
    if config.text.moe is not None:
        least = config.text.moe.num_experts_per_tok * max(entry.stride for entry in text_experts(manifest))
    if config.text.moe is None or resident + least > budget:
        if ram is None:
            return Placement("mmap")
        needed = (resident + least + WORKING_BYTES) / 1e9
        raise DoesNotFit(
            f"This model needs at least {needed:.2f} GB of memory"
            f"{', with its experts on the disk' if least else ''}; --ram allows {ram / 1e9:.2f} GB. Allow "
            "more, use a smaller model, or take --load mmap, which reads weights from disk again and again."
        )
    room = budget - resident
    extra = (LONG_CHUNK - CHUNK) * row_bytes(config.text)
    if extra > room // 8:  # the experts need it more
        return Placement("read", room, ram)
    return Placement("read", room - extra, ram, LONG_CHUNK)


def row_bytes(text: TextConfig) -> int:
    """Bytes of activations, about, that a token of a prompt needs on its way through a layer of experts."""
    assert text.moe is not None
    values = text.linear_num_value_heads * text.linear_value_head_dim
    linear = 2 * text.conv_channels + 3 * values
    attention = 4 * text.num_attention_heads * text.head_dim
    experts = (text.moe.num_experts_per_tok + 1) * text.hidden_size
    return 5 * (max(linear, attention) + experts + 6 * text.hidden_size)  # float32, and quantised beside it


def text_experts(manifest: Manifest) -> list[ExpertsEntry]:
    """The experts of the text model's layers, in order."""
    prefix = "language_model.layers."
    layers = {
        int(name.removeprefix(prefix)): entry
        for name, entry in manifest.experts.items()
        if name.startswith(prefix)
    }
    return [layers[index] for index in sorted(layers)]
