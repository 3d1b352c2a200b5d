"""A model folder without weights: all that a Processor reads."""

import copy
import json
import struct
from pathlib import Path
from typing import Any

import pytest

import qwen35
from tests.model.checkpoint import CHAT_TEMPLATE, PREPROCESSOR_CONFIG, byte_tokenizer
from tests.model.reference import DENSE, reference_model

# Data that may lie beside this checkout but not in it; where it does not, its tests are skipped.
MINI = Path(qwen35.__file__).parent / "builtin" / "mini-bf16"
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


@pytest.fixture(scope="session")
def real_tokenizer_json() -> str:
    """The real vocabulary and merges of the family, in the words of its own pre-tokeniser."""
    path = SHARED_DATA / "ggml-vocab-qwen35.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not beside this checkout")
    read = gguf_strings(path)
    values = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    tokens, kinds = read["tokenizer.ggml.tokens"], read["tokenizer.ggml.token_type"]
    is_added = {i: kind in (3, 4) for i, kind in enumerate(kinds)}
    values["model"]["vocab"] = {token: i for i, token in enumerate(tokens) if not is_added[i]}
    values["model"]["merges"] = [merge.split(" ") for merge in read["tokenizer.ggml.merges"]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    values["added_tokens"] = [
        {"id": i, "content": token, "special": kinds[i] == 3, **flags}
        for i, token in enumerate(tokens)
        if is_added[i]
    ]
    return json.dumps(values)


def gguf_strings(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file."""
    data, place = path.read_bytes(), 24
    sizes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def take(format: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from(f"<{format}", data, place)
        place += struct.calcsize(format)
        return value

    def read(kind: int) -> Any:
        nonlocal place
        if kind == 8:
            length = take("Q")
            place += length
            return data[place - length : place].decode()
        if kind == 9:
            kind, count = take("I"), take("Q")
            return [read(kind) for _ in range(count)]
        return take(sizes[kind])

    _, count = struct.unpack_from("<QQ", data, 8)
    return {read(8): read(take("I")) for _ in range(count)}
