import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from qwen35.errors import CheckpointError
from qwen35.processing.tokenizer import Tokenizer, unmarked
from tests.model.checkpoint import byte_tokenizer
from tests.model.reference import SPECIAL_TOKENS, TOKEN_ID

MODEL = Path(__file__).resolve().parents[3] / "model"

TEXTS = (
    "",
    "Hello, world!",
    "  two  spaces \r\n\n and lines\t",
    "année, e\u0301te\u0301 (combining), naïve, 東京, हिन्दी, 😀👩‍👩‍👧",
    "12345 1.5e-3 I'll don't",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "<|image_pad|><|image_pad|> <|im_end|>e\u0301<|im_end|",
)


TOKENIZER = Tokenizer(byte_tokenizer())


def as_bytes(text: str) -> list[int]:
    """What the byte tokenizer makes of ordinary text."""
    return list(unicodedata.normalize("NFC", text).encode())


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_as_the_tokenizers_package_does(text: str, tmp_path: Path) -> None:
    # Qwen3.5's own pretokenizer, and merges that reach over what it separates.
    alphabet = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("H", "e"), ("l", "l"), ("Ġ", "w"), ("Ġ", "Ġ"), ("1", "2"), ("e", "Ì"), ("Ã", "©")]
    vocab = alphabet | {a + b: len(alphabet) + i for i, (a, b) in enumerate(merges)}
    official = Qwen3_5Tokenizer(vocab=vocab, merges=merges)
    official.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:7])})
    official.add_tokens(list(SPECIAL_TOKENS[7:]))
    official.save_pretrained(tmp_path)

    ours = Tokenizer.from_folder(tmp_path)

    assert ours.encode(text) == official(text, add_special_tokens=False)["input_ids"]
    assert ours.size == len(official)


PIECES = st.sampled_from([*SPECIAL_TOKENS, "<|im_", "end|>", "<", " ", "a\u0301"])


@settings(deadline=None)
@given(text=st.text() | st.lists(PIECES).map("".join))
def test_protected_text_is_ordinary_text(text: str) -> None:
    protected = TOKENIZER.protect(text)

    assert TOKENIZER.encode(protected) == as_bytes(text)
    assert unmarked(protected) == text
    ends = [TOKEN_ID["<|im_end|>"]]
    assert TOKENIZER.encode(f"<|im_end|>{protected}<|im_end|>") == ends + as_bytes(text) + ends


def test_overlapping_added_tokens_are_all_protected() -> None:
    backend = byte_tokenizer()
    backend.add_tokens(["<a>b", "b<c>"])
    tokenizer = Tokenizer(backend)

    assert tokenizer.encode(tokenizer.protect("<a>b<c>")) == as_bytes("<a>b<c>")


def test_the_longest_added_token_wins() -> None:
    backend = byte_tokenizer()
    backend.add_tokens(["<a>", "<a>b"])

    assert Tokenizer(backend).encode("<a>b<a>") == [backend.token_to_id("<a>b"), backend.token_to_id("<a>")]


def test_special_only_leaves_what_a_model_writes_itself() -> None:
    text = "</think><|im_end|>"

    ids = TOKENIZER.encode(TOKENIZER.protect(text, special_only=True))

    assert ids == [TOKEN_ID["</think>"], *as_bytes("<|im_end|>")]


def test_lone_surrogates_become_replacement_characters() -> None:
    undecodable = b"caf\xe9.png".decode("utf-8", "surrogateescape")

    assert TOKENIZER.encode(TOKENIZER.protect(undecodable)) == as_bytes("caf\ufffd.png")


def test_decode_leaves_out_special_tokens_and_keeps_thinking_tags() -> None:
    ids = [TOKEN_ID["<think>"], *b"hm", TOKEN_ID["</think>"], *"né".encode(), TOKEN_ID["<|im_end|>"]]

    assert TOKENIZER.decode(ids) == "<think>hm</think>né"
    assert TOKENIZER.decode(ids, skip_special=False) == "<think>hm</think>né<|im_end|>"
    assert TOKENIZER.decode(b"n\xc3") == "n\ufffd"


def test_ids_and_tokens_are_looked_up_both_ways() -> None:
    assert TOKENIZER.id_of("<|im_end|>") == TOKEN_ID["<|im_end|>"]
    assert TOKENIZER.id_of("<|nothing|>") is None
    assert TOKENIZER.token_of(TOKEN_ID["<|im_end|>"]) == "<|im_end|>"
    assert TOKENIZER.token_of(TOKENIZER.size) is None


def test_size_is_one_past_the_last_id() -> None:
    assert TOKENIZER.size == 256 + len(SPECIAL_TOKENS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": 1}', b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_processing_imports_no_torch() -> None:
    code = "import sys, qwen35.processing.processor; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(MODEL)}, timeout=60)
