"""SHA-256 that goes on in another process."""

import hashlib

import pytest

from qwen35.weights.midstate import Sha256


def test_a_hash_that_is_put_aside_goes_on_where_it_was() -> None:
    data = bytes(range(256)) * 1000
    first = Sha256()
    first.update(memoryview(data[:77_777]))
    state = first.state
    if state is None:
        pytest.skip("no OpenSSL to be reached on this platform")
    second = Sha256(state)
    second.update(memoryview(data[77_777:]))
    assert second.hexdigest() == second.hexdigest() == hashlib.sha256(data).hexdigest()
    with pytest.raises(ValueError, match="cannot be gone on with"):
        Sha256(b"short")
