"""`--where`: what the model is asked for, what comes of its answer, and what is refused."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from qwen35.messages import ImagePart, Message, TextPart
from qwencli import runtime
from qwencli.structured.check import check_schema
from qwencli.structured.short_form import parse_short_form
from qwencli.structured.where import Where
from tests.cli.conftest import Invoke, Result
from tests.cli.test_bad_input import check
from tests.model.engine.scripted import engine_of

FIELDS = "shop, total float, items[] {name, price float}, tags?[]"


def pages(*sizes: tuple[int, int]) -> tuple[Message, ...]:
    """A question about pages of these (width, height)."""
    parts = [
        ImagePart(np.zeros((height, width, 3), np.uint8), f"x.pdf, page {page}", page=page)
        for page, (width, height) in enumerate(sizes, 3)
    ]
    return (Message("user", (*parts, TextPart("What was bought?"))),)


def placed(value: object, page: int = 1, box: list[int] | None = None) -> dict[str, object]:
    return {"value": value, "page": page, "box": box}


ANSWER = {
    "shop": placed("Lidl", 1, [0, 0, 500, 100]),
    "total": placed(3.5, 2, [100, 200, 300, 1000]),
    "items": [{"name": placed("Tea", 2), "price": placed(3.5, 2, [333, 0, 334, 1])}],
    "tags": [placed("food")],
}
DATA = {"shop": "Lidl", "total": 3.5, "items": [{"name": "Tea", "price": 3.5}], "tags": ["food"]}


def test_each_value_is_asked_for_with_its_place_and_parted_again() -> None:
    schema = parse_short_form(FIELDS)
    where = Where.of(schema, pages((200, 100), (1000, 500)))
    check_schema(where.placed)
    Draft202012Validator(where.placed).validate(ANSWER)
    data, places = where.part(ANSWER)
    assert data == DATA
    Draft202012Validator(schema).validate(data)
    told = [(p.path, p.source, p.page, p.box, p.page_size) for p in places]
    assert told == [
        ("$.shop", "x.pdf, page 3", 3, (0, 0, 100, 10), (200, 100)),
        ("$.total", "x.pdf, page 4", 4, (100, 100, 300, 500), (1000, 500)),
        ("$.items[0].name", "x.pdf, page 4", 4, None, (1000, 500)),
        ("$.items[0].price", "x.pdf, page 4", 4, (333, 0, 334, 1), (1000, 500)),
        ("$.tags[0]", "x.pdf, page 3", 3, None, (200, 100)),
    ]
    outside = ANSWER | {"shop": placed("Lidl", 3)}
    assert not Draft202012Validator(where.placed).is_valid(outside)  # there are two pages


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 4, 9], [5, 9, 9, 9], [1, 1, 2, 1001]])
def test_what_is_no_box_is_left_out(box: list[int]) -> None:
    _, [place] = Where.of(parse_short_form("a"), pages((10, 10))).part({"a": placed("x", 1, box)})
    assert place.box is None


def test_references_are_followed_also_in_circles() -> None:
    node = {
        "type": "object",
        "properties": {"name": {"$ref": "#/$defs/name"}, "below": {"$ref": "#/$defs/nodes"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": node,
            "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "name": {"type": "string", "minLength": 1},
        },
    }
    where = Where.of(schema, pages((10, 10)))
    answer = {"name": placed("a"), "below": [{"name": placed("b")}, {"name": placed("c"), "below": []}]}
    Draft202012Validator(where.placed).validate(answer)
    data, places = where.part(answer)
    assert data == {"name": "a", "below": [{"name": "b"}, {"name": "c", "below": []}]}
    assert [place.path for place in places] == ["$.name", "$.below[0].name", "$.below[1].name"]
    assert not Draft202012Validator(where.placed).is_valid({"name": "a"})


def test_what_is_one_of_several_counts_as_one_value() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a b": {"anyOf": [{"type": "object", "properties": {"x": {"type": "integer"}}}, {"type": "null"}]}
        },
    }
    data, [place] = Where.of(schema, pages((10, 10))).part({"a b": placed({"x": 1})})
    assert (data, place.path) == ({"a b": {"x": 1}}, "$['a b']")


@pytest.fixture
def scripted(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `qwen` with a model that gives one answer after another."""

    def run(answers: list[object], *words: object) -> Result:
        said = [json.dumps(answer) for answer in answers]
        monkeypatch.setattr(runtime, "load", lambda folder, processor, *rest: engine_of(processor, *said)[0])
        return invoke(*words, "--temperature", 0)

    return run


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Two pages, of 100 x 200 and 300 x 200 points."""
    first, second = Image.new("L", (100, 200), 255), Image.new("L", (300, 200), 255)
    buffer = io.BytesIO()
    first.save(buffer, "PDF", save_all=True, append_images=[second], resolution=72)
    path = tmp_path / "scan.pdf"
    path.write_bytes(buffer.getvalue())
    return path


def test_the_places_stand_beside_the_data(scripted: Callable[..., Result], document: Path) -> None:
    answer = {"total": placed(3.5, 2, [0, 500, 500, 1000])}
    words = ("ask", document, "How much?", "--schema", "total float", "--where")
    result = scripted([answer], *words, "--json")
    record = json.loads(result.out)
    assert (result.code, record["data"]) == (0, {"total": 3.5})
    assert json.loads(record["answer"]) == answer
    assert record["where"] == [
        {
            "path": "$.total",
            "source": f"{document}, page 2",
            "page": 2,
            "box": [0, 208, 313, 417],
            "page_size": [625, 417],
        }
    ]
    assert json.loads(scripted([answer], *words).out) == answer


def test_rules_are_about_the_data(scripted: Callable[..., Result], document: Path) -> None:
    words = ("ask", document, "How much?", "--schema", "total float", "--where", "--check", "total < 2")
    result = scripted([{"total": placed(3.5)}, {"total": placed(1.5, 2)}], *words, "--json")
    record = json.loads(result.out)
    assert (result.code, record["data"], record["where"][0]["page"]) == (0, {"total": 1.5}, 2)


def test_each_item_of_a_batch_has_its_own_pages(
    scripted: Callable[..., Result], document: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    document.rename(folder / "a.pdf")
    Image.new("RGB", (40, 40)).save(folder / "b.png")
    (folder / "c.txt").write_text("3.5")
    out = tmp_path / "out.jsonl"
    words = ("batch", folder, "How much?", "--schema", "total float", "--where", "-o", out, "--batch-size", 1)
    result = scripted([{"total": placed(3.5, 2)}, {"total": placed(1.5)}], *words)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert result.code == 6
    assert [(r["where"] or [{}])[0].get("page") for r in records if not r["error"]] == [2, None]
    assert [r["error"]["message"] for r in records if r["error"]] == [
        "--where: there is no page or picture in which a value could be found."
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "hello", "--where"), "--where is about the data of a --schema"),
        (("ask", "hello", "--schema", "a", "--where", "--as", "csv"), "it does not go with --as"),
        (("ask", "hello", "--schema", "a", "--where"), "--where: there is no page or picture"),
        (("batch", ".", "hi", "--schema", "a", "--where", "--as", "csv"), "--where is told in JSON lines"),
    ],
)
def test_a_place_that_cannot_be_told_exits_with_2(
    invoke: Invoke, model_folder: Path, words: tuple, message: str
) -> None:
    command, *others = words
    result = invoke(command, "-m", model_folder, *others)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize("reference", ["#", "#/$defs/a/properties/b"])
def test_a_reference_that_leads_elsewhere_is_refused(
    invoke: Invoke, model_folder: Path, document: Path, reference: str
) -> None:
    known = {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}
    schema = {"type": "object", "properties": {"a": {"$ref": reference}}, "$defs": known}
    words = ("-m", model_folder, document, "hi", "--schema", json.dumps(schema), "--where")
    check(invoke, words, 2, f"--where: a $ref to '{reference}' cannot be followed", "usage")


def test_a_place_is_what_the_schema_of_the_record_says() -> None:
    from qwencli.structured.record_schema import record_schema

    _, places = Where.of(parse_short_form(FIELDS), pages((200, 100), (10, 20))).part(ANSWER)
    schema = record_schema("ask")["properties"]["where"]
    Draft202012Validator(schema).validate(json.loads(json.dumps([asdict(place) for place in places])))
