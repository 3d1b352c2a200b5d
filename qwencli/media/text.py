"""Text files and piped text: bytes of unknown encoding as a string."""

import codecs
from collections.abc import Callable

from qwen35.errors import InputError

MAX_TEXT_BYTES = 8 * 2**20  # some two million tokens: more than any context holds


def decode_text(data: bytes, name: str, notify: Callable[[str], None]) -> str:
    """UTF-8, UTF-16 by its byte order mark, else Windows-1252 with a note. Raises InputError."""
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(
            f"{name}: {len(data) / 2**20:.0f} MiB of text; the limit is {MAX_TEXT_BYTES // 2**20} MiB. "
            "Pass a part of it, such as its last lines (tail).",
            path=name,
        )
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        if encoding == "utf-16":
            raise InputError(f"{name}: begins like UTF-16 text but is not.", path=name) from None
        notify(f"{name}: not UTF-8; read as Windows-1252 (Latin-1)")
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise InputError(f"{name}: holds NUL bytes: binary data, or UTF-16 without its mark.", path=name)
    return text
