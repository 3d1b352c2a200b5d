"""Tiny random models, unpacked and packed, with a context long enough for every kind of boundary."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from qwen35.backends.native import library as native
from qwen35.cache.store import Store
from qwen35.weights.pack import pack
from tests.model.cache.saved import MINI, PLENTY
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import DENSE, MOE, talkative_model

SHAPES = {"dense": DENSE, "moe": MOE}  # both with three value heads per key head

ModelOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelOf:
    """A model folder by a name such as "dense" or "moe-q4"."""
    root = tmp_path_factory.mktemp("cached-models")

    @functools.cache
    def make(name: str) -> Path:
        shape, _, quant = name.partition("-")
        folder = root / name
        if quant:
            if native.load()[0] is None:
                pytest.skip("this platform has no compiler: the native library was not built on installation")
            pack(make(shape), folder, quant)  # type: ignore[arg-type]
            return folder
        folder.mkdir()
        write_checkpoint(folder, talkative_model(SHAPES[shape]), SHAPES[shape])
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = 16_384
        (folder / "config.json").write_text(json.dumps(config))
        # Ids are still bytes, but words are those of the family's tokenizer: a document ends at a word.
        path = folder / "tokenizer.json"
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        words = tokenizers.Tokenizer.from_file(str(MINI / "tokenizer.json")).pre_tokenizer
        assert isinstance(words, pre_tokenizers.PreTokenizer)
        tokenizer.pre_tokenizer = words
        tokenizer.save(str(path))
        return folder

    return make


@pytest.fixture(scope="session")
def model(model_of: ModelOf) -> Path:
    """Where one model is enough: packed, on the native kernels."""
    return model_of("dense-q8")


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """The folder of saved states, not made yet."""
    return tmp_path / "states"


@pytest.fixture
def store(states: Path) -> Store:
    return Store(states, PLENTY)
