import pytest

from qwen35.errors import InputError
from qwencli.media.text import MAX_TEXT_BYTES, decode_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read_with_and_without_a_mark(encoding: str, notes: list[str]) -> None:
    assert decode_text("naïve € 𝄞\n".encode(encoding), "x", notes.append) == "naïve € 𝄞\n"
    assert notes == []


def test_big_endian_utf_16_is_read(notes: list[str]) -> None:
    assert decode_text(b"\xfe\xff" + "zwölf".encode("utf-16-be"), "x", notes.append) == "zwölf"


def test_other_text_is_read_as_windows_1252_with_a_note(notes: list[str]) -> None:
    assert decode_text(b"caf\xe9 \x80 5", "menu.txt", notes.append) == "café € 5"
    assert notes == ["menu.txt: not UTF-8; read as Windows-1252 (Latin-1)"]


@pytest.mark.parametrize("data", [b"text\0more", b"\xff\xfea"])
def test_bytes_that_are_no_text_are_refused(data: bytes, notes: list[str]) -> None:
    with pytest.raises(InputError, match="x: "):
        decode_text(data, "x", notes.append)


def test_text_beyond_any_context_is_refused(notes: list[str]) -> None:
    with pytest.raises(InputError, match="x: 8 MiB of text; the limit is 8 MiB"):
        decode_text(b"a" * (MAX_TEXT_BYTES + 1), "x", notes.append)
