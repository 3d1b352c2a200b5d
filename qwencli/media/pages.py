"""Documents of several pages: which of them are looked at, and how a page stands in a message."""

from collections.abc import Callable

import numpy as np

from qwen35.errors import InputError
from qwen35.messages import ImagePart, Part, TextPart
from qwencli.media.source import Source
from qwencli.values import PageRanges

MAX_PAGES = 20  # where none are chosen


def choose_pages(
    name: str, num_pages: int, pages: PageRanges | None, notify: Callable[[str], None]
) -> list[int]:
    """Numbers from 1. Raises InputError for a page that the document called `name` does not have."""
    if pages is None:
        if num_pages > MAX_PAGES:
            notify(f"{name}: the first {MAX_PAGES} of {num_pages} pages are used; --pages chooses others")
        return list(range(1, min(num_pages, MAX_PAGES) + 1))
    try:
        return pages.select(num_pages)
    except ValueError as error:
        raise InputError(f"{name}: {error} (--pages).", path=name) from None


def page_parts(source: Source, number: int, num_pages: int, pixels: np.ndarray) -> tuple[Part, ...]:
    """A page's picture (height, width, 3) below a line of text with its number."""
    name = source.name
    return (
        TextPart(f"Page {number} of {num_pages} of {name}:\n"),
        ImagePart(pixels, f"{name}, page {number}", source.sha256, number),
        TextPart("\n"),
    )
