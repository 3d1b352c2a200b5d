"""What bytes are, told from their first few: names and media types given by others are not trusted."""

import re
from dataclasses import dataclass
from typing import Literal

from qwen35.errors import InputError

HEAD_BYTES = 4096  # enough for every test below

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mts")

Family = Literal["image", "pdf", "text", "video", "other"]


@dataclass(frozen=True, slots=True)
class Kind:
    family: Family
    label: str  # for a person: "PNG image", "ZIP archive (...)"


_PATTERNS: tuple[tuple[bytes, Family, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "image", "a PNG image"),
    (rb"\xff\xd8\xff", "image", "a JPEG image"),
    (rb"GIF8[79]a", "image", "a GIF image"),
    (rb"RIFF....WEBP", "image", "a WebP image"),
    (rb"BM.{4}\0{4}", "image", "a BMP image"),
    (rb"II\*\0|MM\0\*", "image", "a TIFF image"),
    (rb"\0\0\x01\0", "image", "an icon"),
    (rb"\0\0\0\x0cjP  \r\n", "image", "a JPEG 2000 image"),
    (rb"qoif", "image", "a QOI image"),
    (rb"P[1-6]\s(#[^\n]*\n|\s)*\d+\s|P7\nWIDTH ", "image", "a portable bitmap (PNM)"),
    (rb"....ftyp(avif|avis)", "image", "an AVIF image"),
    (rb"....ftyp(hei[cxm]|hevc|mif1|msf1)", "image", "a HEIC image"),
    (rb".{,1020}%PDF-", "pdf", "a PDF document"),
    (rb"....ftypM4[AB]", "other", "an M4A sound file"),
    (rb"....ftyp", "video", "an MP4 or QuickTime video"),
    (rb"....(moov|mdat|wide|pnot|(free|skip)....(moov|mdat|wide))", "video", "a QuickTime video"),
    (rb"\x1aE\xdf\xa3", "video", "a Matroska or WebM video"),
    (rb"RIFF....AVI ", "video", "an AVI video"),
    (rb"\0\0\x01[\xba\xb3]", "video", "an MPEG video"),
    (rb"\x47..[\x10-\x3f].{184}\x47..[\x10-\x3f].{184}\x47", "video", "an MPEG transport stream"),
    (rb".{4}\x47..[\x10-\x3f].{188}\x47..[\x10-\x3f].{188}\x47", "video", "an MPEG transport stream (M2TS)"),
    (rb"\0?\0\0\x01([\x06\x09\x27\x47\x67]|[\x40\x42\x46]\x01)", "video", "a bare H.264 or HEVC stream"),
    (rb"FLV\x01", "video", "a Flash video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "a Windows Media video"),
    (rb"DKIF\0\0", "video", "an IVF video"),
    (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01", "video", "an MXF video"),
    (rb"OggS\0.{0,400}(\x80theora|OVP80)", "video", "an Ogg video"),
    (rb"PK(\x03\x04|\x05\x06)", "other", "a ZIP archive (or a document made of one, such as .docx)"),
    (rb"\x1f\x8b", "other", "a gzip archive"),
    (rb"BZh[1-9]1AY&SY", "other", "a bzip2 archive"),
    (rb"\xfd7zXZ\0", "other", "an xz archive"),
    (rb"\x28\xb5\x2f\xfd", "other", "a Zstandard archive"),
    (rb"7z\xbc\xaf\x27\x1c", "other", "a 7-Zip archive"),
    (rb"Rar!\x1a\x07", "other", "a RAR archive"),
    (rb".{257}ustar", "other", "a tar archive"),
    (rb"\x7fELF", "other", "a program (ELF)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "other", "an old Office document"),
    (rb"RIFF....WAVE", "other", "a WAV sound file"),
    (rb"ID3[\x02-\x04]", "other", "an MP3 sound file"),
    (rb"OggS\0", "other", "an Ogg file"),
    (rb"fLaC\0", "other", "a FLAC sound file"),
)
_TEXT_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-8 and UTF-16
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # not \t \n \v \f \r, nor the ESC of coloured logs


def sniff(head: bytes) -> Kind:
    """The kind of a file that begins with `head` (HEAD_BYTES of it, or all of a shorter one)."""
    for pattern, family, label in _PATTERNS:
        if re.match(pattern, head, re.DOTALL):
            return Kind(family, label)
    if head.startswith(_TEXT_MARKS) or not _CONTROL.search(head):
        return Kind("text", "text")
    return Kind("other", "binary data of an unknown kind")


def require_usable(head: bytes, name: str) -> Kind:
    """The kind of the input called `name`. Raises InputError for what cannot be asked about."""
    if not head:
        raise InputError(f"{name}: is empty (0 bytes).", path=name)
    kind = sniff(head)
    if kind.family == "other":
        hint = "Unpack it first" if "archive" in kind.label else "Pass a picture, a video, a PDF or text"
        raise InputError(f"{name}: is {kind.label}. {hint}.", path=name)
    return kind
