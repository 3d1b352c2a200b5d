"""`--check`: what rules mean, what is refused, and the second answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qwencli import runtime
from qwencli.structured.rules import Rule
from tests.cli.conftest import Invoke, Result
from tests.cli.test_bad_input import check
from tests.model.engine.scripted import engine_of

DATA = {
    "items": [{"name": "Tea", "price": 0.1}, {"name": "Bun", "price": 0.2}],
    "total": 0.3,
    "tax": {"rate": 19},
    "paid": None,
}
WRONG = '{"items": [{"price": 2}, {"price": 3.5}], "total": 6}'
RIGHT = '{"items": [{"price": 2}, {"price": 3.5}], "total": 5.5}'
FIELDS = "items[] {price float}, total float"


@pytest.mark.parametrize(
    "rule",
    [
        "sum(items.price) == total",
        "len(items) == 2 and not len(items) > 2",
        "0.1 <= min(items.price) < max(items.price)",
        "total * (1 + tax.rate / 100) - total > 0.05",
        "'Tea' in items.name",
        "paid == None or paid >= total",
        "round(abs(-total), 1) == 0.3",
        "-total != total % 2",
    ],
)
def test_a_rule_that_holds_says_nothing(rule: str) -> None:
    Rule.parse(rule).check(DATA)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("sum(items.price) > total", r"does not hold \(0.3 and 0.3\)"),
        ("total == tax.rate", r"does not hold \(0.3 and 19\)"),
        ("items.weight == total", "cannot be computed .*there is no weight"),
        ("paid < total", "cannot be computed"),
        ("total / (total - total) > 1", "cannot be computed"),
    ],
)
def test_a_rule_that_does_not_hold_says_why(rule: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Rule.parse(rule).check(DATA)


@pytest.mark.parametrize(
    "rule",
    [
        "__import__('os')",
        "total.__class__()",
        "open('x')",
        "[x for x in items]",
        "(lambda: 1)()",
        "2 ** 9",
        "f'{total}'",
        "total = 1",
        "sum(items, start=1)",
        "b'x'",
        "",
    ],
)
def test_nothing_but_rules_is_evaluated(rule: str) -> None:
    with pytest.raises(ValueError, match=r"there are fields|is no rule"):
        Rule.parse(rule)


@pytest.fixture
def scripted(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `qwen` with a model that gives one answer after another."""
    answers: list[str] = []
    monkeypatch.setattr(runtime, "load", lambda folder, processor, *rest: engine_of(processor, *answers)[0])

    def run(given: list[str], *words: object) -> Result:
        answers[:] = given
        return invoke(*words, "--temperature", 0)

    return run


def test_what_breaks_a_rule_is_asked_again_once(scripted: Callable[..., Result]) -> None:
    words = ("ask", "hello", "--schema", FIELDS, "--check", "sum(items.price) == total")
    result = scripted([WRONG, RIGHT], *words)
    assert (result.code, result.out) == (0, f"{RIGHT}\n")
    assert "asked again, as the answer was not right: sum(items.price) == total does not hold" in result.err
    failed = scripted([WRONG, WRONG], *words, "--json")
    record = json.loads(failed.out)
    assert (failed.code, record["finish_reason"], record["data"]) == (7, "schema", None)
    assert record["answer"] == WRONG
    assert scripted([RIGHT], *words).err.count("asked again") == 0


def test_each_of_several_answers_has_a_second_chance(scripted: Callable[..., Result]) -> None:
    words = ("ask", "hello", "--schema", FIELDS, "--check", "sum(items.price) == total", "--n", 2)
    # The prompt is read; then both are begun before one of them ends.
    result = scripted(["", RIGHT, WRONG, RIGHT], *words, "--json")
    record = json.loads(result.out)
    assert (result.code, record["data"]) == (0, [json.loads(RIGHT)] * 2)
    assert sum("asked again" in note for note in record["notes"]) == 1


def test_in_a_batch_what_breaks_a_rule_is_asked_again(
    scripted: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "items.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    words = ("batch", tmp_path / "items.jsonl", "--schema", FIELDS, "--check", "sum(items.price) == total")
    result = scripted([RIGHT, WRONG, RIGHT], *words, "-o", tmp_path / "out.jsonl", "--batch-size", 2)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert result.code == 0
    assert [record["data"] for record in records] == [json.loads(RIGHT)] * 2
    assert sorted(len(record["notes"]) for record in records) == [0, 1]
    # Other rules are another batch.
    refused = scripted([RIGHT], *words, "--check", "total > 1", "-o", tmp_path / "out.jsonl")
    assert refused.code == 2


def test_a_list_without_records_is_a_table_without_rows(scripted: Callable[..., Result]) -> None:
    words = ("ask", "hello", "--schema")
    assert scripted(["[]"], *words, "[] day date, n int", "--as", "csv").out == "day,n\n"
    assert scripted(["[]"], *words, "[] day date", "--as", "md").out == "| day |\n| --- |\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--check", "a == 1"), "--check is about the data of a schema"),
        (("--schema", "a", "--check", "b == 1"), "--check: 'b == 1': the schema has no field 'b'"),
        (("--schema", "a", "--check", "a =="), "--check: 'a ==' is no rule"),
    ],
)
def test_a_rule_that_means_nothing_exits_with_2(
    invoke: Invoke, model_folder: Path, words: tuple, message: str
) -> None:
    check(invoke, ("-m", model_folder, "hello", *words), 2, message, "usage")
