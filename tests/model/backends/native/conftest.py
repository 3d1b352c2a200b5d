"""Contexts on each kind of kernels that runs here."""

from collections.abc import Callable

import pytest

from qwen35.backends.native.library import Context, Library
from qwen35.errors import DoesNotFit
from tests.model.backends.native.weights import MemoryWeights
from tests.model.pair import Pair

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


@pytest.fixture(scope="module")
def weights_of() -> Callable[[Pair, str], MemoryWeights]:
    """A tiny model's weights in a format."""
    known: dict[tuple[str, str], MemoryWeights] = {}

    def make(pair: Pair, format_name: str) -> MemoryWeights:
        key = (str(pair.shape), format_name)
        if key not in known:
            known[key] = MemoryWeights(pair.ours, format_name)
        return known[key]

    return make
