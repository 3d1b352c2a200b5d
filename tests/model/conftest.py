"""Fixtures for everything that runs the model."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers

from qwen35.backends.native.library import Library, load
from tests.model.checkpoint import write_checkpoint
from tests.model.pair import Pair, write_and_read
from tests.model.reference import DENSE, MOE, SHAPES, Shape, talkative_model


@pytest.fixture(scope="session", autouse=True)
def _strict_torch() -> Iterator[None]:
    """Fresh memory is NaN, so that a value nobody wrote is seen."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tensors are tiny, and the machine has others to serve
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Pair]:
    @functools.cache
    def make(shape: Shape) -> Pair:
        return write_and_read(shape, tmp_path_factory.mktemp(str(shape)))

    return make


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """As a user gets it: from the installation, or compiled once."""
    found, reason = load(tmp_path_factory.mktemp("compiled"), lambda: None)
    if found is None:
        pytest.skip(f"no native library on this platform: {reason}")
    return found


@pytest.fixture(params=SHAPES, ids=str)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[Shape], Pair]) -> Pair:
    """Every shape: dense and MoE, one to three value heads per key head, tied and untied."""
    return make_pair(request.param)


@pytest.fixture(params=(DENSE, MOE), ids=str)
def main_pair(request: pytest.FixtureRequest, make_pair: Callable[[Shape], Pair]) -> Pair:
    """One dense and one MoE shape, both with three value heads per key head."""
    return make_pair(request.param)


@pytest.fixture(scope="session", params=(DENSE, MOE), ids=str)
def talkative(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, transformers.PreTrainedModel]:
    """A checkpoint that answers in printable text, and the reference model it was written from."""
    folder = tmp_path_factory.mktemp(f"talkative-{request.param}")
    model = talkative_model(request.param)
    write_checkpoint(folder, model, request.param)
    return folder, model
