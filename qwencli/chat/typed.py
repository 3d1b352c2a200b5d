"""What was typed or dropped into the chat, told apart: files to attach, and the text of the question.

A file is named by @PATH anywhere, or by its path at the beginning or the end as a terminal writes it
when a file is dropped on its window: in quotes, with escaped spaces, or as a file:// address.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from qwencli.media.kinds import VIDEO_SUFFIXES
from qwencli.media.numbered import is_numbered
from qwencli.media.source import is_data_uri, is_url

_WORD = re.compile(r"""@?(?:'[^'\n]*'|"[^"\n]*")(?=[\s.,;:!?)]|$)|(?:\\.|[^\s\\])+|\S+""")
_AFTER_A_NAME = ".,;:!?)"
_DROPPED = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".pdf")


@dataclass(frozen=True, slots=True)
class Typed:
    """`unknown` are words that look like @PATH where there is no such file: they stay in the text."""

    text: str
    inputs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Typed":
        front, text = _take_front(text)
        text, back = _take_back(text)
        named: list[str] = []
        unknown: list[str] = []

        def replace(match: re.Match[str]) -> str:
            word = match[0]
            is_begun = match.start() == 0 or text[match.start() - 1].isspace()
            if not word.startswith("@") or len(word) == 1 or not is_begun:
                return word
            for length in range(len(word), 1, -1):
                name = path_of(word[1:length])
                if is_input(name):
                    named.append(name)
                    return name + word[length:]
                if word[length - 1] not in _AFTER_A_NAME:
                    break
            if re.search(r"[/\\.]\w", word):
                unknown.append(word)
            return word

        asked = _WORD.sub(replace, text).strip()
        return cls(asked, (*front, *named, *back), tuple(unknown))


def paths_in(argument: str) -> list[str]:
    """What a command such as /image was given: one path with spaces, or several paths."""
    if is_input(argument):
        return [argument]
    return [path_of(match[0]) for match in _WORD.finditer(argument)]


def first_word(line: str) -> str:
    match = _WORD.match(line)
    return match[0] if match else ""


def path_of(word: str) -> str:
    """A path without the quotes, escapes or address that it was written with."""
    if word[:1] in ("'", '"') and word[-1:] == word[0] and len(word) > 1:
        return word[1:-1]
    if word.lower().startswith("file://"):
        return url2pathname(unquote(urlsplit(word).path))
    return word if "\\" not in word or _exists(word) else re.sub(r"\\(.)", r"\1", word)


def is_input(name: str) -> bool:
    return is_url(name) or is_data_uri(name) or _exists(name) or is_numbered(name)


def _exists(name: str) -> bool:
    try:
        return bool(name.strip()) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a name, a NUL, an unknown ~user
        return False


def _take_front(text: str) -> tuple[list[str], str]:
    taken: list[str] = []
    if text[:1].isspace():  # a line that begins with a space is text
        return taken, text
    while match := _WORD.match(text):
        if not _is_dropped(match[0], is_alone=match[0] == text.strip()):
            break
        taken.append(path_of(match[0]))
        text = text[match.end() :].lstrip()
    return taken, text


def _take_back(text: str) -> tuple[str, list[str]]:
    taken: list[str] = []
    while words := list(_WORD.finditer(text)):
        if not _is_dropped(words[-1][0], is_alone=False):
            break
        taken.insert(0, path_of(words[-1][0]))
        text = text[: words[-1].start()].rstrip()
    return text, taken


def _is_dropped(word: str, *, is_alone: bool) -> bool:
    """Whether this is rather a dropped file than a word: absolute, there, and written as terminals do."""
    name = path_of(word)
    if not Path(name.replace("~/", "/", 1)).is_absolute() or not _exists(name):
        return False
    return is_alone or name != word or name.lower().endswith(_DROPPED + VIDEO_SUFFIXES)
