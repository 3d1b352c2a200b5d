"""Contexts on each kind of kernels that runs here."""

from collections.abc import Callable

import pytest

from qwen35.backends.native.library import Context, Library
from qwen35.errors import DoesNotFit

ISAS = ("scalar", "avx2", "avx512", "neon")


@pytest.fixture(scope="session")
def make_context(library: Library) -> Callable[..., Context]:
    """A context by number of threads and instruction set; skips where the processor lacks it."""

    def make(num_threads: int = 1, isa: str = "") -> Context:
        try:
            return Context(library, num_threads, isa)
        except DoesNotFit:
            pytest.skip(f"this platform's processor does not run {isa}")

    return make


@pytest.fixture(params=ISAS)
def context(request: pytest.FixtureRequest, make_context: Callable[..., Context]) -> Context:
    return make_context(1, request.param)
