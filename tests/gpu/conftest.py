"""The device that these tests run on, and tiny models in every kind of place.

    pytest -m gpu tests/gpu                         on a machine with a CUDA device
    QWEN_TEST_DEVICE=cpu pytest -m gpu tests/gpu    the same code on the processor

One after another: some take the card's memory away from all others.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import home, invoke  # noqa: F401  fixtures
from tests.gpu.running import TRUE_HEADS
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import DENSE, MOE, Shape, talkative_model
from tests.model.weights.packing import tiny_checkpoint

WANTED = os.environ.pop("QWEN_TEST_DEVICE", "cuda")  # taken away: the program reads QWEN_* itself

FolderOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def device() -> str:
    if WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device; QWEN_TEST_DEVICE=cpu runs these tests on the processor")
    return WANTED


@pytest.fixture
def cuda(device: str) -> None:
    """For what a processor has not."""
    if device != "cuda":
        pytest.skip("about the memory of a CUDA device, of which QWEN_TEST_DEVICE=cpu has none")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    import transformers

    torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """A checkpoint by name: "dense", "moe" (every size odd, three value heads per key head), "dense true
    heads", "moe true heads" (heads as large as the family's, two value heads per key head), "dense talks",
    "moe talks" (whose answers are printable)."""
    shapes = {"dense": DENSE, "moe": MOE}

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / name.replace(" ", "-")
        kind, _, what = name.partition(" ")
        if what == "true heads":
            from benchmarks.synthetic import write_checkpoint as write_synthetic

            write_synthetic(TRUE_HEADS[kind], folder)
        elif what == "talks":
            folder.mkdir()
            shape: Shape = shapes[kind]
            write_checkpoint(folder, talkative_model(shape), shape)
        else:
            tiny_checkpoint(folder, shapes[kind])
        return folder

    return make


@pytest.fixture(params=("dense", "moe", "dense true heads", "moe true heads"))
def folder(request: pytest.FixtureRequest, folder_of: FolderOf, device: str) -> Path:
    return folder_of(request.param)


@pytest.fixture(params=("dense", "moe"))
def tiny_folder(request: pytest.FixtureRequest, folder_of: FolderOf, device: str) -> Path:
    return folder_of(request.param)


@pytest.fixture(params=("dense talks", "moe talks"))
def talking_folder(request: pytest.FixtureRequest, folder_of: FolderOf, device: str) -> Path:
    return folder_of(request.param)


@pytest.fixture(autouse=True)
def _own_memory() -> Iterator[None]:
    """What a test leaves on the card goes before the next one counts what is free."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
