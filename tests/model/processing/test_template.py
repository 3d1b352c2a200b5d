import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from qwen35.errors import CheckpointError, InputError
from qwen35.messages import ImagePart, Message, TextPart
from qwen35.processing.template import ChatTemplate, ends_in_reasoning, normalise
from tests.model.checkpoint import byte_tokenizer

PICTURE = ImagePart(np.zeros((32, 32, 3), np.uint8), "picture.png")
IMAGE = {"type": "image"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def user(*parts: str | ImagePart) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


# A conversation in our form, and in the one that the official template expects.
CONVERSATIONS: dict[str, tuple[list[Message], list[dict[str, Any]]]] = {
    "question": ([user("Hello\n")], [{"role": "user", "content": "Hello\n"}]),
    "not Jinja": (
        [user(" é 東京 {{ x }} {% raw %}")],
        [{"role": "user", "content": "é 東京 {{ x }} {% raw %}"}],
    ),
    "empty": ([Message("user", ())], [{"role": "user", "content": ""}]),
    "system": (
        [Message.of_text("system", " Be brief. "), user("Hi")],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    ),
    "misplaced systems": (
        [
            user("Hi"),
            Message.of_text("system", "Be brief."),
            Message.of_text("assistant", "Yes?"),
            Message.of_text("system", "\n"),
            Message.of_text("system", "Rhyme."),
            user("Go"),
        ],
        [
            {"role": "system", "content": "Be brief.\n\nRhyme."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Go"},
        ],
    ),
    "empty system": (
        [Message.of_text("system", " \n"), user("Hi")],
        [{"role": "user", "content": "Hi"}],
    ),
    "images": (
        [user(PICTURE, "Compare", " with\n", PICTURE, "now ")],
        [{"role": "user", "content": [IMAGE, text("Compare"), text(" with\n"), IMAGE, text("now ")]}],
    ),
    "history": (
        [
            user(PICTURE, "What?"),
            Message("assistant", (TextPart("A cat."),), reasoning="Whiskers.\n"),
            user("Sure?"),
            Message("assistant", (TextPart("<think>\nHm.\n</think>\n\nYes."),)),
        ],
        [
            {"role": "user", "content": [IMAGE, text("What?")]},
            {"role": "assistant", "content": "A cat.", "reasoning_content": "Whiskers.\n"},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."},
        ],
    ),
    "two questions": ([user("One"), user("Two")], [{"role": "user", "content": c} for c in ("One", "Two")]),
}


@pytest.mark.parametrize("enable_thinking", [None, False, True])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_renders_the_official_template_as_transformers_does(
    official_template: str, name: str, enable_thinking: bool | None, add_generation_prompt: bool
) -> None:
    ours, theirs = CONVERSATIONS[name]
    flag = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    official = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer())

    expected = official.apply_chat_template(
        theirs,
        chat_template=official_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **flag,
    )
    rendered = ChatTemplate(official_template).render(
        normalise(ours), enable_thinking=enable_thinking, add_generation_prompt=add_generation_prompt
    )

    assert rendered == expected


def test_thinking_default_is_what_the_template_chooses(official_template: str) -> None:
    # As the templates of the small sizes choose: only an explicit true turns thinking on.
    flag = "enable_thinking is defined and enable_thinking is false"
    off_by_default = official_template.replace(flag, "not enable_thinking")
    assert off_by_default != official_template

    assert ChatTemplate(official_template).thinking_default
    assert not ChatTemplate(off_by_default).thinking_default


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("What is <think> for?<|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_an_open_thinking_block_is_seen_at_the_end_alone(prompt: str, expected: bool) -> None:
    assert ends_in_reasoning(prompt) is expected


def test_normalise_joins_neighbouring_texts_and_keeps_reasoning() -> None:
    answer = Message("assistant", (TextPart("a"), TextPart("b")), reasoning="r")

    assert normalise([user("x", PICTURE, "y", "z"), answer]) == [
        user("x", PICTURE, "yz"),
        Message("assistant", (TextPart("ab"),), reasoning="r"),
    ]


def test_normalising_twice_changes_nothing() -> None:
    for ours, _ in CONVERSATIONS.values():
        assert normalise(normalise(ours)) == normalise(ours)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no user message"),
        ([Message.of_text("system", "x"), Message.of_text("assistant", "y")], "no user message"),
        ([Message("system", (PICTURE,)), user("x")], "system message holds a picture"),
    ],
)
def test_conversations_that_no_template_takes_are_refused(messages: list[Message], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        normalise(messages)


def render(source: str) -> str:
    return ChatTemplate(source, now=lambda: datetime(2026, 3, 2)).render([user("é")], enable_thinking=None)


def test_templates_have_the_functions_that_transformers_gives_them() -> None:
    assert render("{{ messages[0] | tojson }}") == '{"role": "user", "content": "é"}'
    assert render("{{ messages | tojson(indent=1) }}").startswith("[\n {")
    assert render("{{ strftime_now('%d.%m.%Y') }}") == "02.03.2026"
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"


def test_a_template_that_refuses_is_an_input_error() -> None:
    with pytest.raises(InputError, match="refuses this conversation: only once"):
        render("{{ raise_exception('only once') }}")


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_templates_run_in_a_sandbox(source: str) -> None:
    with pytest.raises(InputError, match="safe"):
        render(source)


def test_a_template_that_fails_is_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match=r"chat template: fails .*ZeroDivisionError"):
        render("{{ 1 // 0 }}")


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template.jinja", "found"),
        ("tokenizer_config.json", {"chat_template": "found"}),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "found"}]},
        ),
        ("chat_template.json", {"chat_template": "found"}),
    ],
)
def test_the_template_is_found_wherever_checkpoints_keep_it(tmp_path: Path, name: str, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    write(tmp_path, name, value)

    template = ChatTemplate.from_folder(tmp_path)

    assert template is not None
    assert template.render([user("x")], enable_thinking=None) == "found"


def test_the_file_of_its_own_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": "old"})
    write(tmp_path, "chat_template.jinja", "new")

    template = ChatTemplate.from_folder(tmp_path)

    assert template is not None
    assert template.render([user("x")], enable_thinking=None) == "new"


def test_base_models_have_no_template(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path) is None
    write(tmp_path, "tokenizer_config.json", {})
    assert ChatTemplate.from_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("chat_template.jinja", "a\n{% if %}", r"chat_template\.jinja: line 2"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: cannot be read as JSON"),
        ("tokenizer_config.json", {"chat_template": [{"name": "rag", "template": "x"}]}, "no default"),
        ("chat_template.json", {"chat_template": 5}, "no default"),
    ],
)
def test_a_broken_template_is_named(tmp_path: Path, name: str, value: object, reason: str) -> None:
    write(tmp_path, name, value)

    with pytest.raises(CheckpointError, match=reason):
        ChatTemplate.from_folder(tmp_path)


def test_a_template_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")

    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: cannot be read"):
        ChatTemplate.from_folder(tmp_path)
