"""`qwen batch --schema`: each line's data, and what makes an output another one's."""

import json
from pathlib import Path

import jsonschema
from PIL import Image

from tests.cli.conftest import Invoke

FIELDS = "colour red|green, round bool"


def test_each_line_holds_the_data_of_its_item(invoke: Invoke, home: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(f"{number}.png")
    words = ("batch", "-m", "mini", "*.png", "describe", "-o", "out.jsonl", "--schema")
    result = invoke(*words, FIELDS)
    assert result.code == 0, result.err
    schema = json.loads(invoke("schema", "batch").out)
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len(records) == 3
    for record in records:
        jsonschema.validate(record, schema)
        assert record["data"] == json.loads(record["answer"])
        assert record["data"]["colour"] in ("red", "green")
    other = invoke(*words, "colour red|blue")
    assert other.code == 2
    assert "another question" in other.err
    assert invoke(*words, "colour strin").err.startswith("error: --schema: ")
