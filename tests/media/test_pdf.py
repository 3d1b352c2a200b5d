"""Documents written by Pillow, one picture to a page; a form and a locked one by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from qwen35.errors import InputError
from qwen35.messages import ImagePart, TextPart
from qwencli.media.kinds import sniff
from qwencli.media.pages import MAX_PAGES
from qwencli.media.pdf import render_pages
from qwencli.media.source import Source
from qwencli.values import parse_pages


def document(*sizes: tuple[int, int]) -> Source:
    """A page of each size in points; page n is grey of level n."""
    pages = [Image.new("L", size, number) for number, size in enumerate(sizes, 1)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    return source(buffer.getvalue())


def source(data: bytes) -> Source:
    return Source("x.pdf", data, sniff(data))


def by_hand(objects: list[str], trailer: str = "") -> Source:
    """A PDF of these objects, numbered from 1; the first is the catalogue."""
    data, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    data += f"trailer << /Root 1 0 R /Size {len(objects) + 1} {trailer} >>\n".encode()
    return source(data + f"startxref\n{start}\n%%EOF".encode())


def images(parts: tuple) -> list[np.ndarray]:
    return [part.pixels for part in parts if isinstance(part, ImagePart)]


def test_a_page_is_rendered_at_150_dots_per_inch(notes: list[str]) -> None:
    (pixels,) = images(render_pages(document((720, 360)), None, notes.append))
    assert pixels.shape == (750, 1500, 3)
    assert (pixels == 1).all()
    assert notes == []


def test_colours_are_red_green_blue(notes: list[str]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (73, 73), (250, 100, 0)).save(buffer, "PDF", resolution=72)
    (pixels,) = images(render_pages(source(buffer.getvalue()), None, notes.append))
    assert np.abs(pixels[70, 70].astype(int) - (250, 100, 0)).max() <= 3  # stored as JPEG
    assert pixels.flags.c_contiguous


def test_each_page_stands_below_its_number(notes: list[str]) -> None:
    parts = render_pages(document(*[(72, 72)] * 3), parse_pages("3,1"), notes.append)
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    assert texts == ["Page 3 of 3 of x.pdf:\n", "\n", "Page 1 of 3 of x.pdf:\n", "\n"]
    assert [int(pixels[0, 0, 0]) for pixels in images(parts)] == [3, 1]


def test_a_poster_is_bounded(notes: list[str]) -> None:
    (pixels,) = images(render_pages(document((7200, 3600)), None, notes.append))
    assert pixels.shape == (1500, 3000, 3)


def test_a_long_document_gives_its_first_pages_and_a_note(notes: list[str]) -> None:
    parts = render_pages(document(*[(10, 10)] * (MAX_PAGES + 1)), None, notes.append)
    assert len(images(parts)) == MAX_PAGES
    assert notes == ["x.pdf: the first 20 of 21 pages are used; --pages chooses others"]


def test_all_pages_of_a_long_document_can_be_chosen(notes: list[str]) -> None:
    parts = render_pages(document(*[(10, 10)] * (MAX_PAGES + 1)), parse_pages("1-"), notes.append)
    assert len(images(parts)) == MAX_PAGES + 1
    assert notes == []


def test_a_page_that_is_not_there_is_refused(notes: list[str]) -> None:
    with pytest.raises(InputError, match=r"x.pdf: there is no page 2: it has 1 \(--pages\)"):
        render_pages(document((10, 10)), parse_pages("1-2"), notes.append)


def test_filled_in_fields_are_drawn(notes: list[str]) -> None:
    appearance = "0 0 0 rg 0 0 50 20 re f"
    form = by_hand(
        [
            "<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [4 0 R] >> >>",
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] /Annots [4 0 R] >>",
            "<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /Rect [0 0 50 20] /F 4 "
            "/AP << /N 5 0 R >> >>",
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 50 20] /Length {len(appearance)} >>\n"
            f"stream\n{appearance}\nendstream",
        ]
    )
    (pixels,) = images(render_pages(form, None, notes.append))
    assert (pixels[-20:-10, 20:60] == 0).all()
    assert (pixels[:50] == 255).all()


def test_a_locked_document_is_refused_with_what_to_do(notes: list[str]) -> None:
    key = f"<{'41' * 32}>"
    locked = by_hand(
        ["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [] /Count 0 >>"],
        f"/Encrypt << /Filter /Standard /V 1 /R 2 /O {key} /U {key} /P -4 >> /ID [<41> <41>]",
    )
    with pytest.raises(InputError, match=r"x.pdf: is a PDF that cannot be opened .* Remove its password"):
        render_pages(locked, None, notes.append)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_damaged_document_is_refused(share: float, notes: list[str]) -> None:
    whole = document((72, 72)).data
    with pytest.raises(InputError, match=r"x.pdf: is a PDF that cannot be opened .* Save or download"):
        render_pages(source(whole[: int(len(whole) * share)]), None, notes.append)
