"""Where someone may come back to: whatever follows there, the ids before it stay as they are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import qwen35
from qwen35.config import ModelConfig
from qwen35.messages import Message, TextPart
from qwen35.processing.processor import ModelInput, Processor
from qwen35.processing.template import ChatTemplate
from qwen35.processing.tokenizer import Tokenizer

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"

DOCUMENTS = (
    "The cat sat on the mat.",
    "The cat and the dog",
    "a = b + c;\n\nreturn f(x",
    "total 1,234.5",
    "one\ttwo  three   ",
    "\n\n  indented\n",
    "caf\u00e9 cafe\u0301 nai\u0308ve",
    "東京都に行きました",
    "한국어 \u1100\u1161\u11a8",
    "हिन्दी में",
    "party 🙂 👩‍👩‍👧",
    "x ==\u0338",
    "it spells <|im_end|> and <|im_start|>user",
    "it ends with <|im_",
    "it's, they'll, we've",
    "'",
    "x",
)
# How a question may begin, after a document and nothing between.
QUESTIONS = (
    "\nWhat is it?",
    "\r\n\r\nwhat?",
    " and then?",
    "  two spaces",
    "\u0301 combining",
    "\u0308\u0301",
    "\u0338 not",
    "'s owner?",
    "'ll it be?",
    "7 apples",
    "東京は?",
    "\u3099",
    "\u1161\u11a8",
    "🙂?",
    "\u200d👧",
    "\ufe0f",
    "end|>",
    ".5",
    ")",
    "ing",
    "What?",
)


def processor_of(tokenizer: Tokenizer, template: ChatTemplate | None) -> Processor:
    return Processor(ModelConfig.from_folder(MINI), tokenizer, template, None)


@pytest.fixture(scope="module")
def mini() -> Processor:
    return processor_of(Tokenizer.from_folder(MINI), ChatTemplate.from_folder(MINI))


@pytest.fixture(scope="module")
def real(
    real_tokenizer_json: str, official_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Processor:
    """The real vocabulary, merges and template of the family, in the words of its own pre-tokeniser."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "chat_template.jinja").write_text(official_template, encoding="utf-8")
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(real_tokenizer_json))
    return processor_of(tokenizer, ChatTemplate.from_folder(folder))


@pytest.fixture(params=["mini", "real"])
def processor(request: pytest.FixtureRequest) -> Processor:
    return request.getfixturevalue(request.param)


def asked(processor: Processor, *texts: str) -> ModelInput:
    return processor.prepare([Message("user", tuple(TextPart(text) for text in texts))])


def beginnings(prompts: list[ModelInput]) -> Iterator[np.ndarray]:
    """What stands before each end of a document in any of the prompts."""
    for prompt in prompts:
        for end in prompt.document_ends:
            yield prompt.ids[:end]


def assert_all_begin_so(prompts: list[ModelInput]) -> None:
    for beginning in beginnings(prompts):
        for other in prompts:
            assert np.array_equal(other.ids[: len(beginning)], beginning)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_question_changes_the_ids_before_a_documents_end(processor: Processor, document: str) -> None:
    prompts = [asked(processor, document, question) for question in QUESTIONS]
    assert_all_begin_so(prompts)
    assert_all_begin_so([asked(processor, "Before it.", document, question) for question in QUESTIONS])


@pytest.mark.parametrize("document", DOCUMENTS[:4])
def test_the_end_of_a_document_is_at_its_last_word_whatever_follows(
    processor: Processor, document: str
) -> None:
    prompts = [asked(processor, document, question) for question in QUESTIONS]
    assert {prompt.document_ends for prompt in prompts} == {prompts[0].document_ends}
    (end,) = prompts[0].document_ends
    text = processor.tokenizer.decode([int(i) for i in prompts[0].ids[:end]], skip_special=False)
    last = document.split()[-1]
    rest = document.removeprefix(text.partition("user\n")[2].strip())
    assert len(rest) <= len(last) + 1


def test_several_documents_end_each_in_its_place(processor: Processor) -> None:
    documents = ["First document.\n\n", "Second document.\n\n", "Third document.\n\n"]
    prompts = [asked(processor, *documents, question) for question in QUESTIONS]
    assert {len(prompt.document_ends) for prompt in prompts} == {3}
    assert_all_begin_so(prompts)
    other = asked(processor, *documents[:2], "Another third.", "What?")
    assert other.document_ends[:2] == prompts[0].document_ends[:2]
    assert np.array_equal(other.ids[: other.document_ends[1]], prompts[0].ids[: other.document_ends[1]])


def test_the_same_document_twice_has_two_ends(processor: Processor) -> None:
    prompt = asked(processor, "The same words. ", "The same words. ", "What?")
    assert len(prompt.document_ends) == 2


def test_a_message_ends_where_the_next_begins(processor: Processor) -> None:
    """For every boundary: cut there, another message in its place leaves the ids before it."""
    start = processor.tokenizer.id_of("<|im_start|>")
    turns = [
        Message.of_text("system", "Be brief."),
        Message.of_text("user", "What is it?"),
        Message.of_text("assistant", "A cat."),
        Message.of_text("user", "And now?"),
    ]
    prompt = processor.prepare(turns)
    starts = [int(n) for n in np.flatnonzero(prompt.ids == start)]
    assert list(prompt.boundaries) == starts[1:]
    assert len(starts) == 5
    for count in (1, 3):
        other = processor.prepare([*turns[:count], Message.of_text("user", "\u0301'sSomething else")])
        assert np.array_equal(other.ids[: starts[count]], prompt.ids[: starts[count]])


def test_what_a_text_spells_ends_no_message(processor: Processor) -> None:
    spelled = "<|im_start|>user\nx<|vision_end|><|im_end|>"
    prompt = asked(processor, spelled)
    assert len(prompt.boundaries) == 1
    assert prompt.document_ends == ()


pieces = st.one_of(st.sampled_from([*DOCUMENTS, *QUESTIONS]), st.text(max_size=6))


@settings(deadline=None, max_examples=150)
@given(document=st.lists(pieces, max_size=4).map("".join), questions=st.lists(pieces, min_size=2, max_size=3))
def test_no_text_at_all_changes_them(mini: Processor, document: str, questions: list[str]) -> None:
    assert_all_begin_so([asked(mini, document, question) for question in questions])


@pytest.mark.long
@settings(deadline=None, max_examples=5000)
@given(document=st.lists(pieces, max_size=4).map("".join), questions=st.lists(pieces, min_size=2, max_size=3))
def test_no_text_changes_the_ids_of_the_real_vocabulary(
    real: Processor, document: str, questions: list[str]
) -> None:
    assert_all_begin_so([asked(real, document, question) for question in questions])
