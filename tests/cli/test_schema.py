"""`--schema` and its like on the command line, with mini, and with endings that a script gives."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from qwencli import runtime
from tests.cli import scripted as scripts
from tests.cli.conftest import Invoke, Result
from tests.cli.talking import PICTURE
from tests.cli.test_bad_input import check

FIELDS = "shape circle|square, colour red|blue: of the shape, sides int, places[]? {row int}"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "seen": {"type": "boolean"}},
    "required": ["n", "seen"],
}
OURS = ("-m", "mini", "--seed", "1", "--temperature", "0.7", "--max-tokens", "200", "--schema")


def ask(invoke: Invoke, *words: object) -> Result:
    return invoke("ask", PICTURE, "How many shapes?", *words)


@pytest.fixture
def scripted(invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `qwen ask` with an engine that follows a script."""
    monkeypatch.setattr(runtime, "load", scripts.load)

    def run(script: str, *words: object) -> Result:
        monkeypatch.setenv("SCRIPTED_ENGINE", script)
        return invoke("ask", "hello", "-m", model_folder, *words)

    return run


@pytest.mark.parametrize("style", ["text", "--json", "--jsonl"])
@pytest.mark.parametrize("think", ["off", "20"])
def test_an_answer_is_what_the_schema_says(invoke: Invoke, picture: Path, think: str, style: str) -> None:
    words = () if style == "text" else (style,)
    result = ask(invoke, *OURS, json.dumps(SCHEMA), "--think", think, *words)
    assert result.code == 0, result.err
    if style == "text":
        jsonschema.validate(json.loads(result.out), SCHEMA)
        return
    *events, record = [json.loads(line) for line in result.out.splitlines()]
    assert record["data"] == json.loads(record["answer"])
    jsonschema.validate(record["data"], SCHEMA)
    assert record["finish_reason"] == "stop"
    assert bool(record["usage"]["reasoning_tokens"]) == (think != "off")
    if events:
        assert "".join(event["text"] for event in events if event["type"] == "text") == record["answer"]


def test_fields_regular_expressions_choices_and_grammars_are_kept_to(invoke: Invoke, picture: Path) -> None:
    result = ask(invoke, *OURS, FIELDS)
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["shape"] in ("circle", "square")
    assert ask(invoke, "-m", "mini", "--choice", "seven, no idea").out.strip() in ("seven", "no idea")
    assert ask(invoke, "-m", "mini", "--regex", "0{3}[12]").out.strip() in ("0001", "0002")
    Path("g.lark").write_text('start: "<" word ">"\nword: "a" | "b"\n')
    assert ask(invoke, "-m", "mini", "--grammar", "g.lark").out.strip() in ("<a>", "<b>")
    Path("g.gbnf").write_text('# of llama.cpp\nroot ::= "<" word{2} ">"\nword ::= [ab]\n')
    assert ask(invoke, "-m", "mini", "--grammar", "g.gbnf").out.strip() in ("<aa>", "<ab>", "<ba>", "<bb>")


def test_a_grammar_that_outgrows_its_parser_says_so(invoke: Invoke) -> None:
    rules = [f'e{i}: e{i} e | e e{i} | e{i} e{(i + 1) % 40} | "a"' for i in range(40)]
    rules.append("e: " + " | ".join(f"e{i}" for i in range(40)))
    Path("large.lark").write_text("\n".join(["start: " + "e " * 12, *rules]))
    result = invoke("ask", "Hello", "-m", "mini", "--grammar", "large.lark", "--json")
    record = json.loads(result.out)
    assert (result.code, record["finish_reason"]) == (7, "schema")
    (note,) = (note for note in record["notes"] if "grammar" in note)
    assert note.startswith("the grammar is too much for its parser, and the answer ends here: ")
    assert "max is 2000" in note


def test_a_schema_is_read_from_a_file_and_told_to_the_model(invoke: Invoke, picture: Path) -> None:
    Path("s.json").write_text(json.dumps(SCHEMA))
    shown = ask(invoke, "-m", "mini", "--schema", "s.json", "--dry-run").out
    assert f"How many shapes?\n\nAnswer in JSON that follows this schema: {json.dumps(SCHEMA)}" in shown
    Path("s.txt").write_text("n int: how many\nseen bool")
    shown = ask(invoke, "-m", "mini", "--schema", "s.txt", "--dry-run").out
    assert '"description": "how many"' in shown


def test_a_cut_answer_is_kept_and_nothing_is_closed(invoke: Invoke, picture: Path) -> None:
    cut = ask(invoke, *OURS, json.dumps(SCHEMA), "--max-tokens", 5, "--json")
    record = json.loads(cut.out)
    assert cut.code == 7
    assert (record["finish_reason"], record["data"]) == ("length", None)
    assert record["answer"].startswith('{"')
    assert not record["answer"].endswith("}")
    assert "cut after 5 tokens" in cut.err
    assert ask(invoke, *OURS, json.dumps(SCHEMA), "--max-tokens", 5).out == record["answer"] + "\n"
    table = ask(invoke, *OURS, json.dumps(SCHEMA), "--max-tokens", 5, "--as", "csv")
    assert (table.code, table.out) == (7, "")


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ("name, age int", "'age' is a required property"),
        ('{"properties": {"born": {"type": "string", "format": "date"}}}', "$.born: '2024-02-30' is not a"),
    ],
)
def test_an_answer_is_checked_whatever_the_engine_says(
    scripted: Callable[..., Result], schema: str, complaint: str
) -> None:
    result = scripted("person", "--schema", schema, "--json")
    record = json.loads(result.out)
    assert (result.code, record["finish_reason"], record["data"]) == (7, "schema", None)
    assert complaint in result.err
    assert (record["answer"], record["reasoning"]) == ('{"name": "Zoë", "born": "2024-02-30"}', "Hm.")
    assert scripted("person", "--schema", "name, born").code == 0


