import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwen35
from qwen35.messages import Message, TextPart
from qwen35.processing.processor import Processor
from qwen35.processing.template import ChatTemplate

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"
STRIPPING = (MINI / "chat_template.jinja").read_text(encoding="utf-8")
PLAIN = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' -}}
"""
PRESERVING = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
"""
ALIEN = "{%- for message in messages -%}[{{- message.content -}}]{%- endfor -%}"
TEMPLATES = {"stripping": STRIPPING, "plain": PLAIN, "preserving": PRESERVING, "alien": ALIEN}

PROCESSOR = Processor.from_folder(MINI)
TOKENIZER = PROCESSOR.tokenizer


def processor_of(template: str) -> Processor:
    return replace(PROCESSOR, template=ChatTemplate(TEMPLATES[template]))


def letter_by_letter(text: str) -> tuple[int, ...]:
    """Ids of `text` that the tokenizer itself would not choose; `<think>` and its like are one id."""
    pieces: list[str] = []
    while text:
        added = next((token for token in ("<think>", "</think>") if text.startswith(token)), text[0])
        pieces.append(added)
        text = text[len(added) :]
    return tuple(i for piece in pieces for i in TOKENIZER.encode(piece))


def answer(text: str, ids: Sequence[int], reasoning: str | None = None) -> Message:
    return Message("assistant", (TextPart(text),), reasoning, tuple(ids))


def turns(said: Message, question: str = "Hi") -> list[Message]:
    return [Message.of_text("user", question), said, Message.of_text("user", "And?")]


def holds(whole: Sequence[int], part: Sequence[int]) -> bool:
    starts = range(len(whole) - len(part) + 1)
    return any(tuple(whole[start : start + len(part)]) == tuple(part) for start in starts)


@pytest.mark.parametrize("template", ["stripping", "plain"])
def test_an_answer_stands_in_the_prompt_as_it_was_written(template: str) -> None:
    ids = letter_by_letter("A red circle.")
    assert list(ids) != TOKENIZER.encode("A red circle.")
    prompt = processor_of(template).prepare(turns(answer("A red circle.", ids)))
    assert holds(prompt.ids.tolist(), ids)
    plain = processor_of(template).prepare(turns(Message.of_text("assistant", "A red circle.")))
    assert prompt.prompt == plain.prompt
    assert len(prompt.ids) - len(plain.ids) == len(ids) - len(TOKENIZER.encode("A red circle."))


def test_reasoning_goes_with_the_answer_where_the_template_keeps_it() -> None:
    whole = letter_by_letter("Let me see.\n</think>\n\nRed.")
    said = answer("Red.", whole, "Let me see.")
    assert holds(processor_of("preserving").prepare(turns(said)).ids.tolist(), whole)
    stripped = processor_of("stripping").prepare(turns(said)).ids.tolist()
    assert holds(stripped, letter_by_letter("Red."))
    assert not holds(stripped, letter_by_letter("see"))


def test_the_official_template_shows_the_answer_alone(official_template: str) -> None:
    processor = replace(PROCESSOR, template=ChatTemplate(official_template))
    said = answer("Red.", letter_by_letter("Let me see.\n</think>\n\nRed."), "Let me see.")
    ids = processor.prepare([*turns(said), said, Message.of_text("user", "And?")]).ids.tolist()
    expected: list[int] = []
    for turn in ("<|im_start|>user\nHi", "<|im_start|>user\nAnd?"):
        expected += TOKENIZER.encode(f"{turn}<|im_end|>\n<|im_start|>assistant\n")
        expected += [*letter_by_letter("Red."), *TOKENIZER.encode("<|im_end|>\n")]
    assert ids[: len(expected)] == expected


def test_an_answer_that_stands_in_the_question_too_is_replaced_in_its_own_place() -> None:
    ids = letter_by_letter("Red circle")
    prompt = processor_of("plain").prepare(turns(answer("Red circle", ids), "Red circle")).ids.tolist()
    first = TOKENIZER.encode("<|im_start|>user\nRed circle<|im_end|>\n<|im_start|>assistant\n")
    assert prompt[: len(first) + len(ids)] == [*first, *ids]


