"""What was typed after `qwen batch`, told apart: inputs, and the question, which comes last."""

import glob
import shlex
from collections.abc import Sequence
from pathlib import Path

from qwen35.errors import InputError
from qwencli.batch.items_file import SUFFIXES
from qwencli.errors import UsageError
from qwencli.media.numbered import is_numbered
from qwencli.media.source import is_named_elsewhere


def tell_apart(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Inputs, and the question; None where a file of items, which may bring questions of its own, comes last.

    Raises UsageError where there is no question, or no input.
    """
    if not words:
        raise UsageError(
            "There are no items. Name a folder, files, or - for a list: qwen batch scans/ 'Describe.'"
        )
    *inputs, last = words
    if _is_items_file(last):
        return [*words], None
    if _is_input(last) or (not inputs and _is_folder(last)):
        command = shlex.join(["qwen", "batch", *words, "Describe this."])
        raise UsageError(f"{last!r} is an input, and there is no question. Ask one: {command}")
    if not last.strip():
        raise InputError("The question is empty. Ask something: qwen batch scans/ 'Describe this.'")
    if not inputs:
        raise UsageError(
            f"There are no items to ask {last[:40]!r} about. Name a folder, files, or - for a list."
        )
    return inputs, last


def _is_items_file(word: str) -> bool:
    return word == "-" or (word.lower().endswith(SUFFIXES) and (_is_input(word) or _is_pattern(word)))


def _is_input(word: str) -> bool:
    try:
        if is_named_elsewhere(word) or is_numbered(word):
            return True
        path = Path(word).expanduser()
        # The name of a folder may well be a question of one word; with a slash it is not.
        return path.is_file() or ("/" in word and (path.is_dir() or _is_pattern(word)))
    except (OSError, ValueError, RuntimeError):  # too long for a name, a NUL, an unknown ~user
        return False


def _is_pattern(word: str) -> bool:
    try:
        return bool(glob.glob(str(Path(word).expanduser()), recursive=True))  # noqa: PTH207
    except (OSError, ValueError, RuntimeError):
        return False


def _is_folder(word: str) -> bool:
    try:
        return Path(word).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False
