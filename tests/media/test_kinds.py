import pytest

from qwen35.errors import InputError
from qwencli.media.kinds import require_usable, sniff


@pytest.mark.parametrize(
    ("head", "family"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image"),
        (b"P6\n# made by hand\n3 2\n255\n", "image"),
        (b"\0\0\0\x20ftypavif", "image"),
        (b"%PDF-1.7\n", "pdf"),
        (b"\n\njunk first\n%PDF-1.4\n", "pdf"),
        ("Grüße\n".encode(), "text"),
        ("\ufeffmarked".encode("utf-16"), "text"),
        (b"caf\xe9\r\n\x1b[31mred\x1b[0m", "text"),
        (b"\0\0\0\x18ftypmp42", "video"),
        (b"\0\0\0\x08wide\0\0\0\x10mdat", "video"),
        (b"\0\0\0\x18ftypM4A ", "other"),
        (b"\x1aE\xdf\xa3", "video"),
        ((b"\x47\x40\0\x10" + bytes(184)) * 3, "video"),
        (b"\0\0\0\x01\x67\x64\0\x0a", "video"),
        (b"\0\0\1\xba\x44", "video"),
        (b"OggS\0\2" + bytes(22) + b"\x80theora", "video"),
        (b"OggS\0\2" + bytes(22) + b"\1vorbis", "other"),
        (b"PK\x03\x04\x14\0", "other"),
        (b"\x7fELF\x02", "other"),
        (b"abc\0def", "other"),
    ],
)
def test_bytes_tell_what_they_are(head: bytes, family: str) -> None:
    assert sniff(head).family == family


@pytest.mark.parametrize(
    "text",
    [
        b"BMW is a maker of cars",
        b"P3 is better than P2",
        b"ID3 tags are old",
        b"RIFF is a format",
        b"BZh is nothing",
        b"OggS",
        b"G" * 600,
    ],
)
def test_text_that_begins_like_a_picture_is_text(text: bytes) -> None:
    assert sniff(text).family == "text"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", r"x: is empty \(0 bytes\)"),
        (b"PK\x03\x04", "x: is a ZIP archive .* Unpack it first"),
        (b"\x01\x02", "x: is binary data of an unknown kind. Pass a picture, a video, a PDF or text"),
    ],
)
def test_what_cannot_be_asked_about_is_refused_by_name(head: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_usable(head, "x")
