"""mini's tokenizer: a byte-level BPE of a few hundred tokens, and its files in the official layout.

The merges are learnt once, from the prose of the questions and answers, and kept in `merges.json`;
training and the written checkpoint use the same. `python -m mini.tokenizer` learns them anew, and
makes every trained checkpoint useless.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mini.bpe import ALPHABET, NEWLINE, SPACE, Merge, apply_merges, learn_merges, split_pieces
from mini.corpus import prose

MERGES_FILE = Path(__file__).parent / "merges.json"
TEMPLATE_FILE = Path(__file__).parent / "chat_template.jinja"
NUM_MERGES = 300
# What every prompt holds: the role that answers, begun in its middle so that the merges fire nowhere
# else to speak of, and the empty line around the reasoning.
TEMPLATE_MERGES = (
    *(("s", "s"), ("ss", "i"), ("a", "ssi"), ("assi", "s"), ("assis", "t")),
    *(("assist", "a"), ("assista", "n"), ("assistan", "t"), (NEWLINE, NEWLINE)),
)
# What stands between the values of JSON, each of which is then one step.
JSON_MERGES = (
    *(('"', ":"), ('"', ","), (SPACE, '"'), ("{", '"'), (SPACE, '{"'), ("[", '{"'), (SPACE, '[{"')),
    *(('"', "}"), ('"}', ","), ('"}', "]"), ("}", ","), ("}", "]"), ("}]", ",")),
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_ADDED_TOKENS = ("<think>", "</think>")  # kept in the text where special tokens are skipped
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class MiniTokenizer:
    """Text to ids and back. Only ASCII is encoded; what it decodes may be any bytes."""

    def __init__(self, merges: Sequence[Merge]) -> None:
        self.merges = list(merges)
        tokens = [*sorted(ALPHABET.values()), *("".join(merge) for merge in merges)]
        self.added = (*SPECIAL_TOKENS, *PLAIN_ADDED_TOKENS)
        self.ids = {token: index for index, token in enumerate((*tokens, *self.added))}
        self.tokens = [*tokens, *self.added]
        self.num_plain = len(tokens)
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._added_pattern = re.compile("(" + "|".join(re.escape(token) for token in self.added) + ")")
        self._bytes = {char: byte for byte, char in ALPHABET.items()}
        self._encoded_pieces: dict[str, list[int]] = {}

    @classmethod
    def load(cls) -> Self:
        """The tokenizer of the committed merges."""
        return cls([(left, right) for left, right in json.loads(MERGES_FILE.read_text())])

    @classmethod
    def train(cls) -> Self:
        """Learn the merges anew from the prose of the questions and answers."""
        return cls([*learn_merges(prose(), NUM_MERGES), *TEMPLATE_MERGES, *JSON_MERGES])

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        return self.ids[token]

    def encode(self, text: str) -> list[int]:
        """The ids of the text, in which added tokens such as `<|im_end|>` stand for themselves."""
        ids: list[int] = []
        for index, part in enumerate(self._added_pattern.split(text)):
            if index % 2:
                ids.append(self.ids[part])
            else:
                for piece in split_pieces(part):
                    ids += self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._encoded_pieces.get(piece)
        if ids is None:
            ids = [self.ids[token] for token in apply_merges(piece, self._ranks)]
            if len(self._encoded_pieces) < 100_000:
                self._encoded_pieces[piece] = ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, added tokens included; broken UTF-8 becomes U+FFFD."""
        data = b"".join(
            bytes(self._bytes[char] for char in self.tokens[index])
            if index < self.num_plain
            else self.tokens[index].encode()
            for index in ids
        )
        return data.decode(errors="replace")

    def write(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
        template = TEMPLATE_FILE.read_text()
        (folder / "tokenizer.json").write_text(json.dumps(self._tokenizer_json(), ensure_ascii=False))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "unk_token": None,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 8192,
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
            "added_tokens_decoder": {str(entry.pop("id")): entry for entry in self._added_entries()},
            "additional_special_tokens": list(SPECIAL_TOKENS),
            "chat_template": template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "chat_template.jinja").write_text(template)

    def _added_entries(self) -> list[dict[str, object]]:
        return [
            {
                "id": self.ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in SPECIAL_TOKENS,
            }
            for token in self.added
        ]

    def _tokenizer_json(self) -> dict[str, object]:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_entries(),
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": PRETOKENIZER},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": False,
                        "use_regex": False,
                    },
                ],
            },
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": False,
                "use_regex": False,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: index for index, token in enumerate(self.tokens[: self.num_plain])},
                "merges": [list(merge) for merge in self.merges],
            },
        }


if __name__ == "__main__":
    MERGES_FILE.write_text(json.dumps(MiniTokenizer.train().merges, ensure_ascii=False) + "\n")
