"""What was typed after `qwen ask`, told apart: inputs, and the question, which comes last.

Where the words look mixed up, the error shows the command that was probably meant.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35.errors import InputError
from qwencli.errors import UsageError
from qwencli.media.numbered import is_numbered
from qwencli.media.source import is_named_elsewhere


@dataclass(frozen=True, slots=True)
class Question:
    """`prompt` is empty where standard input is to hold the question."""

    inputs: tuple[str, ...]
    prompt: str

    @classmethod
    def parse(cls, inputs: Sequence[str], prompt: str | None, attached: Sequence[str]) -> "Question":
        """`inputs` and `prompt` as they stand on the command line, `attached` by option.

        Raises UsageError where a question or its quotes are missing, InputError for a missing file.
        """
        if prompt is None and attached:
            raise UsageError(f"There is no question. Ask one: {_command([], 'Describe this.')} -a ...")
        if prompt == "-":
            inputs, prompt = [*inputs, "-"], None
        if prompt is not None:
            _check_order(inputs, prompt)
            if not prompt.strip():
                raise UsageError("The prompt is empty. Ask something: qwen ask 'What is a vowel?'")
        inputs = (*inputs, *attached)
        if inputs.count("-") > 1:
            raise UsageError("'-' (standard input) can be read only once.")
        return cls(inputs, prompt or "")

    @staticmethod
    def is_input(word: str) -> bool:
        """Whether this names something that can be looked at."""
        return _is_input(word)

    @staticmethod
    def may_be_missing(word: str) -> bool:
        """Whether this, which is no input, is rather the name of one than something to say."""
        return not _is_sentence(word) and not _is_word(word)


def _check_order(inputs: Sequence[str], prompt: str) -> None:
    missing = [word for word in inputs if not _is_input(word)]
    found = [word for word in inputs if _is_input(word)]
    if _is_input(prompt) and ("/" in prompt or not Path(prompt).is_dir()):
        if not missing:
            raise UsageError(
                f"{prompt!r} is an input, and there is no question. Ask one: "
                f"{_command([*inputs, prompt], 'Describe this.')}"
            )
        if len(missing) == 1 and _is_sentence(missing[0]):
            raise UsageError(f"The question comes last: {_command([*found, prompt], missing[0])}")
    if missing and not _is_sentence(prompt) and all(_is_word(word) for word in missing):
        raise UsageError(
            f"There is no file {missing[0]!r}. If it belongs to the question, put that in quotes: "
            f"{_command(found, ' '.join([*missing, prompt]))}"
        )
    if missing:
        raise InputError(f"{missing[0]}: no such file.", path=missing[0])


def _is_input(word: str) -> bool:
    try:
        return is_named_elsewhere(word) or Path(word).expanduser().exists() or is_numbered(word)
    except (OSError, ValueError, RuntimeError):  # too long for a name, a NUL, an unknown ~user
        return False


def _is_sentence(word: str) -> bool:
    return " " in word.strip()


def _is_word(word: str) -> bool:
    """Whether this is more likely a word of a question than the name of a missing file."""
    return not re.search(r"[/\\]|\.\w+$", word)


def _command(inputs: list[str], prompt: str) -> str:
    return shlex.join(["qwen", "ask", *inputs, prompt])
