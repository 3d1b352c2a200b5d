"""Write a random checkpoint of a true shape: `python benchmarks/synthetic.py 0.8b OUT`.

In the official layout, for benchmarks and for tests of loading; what such a model says means
nothing. Names and shapes stand here as the reference document lists them, apart from the network's
code, so that each checks the other. Tensors are written one after another out of one pool of random
numbers: memory stays small.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.synthetic_tokenizer import SPECIAL_TOKENS, write_tokenizer

VOCAB_SIZE = 248320
NUM_BASE_TOKENS = 248044
HEAD_DIM, LINEAR_KEY_HEADS, LINEAR_HEAD_DIM, CONV_WIDTH = 256, 16, 128, 4
SHARD_BYTES = 2 * 2**30
POOL_VALUES = 2**24 + 17  # no multiple of any row, so that tensors differ
DEVIATION = 0.02  # of a matrix's values


@dataclass(frozen=True, slots=True)
class Vision:
    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class Size:
    """One row of the family's table. `intermediate_size` is that of each expert where there are any."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_v_heads: int
    intermediate_size: int
    vision: Vision
    is_tied: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    has_mtp: bool = True
    num_base_tokens: int = NUM_BASE_TOKENS  # the special tokens' ids follow
    vocab_size: int = VOCAB_SIZE

    @property
    def layer_types(self) -> list[str]:
        return ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * (
            self.num_layers // 4
        )

    def token_id(self, special: str) -> int:
        """Of one of SPECIAL_TOKENS."""
        return self.num_base_tokens + SPECIAL_TOKENS.index(special)


VISION_SMALL, VISION_MIDDLE = Vision(12, 768, 12, 3072), Vision(24, 1024, 16, 4096)
VISION_LARGE = Vision(27, 1152, 16, 4304)
SIZES = {
    "0.8b": Size(1024, 24, 8, 2, 16, 3584, VISION_SMALL, is_tied=True),
    "2b": Size(2048, 24, 8, 2, 16, 6144, VISION_MIDDLE, is_tied=True),
    "4b": Size(2560, 32, 16, 4, 32, 9216, VISION_MIDDLE, is_tied=True),
    "9b": Size(4096, 32, 16, 4, 32, 12288, VISION_LARGE),
    "27b": Size(5120, 64, 24, 4, 48, 17408, VISION_LARGE),
    "35b-a3b": Size(2048, 40, 16, 2, 32, 512, VISION_LARGE, num_experts=256, num_experts_per_tok=8),
    "122b-a10b": Size(3072, 48, 32, 2, 64, 1024, VISION_LARGE, num_experts=256, num_experts_per_tok=8),
    "397b-a17b": Size(4096, 60, 32, 2, 64, 1024, VISION_LARGE, num_experts=512, num_experts_per_tok=10),
}

# No models of the family: for tests of the benchmarks, which take seconds with them.
TINY_SIZES = {
    "tiny": Size(
        *(128, 4, 2, 1, 16, 192, Vision(2, 128, 2, 256)),
        is_tied=True,
        has_mtp=False,
        num_base_tokens=512,
        vocab_size=576,
    ),
    "tiny-moe": Size(
        *(128, 4, 2, 1, 16, 64, Vision(2, 128, 2, 256)),
        num_experts=8,
        num_experts_per_tok=2,
        has_mtp=False,
        num_base_tokens=512,
        vocab_size=576,
    ),
}


