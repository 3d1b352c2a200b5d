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

KINDS = {"receipt_template": "receipt", "invoice_template": "invoice", "chart_template": "chart"}
RECEIPT = "shop, date, items[] {name, price float}, total float"


def items(*kinds: str) -> list[dict[str, str]]:
    return [item for item in ITEMS if item.get("kind") in kinds and "system" not in item]


def picture(item: dict[str, str]) -> Path:
    return HELD_OUT / item["picture"]


def right(item: dict[str, str], data: Any) -> float:
    return fields_right(Question("", item["answer"], ""), json.dumps(data))


def test_templates_make_data_of_receipts_invoices_and_charts(invoke: Invoke) -> None:
    shares = []
    for item in items(*KINDS):
        result = invoke("ask", picture(item), "-t", KINDS[item["kind"]], "--json")
        record = json.loads(result.out)
        assert record["error"] is None
        assert record["finish_reason"] in ("stop", "schema")  # of a sum that is not the total
        if record["data"] is not None:
            shares.append(right(item, record["data"]))
    assert len(shares) >= 6
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
    records = {Path(r["item"]["path"]).name: r for r in map(json.loads, (tmp_path / "out.jsonl").open())}
    shares = [right(item, records[item["picture"]]["data"]) for item in chosen]
    assert sum(shares) / len(shares) >= 0.85