def test_data_is_shown_in_another_form(scripted: Callable[..., Result]) -> None:
    shown = {
        kind: scripted("person", "-q", "--schema", "name, born", "--as", kind) for kind in ("csv", "yaml")
    }
    assert shown["csv"].out == "name,born\nZoë,2024-02-30\n"
    assert shown["yaml"].out == 'name: Zoë\nborn: "2024-02-30"\n'


def test_a_loop_is_told_and_exits_with_7(scripted: Callable[..., Result]) -> None:
    result = scripted("loop", "--json")
    assert (result.code, json.loads(result.out)["finish_reason"]) == (7, "loop")
    assert "the answer repeated itself" in result.err


def test_x_shows_what_the_first_fence_holds(scripted: Callable[..., Result]) -> None:
    assert scripted("fenced", "-x").out == "print(1)\n\n# ~~~\n"
    assert scripted("plain", "-x").out == "Two circles.\n"
    assert json.loads(scripted("fenced", "-x", "--json").out)["answer"] == "print(1)\n\n# ~~~"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"type":', "--schema: is not JSON: Expecting value, line 1, column 9"),
        ('{"type": "objec"}', "at /type: 'objec' is no type; there is object, array"),
        (
            '{"properties": {"a/b": {"items": {"not": {}}}}}',
            "at /properties/a~1b/items: not cannot be enforced",
        ),
        ('{"anyOf": [{"type": "string"}, {"uniqueItems": true}]}', "at /anyOf/1: uniqueItems cannot be"),
        ('{"$ref": "#/$defs/x", "$defs": {"x": {"pattern": "(?=a)"}}}', "at /$defs/x: it cannot be enforced"),
        ('{"$ref": "#/$defs/x"}', "it cannot be enforced: Pointer '/$defs/x' does not exist"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "nothing can satisfy it: minimum (5)"),
        ('{"allOf": [{"type": "string"}, {"type": "null"}]}', "nothing can satisfy it: incompatible types"),
        ('{"type": "string", "pattern": "^aaa$", "maxLength": 2}', "no text has its pattern"),
        ("false", "nothing can satisfy it"),
        (
            '{"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "required": ["y"], '
            '"properties": {"y": {"$ref": "#/$defs/x"}}}}}',
            "nothing can satisfy it: an object needs another one",
        ),
        ("[1]", "is JSON, but no schema"),
        ("name strin", "'strin' is no type. Known: str, int"),
        ("a, b {c", "has braces or brackets without their partners"),
        ("a, a int", "the field 'a' stands there twice"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_exits_with_2(
    invoke: Invoke, model_folder: Path, schema: str, message: str
) -> None:
    check(invoke, ("-m", model_folder, "hello", "--schema", schema), 2, message, "usage")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--regex", "(a"), "--regex: cannot be enforced: unclosed group"),
        (("--choice", " ,"), "--choice: there is nothing to choose from"),
        (("--regex", "a", "--choice", "b"), "only one can be given"),
        (("--as", "csv"), "--as shows the data of a schema"),
        (("--regex", ""), "--regex: the pattern is empty"),
        (("--schema", '{"type": "strin"}'), "at /type: 'strin' is no type; there is object, array, string"),
        (("-x", "--schema", "a"), "-x takes the code out of a free answer"),
    ],
)
def test_a_form_that_means_nothing_exits_with_2(
    invoke: Invoke, model_folder: Path, words: tuple, message: str
) -> None:
    check(invoke, ("-m", model_folder, "hello", *words), 2, message, "usage")


def test_a_file_that_holds_no_schema_exits_with_3(invoke: Invoke, model_folder: Path) -> None:
    Path("bad.json").write_text("{'a': 1}")
    Path("bad.lark").write_text("start: other")
    Path("bad.gbnf").write_text("root ::= (")
    for words, message in (
        (("--schema", "none.json"), "none.json: the schema cannot be read (No such file or directory)"),
        (("--schema", "bad.json"), "bad.json: is not JSON: Expecting property name"),
        (("--grammar", "bad.lark"), 'bad.lark: cannot be enforced: at 1(8): unknown name: "other"'),
        (("--grammar", "bad.gbnf"), "bad.gbnf: cannot be enforced: Expected ')' at line 1"),
        (("--grammar", "none.lark"), "none.lark: the grammar cannot be read"),
    ):
        check(invoke, ("-m", model_folder, "hello", *words), 3, message, "input")


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_records_are_what_their_schema_says(
    invoke: Invoke, scripted: Callable[..., Result], picture: Path, command: str
) -> None:
    schema = json.loads(invoke("schema", command).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    kinds = [
        scripted("thinking", "--json"),
        scripted("loop", "--json"),
        scripted("too_big", "--json"),
        scripted("plain", "--dry-run", "--json"),
        scripted("person", picture, "--json", "--schema", "name, born"),
    ]
    for result in kinds[: None if command == "ask" else 1]:
        record = json.loads(result.out)
        record.pop("prompt", None)
        if command == "batch":
            record["item"] = "a.png"
        jsonschema.validate(record, schema)
        assert set(record) == set(schema["properties"])
