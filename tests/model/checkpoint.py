"""A tiny random model as a whole checkpoint folder, as `qwen ask -m FOLDER` takes it.

Weights by `save_pretrained`, the MTP module in a second shard, a byte tokenizer, a chat template in
the manner of the official one, and the processor's and generation's settings.
"""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.model.reference import SPECIAL_TOKENS, TOKEN_ID, Shape
from tests.model.reference_mtp import ReferenceMtp

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role == 'system' and not loop.first -%}
        {{- raise_exception('System message must be at the beginning.') -}}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content | trim -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'video' -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- else -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is true -%}
        {{- '<think>\\n' -}}
    {%- else -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""

# Small bounds: a test picture becomes 4 to 64 tokens.
PREPROCESSOR_CONFIG = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

GENERATION_CONFIG = {
    "bos_token_id": TOKEN_ID["<|endoftext|>"],
    "pad_token_id": TOKEN_ID["<|endoftext|>"],
    "eos_token_id": [TOKEN_ID["<|im_end|>"], TOKEN_ID["<|endoftext|>"]],
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}


def byte_tokenizer() -> Tokenizer:
    """Token id = byte, then the special tokens; nothing merges."""
    alphabet = bytes_to_unicode()
    tokenizer = Tokenizer(models.BPE(vocab={alphabet[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The two thinking tokens are added but not "special", as in the official tokenizer.
    tokenizer.add_tokens(
        [
            AddedToken(token, special=not token.endswith("think>"), normalized=False)
            for token in SPECIAL_TOKENS
        ]
    )
    return tokenizer


def write_checkpoint(folder: Path, model: PreTrainedModel, shape: Shape) -> None:
    """Write `model` and everything beside its weights into `folder`."""
    model.save_pretrained(folder)
    _add_mtp_shard(folder, ReferenceMtp(model, shape))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer_config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "model_max_length": 4096,
    }
    for name, values in (
        ("tokenizer_config", tokenizer_config),
        ("preprocessor_config", PREPROCESSOR_CONFIG),
        ("generation_config", GENERATION_CONFIG),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2), encoding="utf-8")


def _add_mtp_shard(folder: Path, mtp: ReferenceMtp) -> None:
    """Turn the single weight file into two shards and an index."""
    main = (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    extra = folder / "model-00002-of-00002.safetensors"
    save_file({f"mtp.{name}": tensor for name, tensor in mtp.state_dict().items()}, extra)
    weight_map = {name: path.name for path in (main, extra) for name in load_file(path)}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
