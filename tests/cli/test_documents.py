"""What mini reads off held-out documents, through the whole program: data that other programs take."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mini.evaluate_tasks import fields_right
from mini.labels import Question
from tests.cli.conftest import Invoke
from tests.mini.test_builtin import HELD_OUT, ITEMS

RECEIPT = "shop, date, items[] {name, price float}, total float"


def items(*kinds: str) -> list[dict[str, str]]:
    return [item for item in ITEMS if item.get("kind") in kinds and "system" not in item]


def picture(item: dict[str, str]) -> Path:
    return HELD_OUT / item["picture"]


def right(item: dict[str, str], data: Any) -> float:
    return fields_right(Question("", item["answer"], ""), json.dumps(data))


def plainly(kind: str, data: dict[str, Any]) -> Any:
    """What the template asks for, as mini is asked for it in fewer words."""
    if kind == "receipt":
        items = [{"name": item["name"], "price": item["price"]} for item in data["items"]]
        return {"shop": data["shop"], "date": data["date"], "items": items, "total": data["total"]}
    if kind == "invoice":
        return {name: data[name] for name in ("number", "date", "total")} | {"customer": data["buyer"]}
    (series,) = data["series"]
    return {point["label"]: point["value"] for point in series["points"]}


@pytest.mark.parametrize("kind", ["receipt", "invoice", "chart"])
def test_templates_make_data_of_documents(invoke: Invoke, kind: str) -> None:
    shares = []
    for item in items(f"{kind}_json")[:5]:
        result = invoke("ask", picture(item), "-t", kind, "--json")
        record = json.loads(result.out)
        assert record["error"] is None
        assert record["finish_reason"] in ("stop", "schema")  # prices that do not add up to the total
        if record["data"] is not None:
            shares.append(right(item, plainly(kind, record["data"])))
    assert len(shares) >= 3
    assert sum(shares) / len(shares) >= 0.85


def test_the_table_template_shows_csv_alone(invoke: Invoke) -> None:
    shares = []
    for item in items("table_template"):
        result = invoke("ask", picture(item), "-t", "table")
        expected = item["answer"].removeprefix("```csv\n").removesuffix("\n```")
        rows = list(csv.reader(io.StringIO(result.out)))
        assert len({len(row) for row in rows}) == 1
        shares.append(fields_right(Question("", expected, ""), result.out))
    assert len(shares) >= 2
    assert sum(shares) / len(shares) >= 0.85


@pytest.mark.parametrize("think", ["off", "on"])
@pytest.mark.parametrize("schema", ["given", "none"])
@pytest.mark.parametrize("stream", ["--json", "--jsonl"])
def test_a_receipt_is_the_same_data_however_it_is_asked_for(
    invoke: Invoke, think: str, schema: str, stream: str
) -> None:
    shares = []
    for item in items("receipt_json")[:4]:
        told = ["--schema", RECEIPT] if schema == "given" else []
        words = [
            picture(item),
            "Give the receipt as JSON.",
            *told,
            "--think",
            think,
            stream,
            "--temperature",
            0,
        ]
        result = invoke("ask", *words)
        record = json.loads(result.out.splitlines()[-1])
        assert record["answer"].startswith("{")
        assert bool(record["reasoning"]) == (think == "on")
        assert "{" not in (record["reasoning"] or "")
        shares.append(right(item, json.loads(record["answer"])))
        if schema == "given":
            assert record["data"] == json.loads(record["answer"])
    assert sum(shares) / len(shares) >= 0.85


def test_a_folder_of_receipts_becomes_a_table(invoke: Invoke, tmp_path: Path) -> None:
    chosen = items("receipt_json")[:4]
    words = [*map(picture, chosen), "Give the receipt as JSON.", "--schema", RECEIPT, "--temperature", 0]
    result = invoke("batch", *words, "-o", tmp_path / "out.jsonl")
    assert result.code == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    records = {Path(record["item"]).name: record for record in map(json.loads, lines)}
    shares = [right(item, records[item["picture"]]["data"]) for item in chosen]
    assert sum(shares) / len(shares) >= 0.85
