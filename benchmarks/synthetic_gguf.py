"""Write the same true shape as a GGUF file: `python benchmarks/synthetic_gguf.py 0.8b OUT.gguf`.

For llama.cpp, the peer. Architectures `qwen35` and `qwen35moe`, random blocks of Q4_0 whose nibbles have
the mean zero, as in `synthetic_packed.py`; head and embedding in Q4_0 or Q8_0. Text alone, no MTP. What
is not Q4_0 there is not q4 here either: routers and small tensors are F32, the two gates of the linear
attention Q8_0.
"""

import argparse
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.synthetic import (
    CONV_WIDTH,
    DEVIATION,
    HEAD_DIM,
    LINEAR_HEAD_DIM,
    LINEAR_KEY_HEADS,
    SIZES,
    TINY_SIZES,
    Pool,
    RandomValues,
    Size,
    is_matrix,
    tensors,
)
from benchmarks.synthetic_packed import POOL_BLOCKS, draw_scales
from benchmarks.synthetic_tokenizer import SPECIAL_TOKENS, token_merges, token_texts

VERSION = 3
ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of metadata
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of tensor data: its number in the file, and the bytes of one block of values."""

    number: int
    values: int
    size_bytes: int


BLOCK_TYPES = {"F32": BlockType(0, 1, 4), "Q4_0": BlockType(2, 32, 18), "Q8_0": BlockType(8, 32, 34)}

# Of one layer, from the official names. Fused experts are two tensors there, as the converter writes them.
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
OTHER_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LANGUAGE_MODEL = "model.language_model."


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` with the rows' length last, as numpy has it; the file has it first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    official_name: str

    @property
    def size_bytes(self) -> int:
        block = BLOCK_TYPES[self.type_name]
        assert self.shape[-1] % block.values == 0, f"{self.name}: rows are no whole blocks"
        return prod(self.shape) // block.values * block.size_bytes


def gguf_tensors(size: Size, head_type: str) -> list[GgufTensor]:
    """Every tensor of the file, in order. `head_type` is that of head and embedding."""
    found = []
    for official, shape in tensors(replace(size, has_mtp=False)):
        if official.startswith("model.visual."):
            continue
        short = official.removeprefix(LANGUAGE_MODEL)
        if not short.startswith("layers."):
            name = OTHER_NAMES[short]
            found.append(GgufTensor(name, shape, head_type if len(shape) > 1 else "F32", official))
            continue
        _, index, rest = short.split(".", 2)
        if rest == "mlp.experts.gate_up_proj":
            E, rows, D = shape
            for name in ("ffn_gate_exps.weight", "ffn_up_exps.weight"):
                found.append(GgufTensor(f"blk.{index}.{name}", (E, rows // 2, D), "Q4_0", official))
            continue
        if rest == "linear_attn.conv1d.weight":
            shape = (shape[0], shape[2])
        elif rest == "mlp.shared_expert_gate.weight":
            shape = (shape[1],)
        found.append(GgufTensor(f"blk.{index}.{LAYER_NAMES[rest]}", shape, _type_of(rest, shape), official))
    return found


def _type_of(name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 1 or name in ("linear_attn.conv1d.weight", "mlp.gate.weight"):
        return "F32"
    if name in ("linear_attn.in_proj_a.weight", "linear_attn.in_proj_b.weight"):
        return "Q8_0"
    return "Q4_0"


def metadata(size: Size) -> list[tuple[str, int, object]]:
    """Keys with the types of their values, as llama.cpp's loader asks for them."""
    arch = "qwen35moe" if size.num_experts else "qwen35"
    values = size.num_v_heads * LINEAR_HEAD_DIM
    keys: list[tuple[str, int, object]] = [
        ("context_length", UINT32, 262144),
        ("embedding_length", UINT32, size.hidden_size),
        ("block_count", UINT32, size.num_layers),
        ("attention.head_count", UINT32, size.num_heads),
        ("attention.head_count_kv", UINT32, size.num_kv_heads),
        ("attention.key_length", UINT32, HEAD_DIM),
        ("attention.value_length", UINT32, HEAD_DIM),
        ("attention.layer_norm_rms_epsilon", FLOAT32, 1e-6),
        ("rope.dimension_count", UINT32, HEAD_DIM // 4),
        ("rope.dimension_sections", INT32, [11, 11, 10, 0]),
        ("rope.freq_base", FLOAT32, 1e7),
        ("ssm.conv_kernel", UINT32, CONV_WIDTH),
        ("ssm.state_size", UINT32, LINEAR_HEAD_DIM),
        ("ssm.group_count", UINT32, LINEAR_KEY_HEADS),
        ("ssm.time_step_rank", UINT32, size.num_v_heads),
        ("ssm.inner_size", UINT32, values),
        ("full_attention_interval", UINT32, 4),
    ]
    if size.num_experts:
        keys += [
            ("expert_count", UINT32, size.num_experts),
            ("expert_used_count", UINT32, size.num_experts_per_tok),
            ("expert_feed_forward_length", UINT32, size.intermediate_size),
            ("expert_shared_feed_forward_length", UINT32, size.intermediate_size),
        ]
    else:
        keys.append(("feed_forward_length", UINT32, size.intermediate_size))
    texts, kinds = _vocabulary(size)
    return [
        ("general.architecture", STRING, arch),
        ("general.name", STRING, "synthetic"),
        ("general.quantization_version", UINT32, 2),
        ("general.file_type", UINT32, 2),  # mostly Q4_0
        *((f"{arch}.{key}", kind, value) for key, kind, value in keys),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "qwen35"),
        ("tokenizer.ggml.tokens", STRING, texts),
        ("tokenizer.ggml.token_type", INT32, kinds),
        ("tokenizer.ggml.merges", STRING, [" ".join(pair) for pair in token_merges(size.num_base_tokens)]),
        ("tokenizer.ggml.eos_token_id", UINT32, size.token_id("<|im_end|>")),
        ("tokenizer.ggml.padding_token_id", UINT32, size.token_id("<|endoftext|>")),
        ("tokenizer.ggml.bos_token_id", UINT32, size.token_id("<|endoftext|>")),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def _vocabulary(size: Size) -> tuple[list[str], list[int]]:
    base = token_texts(size.num_base_tokens)
    num_padding = size.vocab_size - len(base) - len(SPECIAL_TOKENS)
    special = [CONTROL if token.startswith("<|") else USER_DEFINED for token in SPECIAL_TOKENS]
    texts = [*base, *SPECIAL_TOKENS, *(f"[PAD{i}]" for i in range(num_padding))]
    return texts, [NORMAL] * len(base) + special + [UNUSED] * num_padding


class RandomBlocks:
    """Bytes of tensors by type."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self._values = RandomValues(seed)
        self._pools = {name: Pool(_draw_blocks(name, generator)) for name in ("Q4_0", "Q8_0")}

    def of(self, tensor: GgufTensor) -> Iterator[bytes | memoryview]:
        if tensor.type_name != "F32":
            yield from self._pools[tensor.type_name].take(tensor.size_bytes)
        elif is_matrix(tensor.official_name, tensor.shape):
            yield self._values.normal(tensor.shape, DEVIATION).tobytes()
        else:
            yield self._small(tensor).tobytes()

    def _small(self, tensor: GgufTensor) -> np.ndarray:
        values = self._values.small(tensor.official_name, tensor.shape)
        if tensor.name.endswith("ssm_a"):
            return -np.exp(values)
        is_shifted = tensor.name.endswith("norm.weight") and not tensor.name.endswith("ssm_norm.weight")
        return values + np.float32(1) if is_shifted else values  # ours are applied as 1 + w


def _draw_blocks(type_name: str, generator: np.random.Generator) -> bytes:
    """Blocks of a scale in fp16 and 32 whole numbers; more of them than of the larger tiles."""
    count = 17 * POOL_BLOCKS
    blocks = np.empty((count, BLOCK_TYPES[type_name].size_bytes), np.uint8)
    highest = 7 if type_name == "Q4_0" else 127
    blocks[:, :2] = draw_scales(generator, (count, 1), highest).view(np.uint8)
    quants = blocks[:, 2:]
    if type_name == "Q4_0":
        nibbles = generator.integers(1, 15, (2, *quants.shape), np.uint8, endpoint=True)
        quants[:] = nibbles[0] | nibbles[1] << 4
    else:
        quants[:] = generator.integers(-127, 127, quants.shape, np.int8, endpoint=True).view(np.uint8)
    return blocks.tobytes()


def write_gguf(size: Size, path: Path, head_type: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    infos, keys = gguf_tensors(size, head_type), metadata(size)
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(infos), len(keys)))
        for key, kind, value in keys:
            file.write(_string(key) + _value(kind, value))
        offset = 0
        for info in infos:
            dimensions = info.shape[::-1]
            block = BLOCK_TYPES[info.type_name]
            file.write(
                _string(info.name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
            )
            file.write(struct.pack("<IQ", block.number, offset))
            offset += info.size_bytes + -info.size_bytes % ALIGNMENT
        blocks = RandomBlocks()
        for info in infos:
            _align(file)
            file.writelines(blocks.of(info))
        _align(file)


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def _value(kind: int, value: object) -> bytes:
    if isinstance(value, list):
        head = struct.pack("<IIQ", ARRAY, kind, len(value))
        return head + b"".join(_scalar(kind, item) for item in value)
    return struct.pack("<I", kind) + _scalar(kind, value)


def _scalar(kind: int, value: object) -> bytes:
    if kind == STRING:
        return _string(str(value))
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=(*SIZES, *TINY_SIZES))
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, help="the first so many layers alone, a multiple of 4")
    parser.add_argument("--head", choices=("Q4_0", "Q8_0"), default="Q4_0", help="type of head and embedding")
    arguments = parser.parse_args()
    size = (SIZES | TINY_SIZES)[arguments.size]
    size = replace(size, num_layers=arguments.layers or size.num_layers)
    if size.num_layers % 4:
        parser.error("--layers must be a multiple of 4")
    write_gguf(size, arguments.file, arguments.head)


if __name__ == "__main__":
    main()
