import json

import pytest
from tokenizers import Tokenizer

from mini.bpe import learn_merges
from mini.prompt import IMAGE, render, write_clip
from mini.sample import WORLDS, make_sample
from mini.tokenizer import NUM_MERGES, PLAIN_ADDED_TOKENS, SPECIAL_TOKENS, MiniTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return MiniTokenizer.load()


@pytest.fixture(scope="module")
def library(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.write(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def texts(world, num_samples):
    for seed in range(num_samples):
        sample = make_sample(world, seed, "train", (200, 280))
        seen = write_clip(sample.clip.plan) if sample.clip else "" if sample.pixels is None else IMAGE
        for question in sample.questions:
            yield "".join(render(question, seen))


@pytest.mark.parametrize("world", WORLDS)
def test_it_agrees_with_the_library_and_round_trips(world, tokenizer, library):
    for text in texts(world, 100):
        ids = tokenizer.encode(text)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a  b   c",
        "tabs\tand\r\nline ends\n\n  \n x",
        "it's I'LL they'Re '5'",
        "12345.67 $3.99 (A7-42)",
        "!?.,;:#@&*+=<>[]{}|~^_`\\/\"'\n",
        "<think>\nx\n</think>\n\n<|im_end|><|image_pad|><|image_pad|>",
        "\x1c\x1d \x0b\x0c",
    ],
)
def test_odd_text_is_split_as_by_the_library(text, tokenizer, library):
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_there_are_at_most_640_ids(tokenizer, library):
    assert len(tokenizer) == library.get_vocab_size() <= 640
    assert all(library.token_to_id(token) == index for token, index in tokenizer.ids.items())


def test_only_thinking_tokens_stay_when_special_ones_are_skipped(tokenizer, library):
    ids = [tokenizer.id(token) for token in (*SPECIAL_TOKENS, *PLAIN_ADDED_TOKENS)]
    assert library.decode(ids, skip_special_tokens=True) == "<think></think>"


def test_other_than_ascii_is_refused(tokenizer):
    with pytest.raises(AssertionError):
        tokenizer.encode("caf\u00e9")


def test_broken_bytes_decode_to_a_replacement(tokenizer):
    assert tokenizer.decode([tokenizer.id("Ã")]) == "\ufffd"


def test_merges_lengthen_the_openings_of_words_alone(tokenizer):
    learnt = tokenizer.merges[:NUM_MERGES]
    assert all(left[0] == "Ġ" or left[0].isupper() for left, _ in learnt)
    assert all(len(right) == 1 and right.isalpha() for _, right in learnt)
    for letters in ("abcxyz", "reading", "12.50", "2024-03-17"):
        assert len(tokenizer.encode(letters)) == len(letters)


def test_the_role_that_answers_is_one_token(tokenizer):
    assert len(tokenizer.encode("<|im_start|>assistant\n<think>\n\n</think>\n\n")) == 7


def test_frequent_openings_are_merged_first():
    merges = learn_merges(["the red circle and the red square at the top"], 3)
    assert merges[0] == ("Ġ", "t")
    assert ("Ġt", "h") in merges


def test_the_configuration_carries_the_template(tokenizer, tmp_path):
    tokenizer.write(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["chat_template"] == (tmp_path / "chat_template.jinja").read_text()
    assert config["eos_token"] == "<|im_end|>"
    assert config["added_tokens_decoder"][str(tokenizer.id("<think>"))]["special"] is False
