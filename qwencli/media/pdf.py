"""PDF documents: pages as pictures, by pypdfium2."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from qwen35.errors import InputError
from qwen35.messages import Part
from qwencli.media.pages import choose_pages, page_parts
from qwencli.media.source import Source
from qwencli.values import PageRanges

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

_SCALE = 150 / 72  # pixels per PDF point: 150 dpi
_MAX_SIDE = 3000  # pixels, for posters and plans
_PDFIUM = Lock()  # the library is not made for several threads


def render_pages(source: Source, pages: PageRanges | None, notify: Callable[[str], None]) -> tuple[Part, ...]:
    """The chosen pages, each a picture below a line of text with its number.

    Raises InputError for a damaged or locked document and for pages that it does not have.
    """
    with _PDFIUM:
        return _render_pages(source, pages, notify)


def _render_pages(
    source: Source, pages: PageRanges | None, notify: Callable[[str], None]
) -> tuple[Part, ...]:
    import pypdfium2

    name = source.name
    try:
        document = pypdfium2.PdfDocument(source.data)
    except pypdfium2.PdfiumError as error:
        is_locked = "password" in str(error).lower()
        advice = "Remove its password first." if is_locked else "Save or download it again."
        raise InputError(f"{name}: is a PDF that cannot be opened ({error}). {advice}", path=name) from None
    try:
        document.init_forms()  # so that filled-in fields are drawn
        parts: list[Part] = []
        for number in choose_pages(name, len(document), pages, notify):
            parts.extend(page_parts(source, number, len(document), _render(document[number - 1])))
        return tuple(parts)
    except pypdfium2.PdfiumError as error:
        raise InputError(f"{name}: a page cannot be drawn ({error}).", path=name) from None
    finally:
        document.close()


def _render(page: "PdfPage") -> np.ndarray:
    scale = min(_SCALE, _MAX_SIDE / max(page.get_size()))
    pixels: np.ndarray = page.render(scale=scale, rev_byteorder=True).to_numpy()
    return np.ascontiguousarray(pixels[..., :3])  # a bitmap's rows may be padded