def config_json(size: Size) -> dict:
    """The checkpoint's config.json."""
    kind = "qwen3_5_moe" if size.num_experts else "qwen3_5"
    if size.num_experts:
        mlp = {
            "moe_intermediate_size": size.intermediate_size,
            "shared_expert_intermediate_size": size.intermediate_size,
            "num_experts": size.num_experts,
            "num_experts_per_tok": size.num_experts_per_tok,
        }
    else:
        mlp = {"intermediate_size": size.intermediate_size}
    text = {
        "model_type": f"{kind}_text",
        "dtype": "bfloat16",
        "vocab_size": size.vocab_size,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "layer_types": size.layer_types,
        "full_attention_interval": 4,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "head_dim": HEAD_DIM,
        "linear_num_key_heads": LINEAR_KEY_HEADS,
        "linear_num_value_heads": size.num_v_heads,
        "linear_key_head_dim": LINEAR_HEAD_DIM,
        "linear_value_head_dim": LINEAR_HEAD_DIM,
        "linear_conv_kernel_dim": CONV_WIDTH,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "attn_output_gate": True,
        "max_position_embeddings": 262144,
        "mtp_num_hidden_layers": int(size.has_mtp),
        "mtp_use_dedicated_embeddings": False,
        "mamba_ssm_dtype": "float32",
        "eos_token_id": size.token_id("<|endoftext|>"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "model_type": kind,
        "depth": size.vision.depth,
        "hidden_size": size.vision.hidden_size,
        "num_heads": size.vision.num_heads,
        "intermediate_size": size.vision.intermediate_size,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": size.hidden_size,
        "deepstack_visual_indexes": [],
    }
    token_ids = {
        f"{name}_id": size.token_id(f"<|{token}|>")
        for name, token in (
            ("image_token", "image_pad"),
            ("video_token", "video_pad"),
            ("vision_start_token", "vision_start"),
            ("vision_end_token", "vision_end"),
        )
    }
    return {
        "architectures": [f"Qwen3_5{'Moe' if size.num_experts else ''}ForConditionalGeneration"],
        "model_type": kind,
        "tie_word_embeddings": size.is_tied,
        "text_config": text | mlp,
        "vision_config": vision,
        **token_ids,
    }


Tensors = Iterator[tuple[str, tuple[int, ...]]]


def tensors(size: Size) -> Tensors:
    """Every tensor's name and shape, in the order of the files."""
    yield "model.language_model.embed_tokens.weight", (size.vocab_size, size.hidden_size)
    for index, layer_type in enumerate(size.layer_types):
        yield from _layer(f"model.language_model.layers.{index}.", size, layer_type, fused=True)
    yield "model.language_model.norm.weight", (size.hidden_size,)
    if not size.is_tied:
        yield "lm_head.weight", (size.vocab_size, size.hidden_size)
    yield from _vision(size)
    if size.has_mtp:
        D = size.hidden_size
        yield "mtp.fc.weight", (D, 2 * D)
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            yield f"mtp.{name}.weight", (D,)
        # As in the official files: experts fused in the main layers, apart here.
        yield from _layer("mtp.layers.0.", size, "full_attention", fused=False)


def _layer(prefix: str, size: Size, layer_type: str, *, fused: bool) -> Tensors:
    D = size.hidden_size
    yield f"{prefix}input_layernorm.weight", (D,)
    yield f"{prefix}post_attention_layernorm.weight", (D,)
    if layer_type == "linear_attention":
        values = size.num_v_heads * LINEAR_HEAD_DIM
        channels = 2 * LINEAR_KEY_HEADS * LINEAR_HEAD_DIM + values
        at = f"{prefix}linear_attn."
        yield f"{at}in_proj_qkv.weight", (channels, D)
        yield f"{at}in_proj_z.weight", (values, D)
        yield f"{at}in_proj_b.weight", (size.num_v_heads, D)
        yield f"{at}in_proj_a.weight", (size.num_v_heads, D)
        yield f"{at}conv1d.weight", (channels, 1, CONV_WIDTH)
        yield f"{at}A_log", (size.num_v_heads,)
        yield f"{at}dt_bias", (size.num_v_heads,)
        yield f"{at}norm.weight", (LINEAR_HEAD_DIM,)
        yield f"{at}out_proj.weight", (D, values)
    else:
        at = f"{prefix}self_attn."
        yield f"{at}q_proj.weight", (2 * HEAD_DIM * size.num_heads, D)
        yield f"{at}k_proj.weight", (HEAD_DIM * size.num_kv_heads, D)
        yield f"{at}v_proj.weight", (HEAD_DIM * size.num_kv_heads, D)
        yield f"{at}o_proj.weight", (D, HEAD_DIM * size.num_heads)
        yield f"{at}q_norm.weight", (HEAD_DIM,)
        yield f"{at}k_norm.weight", (HEAD_DIM,)
    if not size.num_experts:
        yield from _mlp(f"{prefix}mlp.", D, size.intermediate_size)
        return
    E, intermediate = size.num_experts, size.intermediate_size
    yield f"{prefix}mlp.gate.weight", (E, D)
    if fused:
        yield f"{prefix}mlp.experts.gate_up_proj", (E, 2 * intermediate, D)
        yield f"{prefix}mlp.experts.down_proj", (E, D, intermediate)
    else:
        for expert in range(E):
            yield from _mlp(f"{prefix}mlp.experts.{expert}.", D, intermediate)
    yield from _mlp(f"{prefix}mlp.shared_expert.", D, intermediate)
    yield f"{prefix}mlp.shared_expert_gate.weight", (1, D)


def _mlp(prefix: str, hidden: int, intermediate: int) -> Tensors:
    yield f"{prefix}gate_proj.weight", (intermediate, hidden)
    yield f"{prefix}up_proj.weight", (intermediate, hidden)
    yield f"{prefix}down_proj.weight", (hidden, intermediate)


def _vision(size: Size) -> Tensors:
    d, mlp = size.vision.hidden_size, size.vision.intermediate_size

    def linear(name: str, outputs: int, inputs: int) -> Tensors:
        yield f"model.visual.{name}.weight", (outputs, inputs)
        yield f"model.visual.{name}.bias", (outputs,)

    def norm(name: str) -> Tensors:
        yield f"model.visual.{name}.weight", (d,)
        yield f"model.visual.{name}.bias", (d,)

    yield "model.visual.patch_embed.proj.weight", (d, 3, 2, 16, 16)
    yield "model.visual.patch_embed.proj.bias", (d,)
    yield "model.visual.pos_embed.weight", (2304, d)
    for block in range(size.vision.depth):
        at = f"blocks.{block}."
        yield from norm(f"{at}norm1")
        yield from norm(f"{at}norm2")
        yield from linear(f"{at}attn.qkv", 3 * d, d)
        yield from linear(f"{at}attn.proj", d, d)
        yield from linear(f"{at}mlp.linear_fc1", mlp, d)
        yield from linear(f"{at}mlp.linear_fc2", d, mlp)
    yield from norm("merger.norm")
    yield from linear("merger.linear_fc1", 4 * d, 4 * d)
    yield from linear("merger.linear_fc2", size.hidden_size, 4 * d)


def is_float32(name: str) -> bool:
    return name.endswith(("A_log", "linear_attn.norm.weight"))


class Pool:
    """Bytes that are handed out over and over, each time from where the last time ended. Mutable."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._start = 0

    def take(self, num_bytes: int) -> Iterator[memoryview]:
        while num_bytes:
            piece = self._data[self._start : self._start + num_bytes]
            yield piece
            num_bytes -= len(piece)
            self._start = (self._start + len(piece)) % len(self._data)


class RandomValues:
    """Values as a trained model might have them: matrices by the pool, small tensors one by one."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(bfloat16(self.normal((POOL_VALUES,), DEVIATION)).tobytes())

    def normal(self, shape: tuple[int, ...], deviation: float) -> NDArray[np.float32]:
        return np.float32(deviation) * self._generator.standard_normal(shape, np.float32)

    def small(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Of a tensor that is no matrix, or a convolution."""
        if name.endswith("A_log"):
            return np.log(self._generator.random(shape, np.float32) * np.float32(16) + np.float32(0.01))
        if name.endswith("linear_attn.norm.weight") or (
            "visual" in name and "norm" in name and "weight" in name
        ):
            return 1 + self.normal(shape, 0.1)
        if name.endswith("dt_bias"):
            return self.normal(shape, 1)
        return self.normal(shape, 0.5 if "conv1d" in name else 0.1)

    def stored(self, name: str, shape: tuple[int, ...]) -> Iterator[bytes | memoryview]:
        """Bytes of bf16, or of float32 where the official files have it."""
        if is_matrix(name, shape):
            yield from self._pool.take(2 * math.prod(shape))
        else:
            values = self.small(name, shape)
            yield (values if is_float32(name) else bfloat16(values)).tobytes()


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and "conv1d" not in name


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of each value rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def write_weights(size: Size, folder: Path) -> None:
    """Shards of at most about SHARD_BYTES and their index."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in tensors(size):
        if filled > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += _num_bytes(name, shape)
    values = RandomValues()
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        path = folder / f"model-{index:05}-of-{len(shards):05}.safetensors"
        _write_shard(path, shard, values)
        weight_map |= {name: path.name for name, _ in shard}
    total = sum(_num_bytes(name, shape) for shard in shards for name, shape in shard)
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _num_bytes(name: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * (4 if is_float32(name) else 2)


def _write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]], values: RandomValues) -> None:
    header, end = {}, 0
    for name, shape in shard:
        begin, end = end, end + _num_bytes(name, shape)
        dtype = "F32" if is_float32(name) else "BF16"
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, shape in shard:
            file.writelines(values.stored(name, shape))


def write_checkpoint(size: Size, folder: Path) -> None:
    write_small_files(size, folder)
    write_weights(size, folder)


def write_small_files(size: Size, folder: Path) -> None:
    """All but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_json(size))
    write_tokenizer(size.num_base_tokens, folder)
    eos = [size.token_id("<|im_end|>"), size.token_id("<|endoftext|>")]
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": eos, "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"shortest_edge": 65536, "longest_edge": 16777216},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="the first so many layers alone, a multiple of 4")
    parser.add_argument("--no-mtp", action="store_true", help="leave the MTP module out")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    size = replace(size, has_mtp=not arguments.no_mtp, num_layers=arguments.layers or size.num_layers)
    if size.num_layers % 4:
        parser.error("--layers must be a multiple of 4")
    write_checkpoint(size, arguments.folder)


if __name__ == "__main__":
    main()
