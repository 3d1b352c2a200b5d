"""What a model needs of a machine, told before it is there: memory by what it is for, disk, and how fast.

The weights' places are those that `placement` chooses when the model is loaded; all else is estimated here,
from shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen35.config import ModelConfig, TextConfig, VisionConfig
from qwen35.errors import DoesNotFit
from qwen35.memory import available_memory
from qwen35.state import STORAGE, kv_bytes_per_token
from qwen35.weights.layout import EXPERTS, Item, file_sizes, lay_out
from qwen35.weights.manifest import FileEntry, Manifest, SourceEntry
from qwen35.weights.pack_plan import entries_of
from qwen35.weights.placement import NUM_BUFFERS, LoadMode, Placement, place, row_bytes, text_experts
from qwen35.weights.recipe import Quant, Recipe
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.stretches import layer_stretches, resident_stretches

KV_DTYPE = "bfloat16"
PICTURE_TOKENS = 2048  # of the largest picture that is looked at unless the user asks for more

PROGRAM_BYTES = 56 << 20  # Python, NumPy and this program, without a model
TOKENIZER_ENTRY_BYTES = 70  # of the vocabulary, in memory
COPIES_OF_LOGITS = 3

# A token takes the time in which its bytes are read at this share of the memory's speed, and for each layer
# the time in which its steps wait for each other. Fitted to the synthetic shapes.
SHARE_OF_MEMORY = 0.80
LAYER_S = 160e-6


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process, by what they are for."""

    weights: int  # that stay in memory, experts excluded
    experts: int
    keys_values: int
    states: int
    program: int
    picture: int  # comes on top, while one of PICTURE_TOKENS is looked at

    @property
    def total(self) -> int:
        """Without a picture."""
        return self.weights + self.experts + self.keys_values + self.states + self.program


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`fits` is what the user asked; `why_not` says what is too large."""

    memory: Memory
    allowed: int
    placement: Placement | None  # None: there is no way to load it
    experts_bytes: int  # of all experts of the text model
    expert_share: float  # of the experts, in memory
    streamed_bytes: int  # of layers, read at every step
    why_not: str | None

    @property
    def fits(self) -> bool:
        return self.why_not is None

    @property
    def picture_tokens(self) -> int:
        """Of the largest picture that fits beside all else, up to PICTURE_TOKENS; 0: the model sees none."""
        if not self.memory.picture:
            return 0
        spare = max(0, self.allowed - self.memory.total)
        return min(PICTURE_TOKENS, PICTURE_TOKENS * spare // self.memory.picture)


def forecast(config: ModelConfig, quant: Quant) -> Manifest:
    """The manifest that packing a 16-bit model of this shape would write, but for checksums.

    Of a layer's experts one is laid out, which the others are like: offsets of experts mean nothing here.
    """
    shapes = parameter_shapes(config)
    one = {name: (1, *shape[1:]) if ".mlp.experts." in name else shape for name, shape in shapes.items()}
    manifest = forecast_of(lay_out(one, Recipe(quant)), quant)
    if config.text.moe is None:
        return manifest
    count = config.text.moe.num_experts
    experts = {name: replace(entry, count=count) for name, entry in manifest.experts.items()}
    size_bytes = sum(count * entry.stride for entry in experts.values())
    return replace(manifest, experts=experts, files={**manifest.files, EXPERTS: FileEntry(size_bytes, "")})


def forecast_of(items: Sequence[Item], quant: Quant) -> Manifest:
    """Likewise of a source that is there, laid out."""
    items = tuple(items)
    tensors, experts = entries_of(items, [""] * len(items))
    files = {name: FileEntry(size_bytes, "") for name, size_bytes in file_sizes(items).items()}
    return Manifest(SourceEntry("", "", 0, ""), quant, tensors, experts, files)


def plan_memory(
    manifest: Manifest, config: ModelConfig, context: int, load: LoadMode = "auto", ram: int | None = None
) -> MemoryPlan:
    """For `context` tokens of prompt and answer; `load` and `ram` as `place` takes them."""
    allowed = available_memory() if ram is None else ram
    records = text_experts(manifest)
    experts_bytes = sum(entry.count * entry.stride for entry in records)
    all_experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    try:
        placement: Placement | None = place(manifest, config, load, ram)
    except DoesNotFit as error:
        memory = _memory(config, manifest.data_bytes - all_experts, all_experts, context, chunk=512)
        return MemoryPlan(memory, allowed, None, experts_bytes, 1.0, 0, str(error))
    assert placement is not None
    weights, experts, streamed = _weights(manifest, config, placement, all_experts)
    memory = _memory(config, weights, experts, context, placement.prefill_chunk)
    if placement.expert_bytes is not None and memory.total > allowed:
        # What is kept of the experts gives way to all else.
        least = _least_experts(config, manifest)
        experts = max(least, experts - (memory.total - allowed))
        memory = _memory(config, weights, experts, context, placement.prefill_chunk)
    share = min(1.0, experts / experts_bytes) if experts_bytes else 1.0
    why_not = _why_not(config, memory, allowed, context)
    return MemoryPlan(memory, allowed, placement, experts_bytes, share, streamed, why_not)


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of decoding; `low` and `high` differ where it depends on which experts are chosen."""

    low: float
    high: float
    bytes_per_token: int
    disk_bytes_low: int  # of a token, read from the disk, at the speed `low`
    limit: Literal["memory", "disk"]


