"""The short form of a schema, and data in other forms than JSON: read back by other programs' readers."""

import csv
import io
import json
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwencli.structured.short_form import parse_short_form
from qwencli.structured.tables import render

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12)
DATA = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=6), below, max_size=4),
    max_leaves=12,
)
RECEIPT = {
    "shop": {"name": "A | B", "open": True},
    "items": [{"name": "Tea\nblack", "price": 2.5}, {"name": '"x"', "price": 10, "note": None}],
}


def test_the_short_form_is_a_schema() -> None:
    assert parse_short_form("name, total float: grand total, items[]") == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "total": {"type": "number", "description": "grand total"},
            "items": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "total", "items"],
        "additionalProperties": False,
    }


def properties(text: str) -> dict[str, Any]:
    schema = parse_short_form(text)
    return (schema["items"] if schema["type"] == "array" else schema)["properties"]


def test_fields_have_types_lists_objects_and_choices() -> None:
    fields = properties("when? date, who {name, age int}, kind a|b c: which, rows[] {n int}: all")
    assert fields["when"] == {"type": "string", "format": "date"}
    assert fields["who"]["properties"]["age"] == {"type": "integer"}
    assert fields["rows"]["items"]["required"] == ["n"]
    assert fields["rows"]["description"] == "all"
    assert "when" not in parse_short_form("when? date, a")["required"]


def test_a_colon_reaches_to_the_comma_or_with_lines_to_the_end() -> None:
    assert list(properties("a: one, b: two")) == ["a", "b"]
    assert properties("a: one, or two\nb {\n  c int: x, y\n}")["a"]["description"] == "one, or two"


def test_brackets_before_all_make_a_list() -> None:
    assert parse_short_form("[] name, price float")["type"] == "array"
    assert list(properties("[] {name, price float}")) == ["name", "price"]


def test_tables_have_a_row_for_each_record() -> None:
    rows = list(csv.DictReader(io.StringIO(render(RECEIPT, "csv"))))
    assert [row["items.name"] for row in rows] == ["Tea\nblack", '"x"']
    assert [row["items.price"] for row in rows] == ["2.5", "10"]
    assert {row["shop.name"] for row in rows} == {"A | B"}
    assert render(RECEIPT["items"], "md").splitlines() == [
        "| name | price | note |",
        "| --- | ---: | --- |",
        "| Tea<br>black | 2.5 |  |",
        '| "x" | 10 |  |',
    ]
    assert render([1, "a"], "csv") == "value\n1\na"


def test_lines_of_json_are_the_records() -> None:
    assert [json.loads(line) for line in render([1, {"a": "é\n"}], "jsonl").splitlines()] == [1, {"a": "é\n"}]
    assert json.loads(render(RECEIPT, "json")) == RECEIPT


def test_xml_has_elements_by_key() -> None:
    root = ElementTree.fromstring(render(RECEIPT | {"a b<": "&\x01"}, "xml"))
    assert [item.findtext("price") for item in root.find("items") or ()] == ["2.5", "10"]
    other = root.find("value")
    assert other is not None
    assert (other.get("key"), other.text) == ("a b<", "&\ufffd")


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_yaml_reads_back_as_the_data(data: Any) -> None:
    assert yaml.safe_load(render(data, "yaml")) == data


@settings(max_examples=60, deadline=None)
@given(DATA)
@example({"\u0218": None})  # a letter that older editions of XML do not know
def test_xml_is_always_well_formed(data: Any) -> None:
    ElementTree.fromstring(render(data, "xml"))


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_a_table_has_as_many_cells_in_each_row(data: Any) -> None:
    rows = list(csv.reader(io.StringIO(render(data, "csv"), newline="")))
    assert len({len(row) for row in rows}) <= 1 or [] in rows


@pytest.mark.parametrize(
    "word", ["yes", "null", "1e3", "0x1", "a: b", "- a", "#", "", " ", "2024-01-01", "~"]
)
def test_words_that_mean_more_to_yaml_stay_words(word: str) -> None:
    assert yaml.safe_load(render({word: word}, "yaml")) == {word: word}
