import io
from pathlib import Path

import pytest
from PIL import Image

from qwen35.errors import InputError
from qwen35.messages import ImagePart, TextPart
from qwencli.media.attach import MAX_FOLDER_FILES, Attacher
from qwencli.values import parse_pages


def attacher(notes: list[str], pages: str | None = None) -> Attacher:
    return Attacher(parse_pages(pages) if pages else None, notes.append, lambda *_: None)


def png(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path)


def test_a_picture_is_one_part_with_its_source_and_hash(tmp_path: Path, notes: list[str]) -> None:
    png(tmp_path / "a.png")
    (attachment,) = attacher(notes).attach_all([str(tmp_path / "a.png")])
    (part,) = attachment.parts
    assert isinstance(part, ImagePart)
    assert (attachment.type, attachment.source) == ("image", str(tmp_path / "a.png"))
    assert part.sha256 == attachment.sha256
    assert attachment.size_bytes == (tmp_path / "a.png").stat().st_size


def test_a_text_file_is_told_by_its_name(tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n")
    (attachment,) = attacher(notes).attach_all([str(path)])
    assert attachment.parts == (TextPart(f"File {path}:\n\none\ntwo\n\n"),)


def test_a_name_that_lies_about_its_bytes_is_not_believed(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "a.png").write_text("plain text")
    assert attacher(notes).attach_all([str(tmp_path / "a.png")])[0].type == "text"


def test_a_folder_gives_its_usable_files_by_name(tmp_path: Path, notes: list[str]) -> None:
    png(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "sub").mkdir()
    png(tmp_path / "sub" / "d.png")
    attachments = attacher(notes).attach_all([str(tmp_path)])
    assert [Path(attachment.source).name for attachment in attachments] == ["a.txt", "b.png"]
    (note,) = notes
    assert note.startswith(f"{tmp_path}: 2 files used, 1 skipped. {tmp_path}/c.zip: is a ZIP archive")


def test_many_skipped_files_are_counted(tmp_path: Path, notes: list[str]) -> None:
    png(tmp_path / "a.png")
    for number in range(6):
        (tmp_path / f"{number}.zip").write_bytes(b"PK\x03\x04")
    attacher(notes).attach_all([str(tmp_path)])
    assert "1 file used, 6 skipped" in notes[0]
    assert notes[0].endswith("And 2 more.")


def test_a_folder_without_usable_files_is_refused(tmp_path: Path, notes: list[str]) -> None:
    with pytest.raises(InputError, match="is a folder without a usable picture"):
        attacher(notes).attach_all([str(tmp_path)])


def test_files_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path, notes: list[str]) -> None:
    names = ["1.txt", "10.txt", "a.txt", "f1.txt", "f2.txt", "f10.txt", "f11.txt", "f11b.txt"]
    for name in reversed(names):
        (tmp_path / name).write_text("text")
    attachments = attacher(notes).attach_all([str(tmp_path)])
    assert [Path(attachment.source).name for attachment in attachments] == names


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, notes: list[str]) -> None:
    for number in range(MAX_FOLDER_FILES + 1):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(InputError, match=r"holds 101 files; at most 100.*name them by a pattern"):
        attacher(notes).attach_all([str(tmp_path)])


def test_pages_are_those_of_every_pdf(tmp_path: Path, notes: list[str]) -> None:
    buffer = io.BytesIO()
    page = Image.new("L", (20, 20))
    page.save(buffer, "PDF", save_all=True, append_images=[page, page])
    for name in ("a.pdf", "b.pdf"):
        (tmp_path / name).write_bytes(buffer.getvalue())
    attachments = attacher(notes, "2-").attach_all([str(tmp_path / "a.pdf"), str(tmp_path / "b.pdf")])
    assert [sum(isinstance(part, ImagePart) for part in item.parts) for item in attachments] == [2, 2]
    assert notes == []


def test_pages_without_a_pdf_have_a_note(tmp_path: Path, notes: list[str]) -> None:
    png(tmp_path / "a.png")
    attacher(notes, "1").attach_all([str(tmp_path / "a.png")])
    assert notes == ["--pages has no effect: no input has pages"]


@pytest.mark.parametrize("name", ["page.png", "page.PDF"])
def test_text_under_a_pictures_name_is_noted(tmp_path: Path, notes: list[str], name: str) -> None:
    (tmp_path / name).write_text("<html>404</html>")
    Attacher(None, notes.append, lambda *_: None).attach_all([str(tmp_path / name)])
    assert "holds text" in notes[0]


def test_a_tiff_of_several_pages_has_pages(tmp_path: Path, notes: list[str]) -> None:
    first, second = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "one.tif")
    two, one = attacher(notes).attach_all([str(tmp_path / "two.tif"), str(tmp_path / "one.tif")])
    assert (two.type, two.has_pages, one.has_pages) == ("image", True, False)