def expected_speed(
    plan: MemoryPlan,
    manifest: Manifest,
    config: ModelConfig,
    bytes_per_token: int,
    memory_bytes_per_s: float,
    disk_bytes_per_s: float | None,
) -> Speed:
    """Of decoding. `bytes_per_token` pass through the processor; the disk is needed where not all fits."""
    computed_s = bytes_per_token / (SHARE_OF_MEMORY * memory_bytes_per_s)
    computed_s += config.text.num_hidden_layers * LAYER_S
    used = sum(entry.stride for entry in text_experts(manifest))
    if config.text.moe:
        used *= config.text.moe.num_experts_per_tok
    # Chosen at random, as many are missing as are not in memory; real texts repeat themselves.
    missing = (1 - plan.expert_share) * used
    low, high = missing + plan.streamed_bytes, missing / REPEATS + plan.streamed_bytes
    if not low:
        return Speed(1 / computed_s, 1 / computed_s, bytes_per_token, 0, "memory")
    assert disk_bytes_per_s is not None

    def seconds(from_disk: float) -> float:
        """Layers come while others are computed; a layer's experts are known only when it is their turn."""
        streamed_s = plan.streamed_bytes / disk_bytes_per_s
        return max(computed_s, streamed_s) + (from_disk - plan.streamed_bytes) / disk_bytes_per_s

    is_disk = seconds(low) > 2 * computed_s
    return Speed(
        1 / seconds(low), 1 / seconds(high), bytes_per_token, int(low), "disk" if is_disk else "memory"
    )


REPEATS = 3.0  # times fewer experts miss in texts that repeat themselves than in uniform choices


def needs_disk(plan: MemoryPlan) -> bool:
    """Whether decoding reads from it."""
    return bool(plan.streamed_bytes) or plan.expert_share < 1


def _weights(
    manifest: Manifest, config: ModelConfig, placement: Placement, all_experts: int
) -> tuple[int, int, int]:
    """Bytes of weights and of experts in memory, and of layers that are read at every step."""
    rest = manifest.data_bytes - all_experts
    if not placement.is_tight:
        return rest, all_experts if placement.expert_bytes is None else placement.expert_bytes, 0
    layers = [stretch.size_bytes for stretch in layer_stretches(manifest, config.text.num_hidden_layers)]
    streamed = [layers[index] for index in placement.streamed]
    resident = sum(s.size_bytes for s in resident_stretches(manifest, config, placement.streamed))
    return resident + NUM_BUFFERS * max(streamed, default=0), placement.expert_bytes or 0, sum(streamed)


def _least_experts(config: ModelConfig, manifest: Manifest) -> int:
    assert config.text.moe is not None
    return config.text.moe.num_experts_per_tok * max(entry.stride for entry in text_experts(manifest))


def _memory(config: ModelConfig, weights: int, experts: int, context: int, chunk: int) -> Memory:
    text = config.text
    return Memory(
        weights=weights,
        experts=experts,
        keys_values=context * kv_bytes_per_token(text, KV_DTYPE),
        states=state_bytes(text),
        program=PROGRAM_BYTES
        + min(chunk, context) * row_bytes(text)
        + text.vocab_size * (TOKENIZER_ENTRY_BYTES + 4 * COPIES_OF_LOGITS),
        picture=picture_bytes(config.vision, PICTURE_TOKENS) if config.vision else 0,
    )


def state_bytes(text: TextConfig) -> int:
    """What a sequence of any length leaves in the linear-attention layers."""
    state = 4 * text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
    conv = (text.linear_conv_kernel_dim - 1) * text.conv_channels * STORAGE[KV_DTYPE].itemsize
    return text.layer_types.count("linear_attention") * (state + conv)


def picture_bytes(vision: VisionConfig, num_tokens: int) -> int:
    """What the encoder needs beside its weights for a picture of so many tokens."""
    per_patch = vision.patch_values + 6 * vision.hidden_size + vision.intermediate_size
    return 6 * num_tokens * vision.spatial_merge_size**2 * per_patch  # float32, and quantised beside it


def _why_not(config: ModelConfig, memory: Memory, allowed: int, context: int) -> str | None:
    if memory.total <= allowed:
        return None
    spare = allowed - (memory.total - memory.keys_values)
    possible = max(0, spare) // kv_bytes_per_token(config.text, KV_DTYPE) // 256 * 256
    short = f"{memory.total / 1e9:.2f} GB are needed, {allowed / 1e9:.2f} GB may be taken"
    if possible >= 1024:
        return f"{short}: {context:,} tokens of context are too many, {possible:,} would fit."
    return f"{short}."
