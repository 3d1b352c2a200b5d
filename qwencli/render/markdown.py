"""Markdown on a terminal without losing a character that an answer may hold on purpose.

Text read from a picture has its own line breaks, angle brackets and ampersands; Markdown would join the
lines and drop what looks like HTML. Here both stay.
"""

import re
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import JustifyMethod
from rich.markdown import Heading, Markdown, MarkdownElement

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAY_BE_LIST_ITEM = re.compile(r"[-*+0-9]")


class _LeftHeading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class FaithfulMarkdown(Markdown):
    """Rich's Markdown with line breaks kept, HTML as text, and links that show where they lead."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = Markdown.elements | {"heading_open": _LeftHeading}

    def __init__(self, markup: str) -> None:
        super().__init__(markup, code_theme="ansi_dark", hyperlinks=False)
        parser = (
            MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("entity")
        )
        self.parsed = parser.parse(markup)
        for token in self.parsed:
            _keep_breaks(token.children or [])


def _keep_breaks(tokens: list[Token]) -> None:
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_breaks(token.children or [])


def finished_length(markup: str) -> int:
    """How much of a growing text consists of blocks that no continuation can change.

    A block ends where a line that stands at the margin follows a blank one, outside a code fence; a
    list goes on as long as the next line may be an item of it.
    """
    finished = position = 0
    fence = ""
    after_blank = False
    for line in markup.splitlines(keepends=True):
        if not fence and after_blank and line.strip() and not line[0].isspace():
            is_list = _MAY_BE_LIST_ITEM.match(markup, finished) and _MAY_BE_LIST_ITEM.match(line)
            if not is_list:
                finished = position
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        after_blank = not line.strip()
        position += len(line)
    return finished
