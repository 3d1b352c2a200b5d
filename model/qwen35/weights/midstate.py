"""SHA-256 that can be put aside in the middle and taken up by another process.

hashlib's cannot. The OpenSSL that it is built on can, as its context is plain memory; where that OpenSSL
cannot be reached, `state` is None, and a file that two processes read cannot be checked as a whole.
"""

import ctypes
import hashlib
from functools import cache

_CONTEXT_BYTES = 112  # SHA256_CTX: eight words of state, the length, a block, two counts
_DIGEST_BYTES = 32


class Sha256:
    """Mutable. `update` lets other threads run."""

    def __init__(self, state: bytes | None = None) -> None:
        """From the beginning, or from what `state` gave. ValueError where that is not to be had here."""
        self._library = _openssl()
        self._plain = hashlib.sha256()
        if self._library:
            self._context = ctypes.create_string_buffer(_CONTEXT_BYTES)
            self._library.SHA256_Init(self._context)
        if state is not None:
            if not self._library or len(state) != _CONTEXT_BYTES:
                raise ValueError("a hash that was begun elsewhere cannot be gone on with here")
            self._context.raw = state

    def update(self, data: memoryview) -> None:
        if not self._library:
            self._plain.update(data)
        elif len(data):
            self._library.SHA256_Update(self._context, _address(data), ctypes.c_size_t(len(data)))

    @property
    def state(self) -> bytes | None:
        return self._context.raw if self._library else None

    def hexdigest(self) -> str:
        if not self._library:
            return self._plain.hexdigest()
        digest = ctypes.create_string_buffer(_DIGEST_BYTES)
        copy = ctypes.create_string_buffer(self._context.raw, _CONTEXT_BYTES)
        self._library.SHA256_Final(digest, copy)
        return digest.raw.hex()


def _address(data: memoryview) -> ctypes.c_void_p:
    import numpy as np

    return ctypes.c_void_p(np.frombuffer(data, np.uint8).ctypes.data)


@cache
def _openssl() -> ctypes.CDLL | None:
    """hashlib's own OpenSSL, if its old functions are there and do what they are to."""
    try:
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)
        context = ctypes.create_string_buffer(_CONTEXT_BYTES + 64)
        digest = ctypes.create_string_buffer(_DIGEST_BYTES)
        library.SHA256_Init(context)
        library.SHA256_Update(context, b"abc", ctypes.c_size_t(3))
        library.SHA256_Final(digest, context)
    except (ImportError, OSError, AttributeError):
        return None
    is_right = digest.raw == hashlib.sha256(b"abc").digest()
    return library if is_right and not any(context.raw[_CONTEXT_BYTES:]) else None
