"""Whatever reads from the disk is tested with both kinds of readers."""

from functools import partial

import pytest

from qwen35.backends.native.library import Library
from qwen35.backends.native.readers import NativeReaders


@pytest.fixture(params=["threads", "native"], autouse=True)
def readers(request: pytest.FixtureRequest, library: Library, monkeypatch: pytest.MonkeyPatch) -> str:
    """Python's threads, or the library's."""
    if request.param == "native":
        for module in ("store", "layers"):
            monkeypatch.setattr(f"qwen35.experts.{module}.ThreadReaders", partial(NativeReaders, library))
    return str(request.param)
