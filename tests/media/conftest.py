"""Notes that a decoder gives, as a list."""

import pytest


@pytest.fixture
def notes() -> list[str]:
    return []
