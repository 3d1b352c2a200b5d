"""The compiled vocabulary: the same ids and the same text as the `tokenizers` package reads them whole."""

import json
import shutil
from pathlib import Path
from unicodedata import is_normalized

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import qwen35
from qwen35.errors import CheckpointError
from qwen35.processing import vocabulary
from qwen35.processing.tokenizer import Tokenizer
from qwen35.processing.vocabulary import FILE, compile_vocabulary
from tests.model.processing.conftest import MINI, SHARED_DATA

TEXT = Path(qwen35.__file__).parent.joinpath("processing", "tokenizer.py").read_text(encoding="utf-8")
ADDED = ("<|im_start|>", "<|im_end|>", "<think>")

# Qwen3.5's own words: letters with what joins them, single digits, punctuation, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def whole() -> tokenizers.Tokenizer:
    """Trained on text that holds more than ASCII: some merges join the bytes of one character."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator(
        [TEXT, "東京都に行きました " * 9, "année naïve 🙂🙂👩‍👩‍👧 " * 9, "      \n\n\n" * 9], trainer
    )
    trained.add_special_tokens(list(ADDED[:2]))
    trained.add_tokens(list(ADDED[2:]))
    return trained


@pytest.fixture(scope="module")
def pair(
    whole: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Tokenizer]:
    """Read whole, and compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    compiled = compile_vocabulary(whole.to_str().encode())
    assert compiled is not None
    (folder / FILE).write_bytes(compiled)
    return Tokenizer(whole), Tokenizer.from_folder(folder)


PIECES = st.sampled_from(
    [
        *ADDED,
        *TEXT.split(),
        "東京",
        "京都",
        "année",
        "e\u0301",
        "🙂",
        "👩‍👩‍👧",
        " ",
        "    ",
        "\n\n",
        "123",
        "'ll",
    ]
)


@settings(deadline=None, max_examples=300)
@given(text=st.text() | st.lists(PIECES).map("".join) | st.lists(PIECES).map(" ".join))
def test_ids_and_text_are_those_of_the_package(
    pair: tuple[Tokenizer, Tokenizer], whole: tokenizers.Tokenizer, text: str
) -> None:
    ours, compiled = pair

    ids = compiled.encode(compiled.protect(text))

    assert ids == ours.encode(ours.protect(text))
    assert compiled.decode(ids) == ours.decode(ids) == whole.decode(ids)
    shown = compiled.encode(text)
    for skip_special in (True, False):
        expected = whole.decode(shown, skip_special_tokens=skip_special)
        assert compiled.decode(shown, skip_special) == ours.decode(shown, skip_special) == expected


@settings(deadline=None)
@given(texts=st.lists(st.lists(PIECES).map("".join), min_size=1, max_size=4))
def test_what_was_read_before_changes_nothing(
    whole: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / FILE).write_bytes(compile_vocabulary(whole.to_str().encode()) or b"")
    one_after_another = Tokenizer.from_folder(folder)

    ids = [one_after_another.encode(text) for text in texts]

    assert ids == [Tokenizer.from_folder(folder).encode(text) for text in texts]


def test_every_token_is_found_both_ways(pair: tuple[Tokenizer, Tokenizer]) -> None:
    whole, compiled = pair
    assert compiled.size == whole.size
    for token_id in range(-1, whole.size + 2):
        token = whole.token_of(token_id)
        assert compiled.token_of(token_id) == token
        if token is not None:
            assert compiled.id_of(token) == whole.id_of(token) == token_id
    assert compiled.id_of("no such token") is whole.id_of("no such token") is None
    assert compiled.id_of("") is None


def test_long_texts_take_the_whole_vocabulary(
    pair: tuple[Tokenizer, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, compiled = pair
    monkeypatch.setattr(vocabulary, "_MOST_SUBSTRINGS", 100)
    monkeypatch.setattr(vocabulary, "_MOST_WORDS", 20)

    assert compiled.encode(TEXT) == whole.encode(TEXT)
    assert compiled.encode(TEXT + " again") == whole.encode(TEXT + " again")


def test_the_real_vocabulary_gives_the_expected_ids(real_tokenizer_json: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(compile_vocabulary(real_tokenizer_json.encode()) or b"")
    compiled, data = Tokenizer.from_folder(tmp_path), SHARED_DATA / "ggml-vocab-qwen35.gguf"
    texts = data.with_name(data.name + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = data.with_name(data.name + ".out").read_text(encoding="utf-8").splitlines()
    expected = [[int(i) for i in line.split()] for line in lines]
    # llama.cpp, which the ids are of, knows no normalisation.
    pairs = [(text, ids) for text, ids in zip(texts, expected, strict=False) if is_normalized("NFC", text)]
    assert len(pairs) > 40

    assert [compiled.encode(text) for text, _ in pairs] == [ids for _, ids in pairs]


def test_mini_reads_the_same(tmp_path: Path) -> None:
    whole = Tokenizer.from_folder(MINI)
    (tmp_path / FILE).write_bytes(compile_vocabulary((MINI / "tokenizer.json").read_bytes()) or b"")

    assert Tokenizer.from_folder(tmp_path).encode(TEXT) == whole.encode(TEXT)


def changed(whole: tokenizers.Tokenizer, **model: object) -> bytes:
    parsed = json.loads(whole.to_str())
    parsed["model"] |= model
    return json.dumps(parsed).encode()


def test_other_kinds_are_left_to_the_package(whole: tokenizers.Tokenizer) -> None:
    parsed = json.loads(whole.to_str())
    assert compile_vocabulary(changed(whole, byte_fallback=True)) is None
    assert compile_vocabulary(changed(whole, unk_token="!")) is None
    assert compile_vocabulary(changed(whole, dropout=0.1)) is None
    assert compile_vocabulary(changed(whole, type="Unigram")) is None
    assert compile_vocabulary(changed(whole, vocab={"a": 0, "b": 2})) is None  # a gap
    assert compile_vocabulary(changed(whole, merges=[["x", "yz"]])) is None  # of no token
    assert compile_vocabulary(json.dumps(parsed | {"pre_tokenizer": None}).encode()) is None
    assert compile_vocabulary(b"") is compile_vocabulary(b"[]") is compile_vocabulary(b"{}") is None


def test_words_that_are_tokens_may_be_left_unmerged(whole: tokenizers.Tokenizer, tmp_path: Path) -> None:
    source = changed(whole, ignore_merges=True)
    (tmp_path / FILE).write_bytes(compile_vocabulary(source) or b"")

    ids = Tokenizer.from_folder(tmp_path).encode(TEXT)

    assert ids == Tokenizer(tokenizers.Tokenizer.from_buffer(source)).encode(TEXT)


def test_merges_written_as_one_string_are_read(whole: tokenizers.Tokenizer) -> None:
    merges = [" ".join(pair) for pair in json.loads(whole.to_str())["model"]["merges"]]
    assert compile_vocabulary(changed(whole, merges=merges)) == compile_vocabulary(whole.to_str().encode())


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    shutil.copy(MINI / "tokenizer.json", tmp_path)
    (tmp_path / FILE).write_bytes(damage)

    with pytest.raises(CheckpointError, match=FILE):
        Tokenizer.from_folder(tmp_path)
