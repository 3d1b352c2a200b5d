"""The byte-level alphabet: how tokenizer files spell the bytes of a token as printable characters."""

import numpy as np
from numpy.typing import NDArray

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))  # stand for themselves
_NO_BYTE = 0xFF  # is in no UTF-8 text


def token_bytes(text: NDArray[np.uint8], ends: NDArray[np.integer]) -> list[bytes]:
    """The bytes that tokens stand for, whose spellings are `text` in UTF-8, end to end."""
    byte_of = np.full(512, _NO_BYTE, np.uint8)
    byte_of[list(_PRINTABLE)] = _PRINTABLE
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    byte_of[256 : 256 + len(others)] = others
    characters = np.frombuffer(text.tobytes().decode().encode("utf-32-le"), np.uint32)
    spelled = byte_of[np.minimum(characters, len(byte_of) - 1)].tobytes()
    num_characters = np.cumsum((text & 0xC0) != 0x80)  # up to each byte: all that do not continue one
    places = num_characters[ends.astype(np.int64) - 1].tolist()
    return [spelled[start:end] for start, end in zip([0, *places], places, strict=False)]
