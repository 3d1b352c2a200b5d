"""The benchmarks of schemas run, and say what they found."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import grammar, schema_suite
from mini.tokenizer import MiniTokenizer

MINI = Path(__file__).parents[2] / "model/qwen35/builtin/mini"


def test_the_cost_of_a_schema_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(MINI), "--rounds", "1", "--prompt", "8", "--tokens", "12"]
    monkeypatch.setattr(sys, "argv", ["grammar.py", *words])
    grammar.main()
    lines = capsys.readouterr().out.splitlines()
    size = len(MiniTokenizer.load())
    assert lines[0].startswith(f"the vocabulary of {size} tokens: ")
    assert [line[:7] for line in lines[2:]] == ["free   ", "schema,", "schema "]


def test_the_suites_cases_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        {"description": "right", "data": {"b": 1, "a": "x"}, "valid": True},
        {"description": "wrong", "data": {"a": 1}, "valid": False},
    ]
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}}
    groups = [
        {"description": "known", "schema": {"properties": properties, "type": "object"}, "tests": cases},
        {"description": "unknown", "schema": {"not": {}}, "tests": cases},
    ]
    (tmp_path / "x.json").write_text(json.dumps(groups))
    monkeypatch.setattr(sys, "argv", ["schema_suite.py", str(tmp_path), "--show"])
    schema_suite.main()
    out = capsys.readouterr().out
    for line in ("1 schemas enforced", "1 schemas refused", "1 valid, accepted", "1 invalid, not accepted"):
        assert f"     {line}\n" in out
    assert "x: unknown: at" not in out
    assert "x: unknown: not cannot be enforced. Leave it out." in out
