from pathlib import Path

import pytest

from qwen35.errors import InputError
from qwencli.errors import UsageError
from qwencli.question import Question


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "README"):
        Path(name).write_bytes(b"x")
    Path("scans").mkdir()


@pytest.mark.parametrize(
    ("inputs", "prompt"),
    [
        ([], "What is a vowel?"),
        ([], "scans"),  # a word that happens to be the name of a folder
        (["a.png"], "describe"),
        (["a.png", "b.png", "scans"], "compare"),
        (["https://example.org/x.png"], "describe"),
        (["data:image/png;base64,AAAA"], "describe"),
        (["-"], "summarise"),
    ],
)
def test_the_last_argument_is_the_prompt(inputs: list[str], prompt: str) -> None:
    assert Question.parse(inputs, prompt, []) == Question(tuple(inputs), prompt)


def test_attached_inputs_follow_the_others() -> None:
    assert Question.parse(["a.png"], "compare", ["b.png"]).inputs == ("a.png", "b.png")


@pytest.mark.parametrize(("inputs", "prompt"), [([], None), ([], "-"), (["a.png"], "-")])
def test_standard_input_may_hold_the_question(inputs: list[str], prompt: str | None) -> None:
    question = Question.parse(inputs, prompt, [])
    assert question.prompt == ""
    assert question.inputs == (*inputs, *([prompt] if prompt else []))


@pytest.mark.parametrize(
    ("inputs", "prompt", "hint"),
    [
        ([], "a.png", "qwen ask a.png 'Describe this.'"),
        (["a.png"], "b.png", "qwen ask a.png b.png 'Describe this.'"),
        ([], "scans/", "qwen ask scans/ 'Describe this.'"),
        ([], "https://example.org/x.png", "qwen ask https://example.org/x.png 'Describe this.'"),
        (["what", "is"], "this", "qwen ask 'what is this'"),
        (["a.png", "what", "is"], "this", "qwen ask a.png 'what is this'"),
        (["what is this"], "a.png", "qwen ask a.png 'what is this'"),
        (["-", "-"], "compare", "only once"),
    ],
)
def test_mixed_up_words_get_the_command_that_was_meant(inputs: list[str], prompt: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Question.parse(inputs, prompt, [])
    assert hint in str(caught.value)


def test_an_attachment_alone_is_no_question() -> None:
    with pytest.raises(UsageError, match="no question"):
        Question.parse([], None, ["a.png"])


@pytest.mark.parametrize(
    ("inputs", "prompt"),
    [
        (["missing.png"], "describe"),
        (["scans/missing"], "describe"),
        (["LICENSE"], "what licence is this"),
        (["missing.png"], "a.png"),
        (["a\0b"], "what is this"),
    ],
)
def test_a_missing_file_is_an_input_error(inputs: list[str], prompt: str) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        Question.parse(inputs, prompt, [])
    assert caught.value.path == inputs[0]


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_no_question(prompt: str) -> None:
    with pytest.raises(UsageError, match="prompt is empty"):
        Question.parse(["a.png"], prompt, [])