@pytest.mark.parametrize(
    "ids",
    [
        letter_by_letter("Blue."),  # of another text: another model's, say
        (*letter_by_letter("Red."), TOKENIZER.size + 5),  # no such token
        (*letter_by_letter("Red."), -1),
        (*letter_by_letter("Red."), *TOKENIZER.encode("<|im_end|>")),
        (*TOKENIZER.encode("<|im_start|>"), *letter_by_letter("Red.")),
        letter_by_letter("Red. And more, which a stop string cut off"),
        (),
    ],
)
def test_ids_that_do_not_spell_what_is_shown_are_not_used(ids: tuple[int, ...]) -> None:
    for template in TEMPLATES:
        processor = processor_of(template)
        expected = processor.prepare(turns(Message.of_text("assistant", "Red.")))
        assert processor.prepare(turns(answer("Red.", ids))).ids.tolist() == expected.ids.tolist()


def test_structure_that_an_answer_spells_stays_text() -> None:
    text = "It ends <|im_end|>\n<|im_start|>assistant\nso."
    ids = letter_by_letter(text)
    prompt = processor_of("plain").prepare(turns(answer(text, ids)))
    assert holds(prompt.ids.tolist(), ids)
    assert prompt.ids.tolist().count(TOKENIZER.id_of("<|im_end|>")) == 3


def test_newlines_around_an_answer_are_the_templates() -> None:
    ids = letter_by_letter("\n\nRed.\n")
    assert holds(processor_of("plain").prepare(turns(answer("Red.", ids))).ids.tolist(), ids[2:-1])


def test_documents_behind_such_an_answer_end_where_they_did() -> None:
    said = answer("A red circle.", letter_by_letter("A red circle."))
    document = (TextPart("A long text.\n\nIts end.\n\n"), TextPart("What is it?"))
    messages = [Message.of_text("user", "Hi"), said, Message("user", document)]
    processor = processor_of("stripping")
    logged = processor.prepare(messages)
    plain = processor.prepare([replace(message, token_ids=None) for message in messages])
    assert len(plain.document_ends) == 1
    for ends in ("document_ends", "boundaries"):
        texts = [
            [TOKENIZER.decode(prompt.ids[:n].tolist(), skip_special=False) for n in getattr(prompt, ends)]
            for prompt in (logged, plain)
        ]
        assert texts[0] == texts[1]


def test_what_is_kept_is_told() -> None:
    question = [Message.of_text("user", "Hi")]
    said = answer("Red.", letter_by_letter("Red."))
    assert processor_of("plain").is_kept(question, said)
    assert not processor_of("stripping").is_kept(question, said)  # its empty thoughts are removed
    assert not processor_of("plain").is_kept(question, answer("Red.", letter_by_letter("Red.\n")))
    assert not processor_of("plain").is_kept(question, answer("", ()))
    thought = answer("Red.", letter_by_letter("Hm.\n</think>\n\nRed."), "Hm.")
    assert processor_of("preserving").is_kept(question, thought)
    assert not processor_of("plain").is_kept(question, thought)


texts = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(
            ["<|im_end|>", "<|im_start|>assistant\n", "<think>", "</think>", "\n", " ", "e\u0301", "a"]
        ),
        max_size=6,
    ).map("".join),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message.of_text("user", draw(texts)))
        text, reasoning = draw(texts), draw(st.one_of(st.none(), texts))
        written = f"{reasoning}\n</think>\n\n{text}" if reasoning else text
        cut = draw(st.integers(0, 2))
        messages.append(answer(text, letter_by_letter(written)[: -cut or None], reasoning))
    return [*messages, Message.of_text("user", draw(texts))]


@settings(deadline=None, max_examples=200)
@given(messages=conversations(), template=st.sampled_from(["stripping", "plain", "preserving"]))
def test_the_text_of_a_prompt_never_depends_on_the_ids(messages: list[Message], template: str) -> None:
    processor = processor_of(template)
    logged = processor.prepare(messages)
    plain = processor.prepare([replace(message, token_ids=None) for message in messages])
    assert logged.prompt == plain.prompt
    spelled = [TOKENIZER.decode(prompt.ids.tolist(), skip_special=False) for prompt in (logged, plain)]
    # The tokenizer brings text to NFC; what a model wrote stays as it is.
    assert unicodedata.normalize("NFC", spelled[0]) == unicodedata.normalize("NFC", spelled[1])
    special = [[i for i in prompt.ids if TOKENIZER.spelled([int(i)]) is None] for prompt in (logged, plain)]
    assert special[0] == special[1]
