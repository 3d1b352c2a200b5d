"""Whatever reads from the disk is tested with both kinds of readers; mini is what lies there."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import qwen35
from qwen35.backends.native.library import Library
from qwen35.backends.native.readers import NativeReaders
from qwen35.weights.manifest import ExpertsEntry
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import text_experts

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"
STAGING = 8  # slots that no layer owns: mini has eight experts in a layer


@pytest.fixture(params=["threads", "native"], autouse=True)
def readers(request: pytest.FixtureRequest, library: Library, monkeypatch: pytest.MonkeyPatch) -> str:
    """Python's threads, or the library's."""
    if request.param == "native":
        for module in ("store", "layers"):
            monkeypatch.setattr(f"qwen35.experts.{module}.ThreadReaders", partial(NativeReaders, library))
    return str(request.param)


@pytest.fixture(scope="module")
def mini() -> Iterator[PackedModel]:
    with PackedModel.open(MINI, "read") as model:
        yield model


@pytest.fixture(scope="module")
def layers(mini: PackedModel) -> list[ExpertsEntry]:
    return text_experts(mini.manifest)
