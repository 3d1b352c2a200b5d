"""The tokenizer of synthetic checkpoints: as many tokens and merges as the real one, and a plain template."""

import json
from itertools import chain, islice, product
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

# In the order of their ids. Most of them stand in pairs, which is how they are written here.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{{- part.text if part.type == 'text' else '<|vision_start|><|' + part.type + '_pad|><|vision_end|>' -}}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' if add_generation_prompt -}}
"""


def token_texts(num_base_tokens: int) -> list[str]:
    """What the base tokens are called: the bytes come first, what the merges make follows."""
    # The byte-level alphabet: printable bytes stand for themselves, the others for what follows U+0100.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [alphabet[byte] for byte in range(256)] + [
        left + right for left, right in token_merges(num_base_tokens)
    ]


def token_merges(num_base_tokens: int) -> list[tuple[str, str]]:
    """As many as a real vocabulary has: all pairs of letters, then pairs of those."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    pairs = list(product(letters, letters))
    fours = product(map("".join, pairs), repeat=2)
    return list(islice(chain(pairs, fours), num_base_tokens - 256))


def write_tokenizer(num_base_tokens: int, folder: Path) -> None:
    vocab = {text: i for i, text in enumerate(token_texts(num_base_tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=token_merges(num_base_tokens)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # words, as texts have them
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(token, special=token.startswith("<|"), normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
