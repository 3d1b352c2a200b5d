"""The family's pre-tokeniser and a real vocabulary, from GGUF metadata, against ids that llama.cpp gives."""

import json
from unicodedata import is_normalized

import pytest

from qwen35.processing.tokenizer import Tokenizer
from qwen35.weights.sources.gguf_config import tokenizer_of
from qwen35.weights.sources.gguf_file import read_gguf
from tests.model.processing.conftest import SHARED_DATA

VOCABULARY = SHARED_DATA / "ggml-vocab-qwen35.gguf"


@pytest.mark.skipif(not VOCABULARY.exists(), reason=f"{VOCABULARY} is not beside this checkout")
def test_ids_are_those_expected(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(read_gguf(VOCABULARY))), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    texts = VOCABULARY.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = VOCABULARY.with_suffix(".gguf.out").read_text().splitlines()

    expected = [[int(token) for token in line.split()] for line in lines]

    # llama.cpp leaves decomposed letters as they are; the official tokenizer composes them first.
    compared = [pair for pair in zip(texts, expected, strict=False) if is_normalized("NFC", pair[0])]
    assert [tokenizer.encode(text) for text, _ in compared] == [ids for _, ids in compared]
    assert len(compared) >= 45
