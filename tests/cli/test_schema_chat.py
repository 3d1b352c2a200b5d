"""`/schema` in a chat."""

import json

from tests.cli.conftest import Invoke
from tests.cli.talking import texts


def test_answers_follow_a_schema_until_there_is_none(chat: Invoke, invoke: Invoke) -> None:
    result = chat("/schema kind a|b, ok bool", "Hello", "/schema none", "Hello")
    assert result.code == 0
    first, second = result.out.splitlines()
    assert json.loads(first)["kind"] in ("a", "b")
    assert not second.startswith("{")
    assert texts(invoke) == ["Hello", "Hello"]  # as it was typed


def test_a_schema_that_cannot_be_kept_to_changes_nothing(chat: Invoke) -> None:
    result = chat("/schema a strin", "/schema")
    assert "'strin' is no type" in result.err
