"""`--check`: what rules mean, what is refused, and the second answer."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qwencli import runtime
from qwencli.structured.rules import Rule
from tests.cli import scripted as scripts
from tests.cli.conftest import Invoke, Result
from tests.cli.test_bad_input import check

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
def scripted(invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `qwen ask` with an engine that gives one answer after another."""
    answers: list[str] = []
    asked: list[str] = []

    class Engine(scripts.ScriptedEngine):
        def generate(self, request, prompt=None):  # type: ignore[no-untyped-def]
            asked.append(request.messages[-1].text)
            text = answers.pop(0)
            yield scripts.TextDelta(text)
            yield scripts._finished(text)

    monkeypatch.setattr(runtime, "load", lambda folder, processor, *rest: Engine(processor, scripts.plain))

    def run(given: list[str], *words: object) -> Result:
        answers[:], asked[:] = given, []
        result = invoke("ask", "hello", "-m", model_folder, *words)
        Path("asked").write_text(os.linesep.join(asked))
        return result

    return run


def test_what_breaks_a_rule_is_asked_again_once(scripted: Callable[..., Result]) -> None:
    words = ("--schema", FIELDS, "--check", "sum(items.price) == total")
    result = scripted([WRONG, RIGHT], *words)
    assert (result.code, result.out) == (0, f"{RIGHT}\n")
    assert "asked again" in result.err
    assert (
        "That is not right: sum(items.price) == total does not hold (5.5 and 6)." in Path("asked").read_text()
    )
    failed = scripted([WRONG, WRONG], *words, "--json")
    record = json.loads(failed.out)
    assert (failed.code, record["finish_reason"], record["data"]) == (7, "schema", None)
    assert record["answer"] == WRONG
    assert record["usage"]["completion_tokens"] == 14  # both are counted
    assert scripted([RIGHT], *words).code == 0


def test_a_value_that_fails_its_format_is_asked_again(scripted: Callable[..., Result]) -> None:
    result = scripted(
        ['{"day": "2024-02-30"}', '{"day": "2024-02-29"}'], "--schema", "day date", "--as", "csv"
    )
    assert (result.code, result.out) == (0, "day\n2024-02-29\n")


def test_a_list_without_records_is_a_table_without_rows(scripted: Callable[..., Result]) -> None:
    assert scripted(["[]"], "--schema", "[] day date, n int", "--as", "csv").out == "day,n\n"
    assert scripted(["[]"], "--schema", "[] day date", "--as", "md").out == "| day |\n| --- |\n"


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
