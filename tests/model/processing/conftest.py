"""A model folder without weights: all that a Processor reads."""

import copy
import json
from pathlib import Path

import pytest

from tests.model.checkpoint import CHAT_TEMPLATE, PREPROCESSOR_CONFIG, byte_tokenizer
from tests.model.reference import DENSE, reference_model

# Data that may lie beside this checkout but not in it; where it does not, its tests are skipped.
SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tests may change its files."""
    folder = tmp_path / "model"
    config = copy.deepcopy(reference_model(DENSE).config)
    config.architectures, config.dtype = ["Qwen3_5ForConditionalGeneration"], "float32"
    config.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR_CONFIG), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def official_template() -> str:
    """The chat template of Qwen3.5-4B as it lies in the checkpoint."""
    path = SHARED_DATA / "Qwen3.5-4B.jinja"
    if not path.exists():
        pytest.skip(f"{path} is not beside this checkout")
    return path.read_text(encoding="utf-8")
