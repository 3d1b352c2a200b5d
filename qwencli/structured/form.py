"""What an answer has to look like, as the options say it: told to the model, enforced, and checked again."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen35.engine.request import Grammar
from qwen35.errors import InputError
from qwen35.messages import Message
from qwencli.errors import UsageError
from qwencli.structured.check import in_words
from qwencli.structured.narrow import narrowed
from qwencli.structured.rules import Rule
from qwencli.structured.source import Schema, read_schema
from qwencli.structured.where import Place, Where

_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Form:
    """`schema` as the user gave it, None for other forms; `instruction`: what the model is told of it."""

    grammar: Grammar
    schema: Schema | None = None
    instruction: str | None = None
    rules: tuple[Rule, ...] = ()  # that hold across the fields of its data
    where: Where | None = None  # what tells the places of its values

    @classmethod
    def of(
        cls,
        *,
        schema: str | None = None,
        regex: str | None = None,
        choice: str | None = None,
        grammar: str | None = None,
        checks: Sequence[str] = (),
    ) -> "Form | None":
        """Of the options' texts, at most one of which is given. None without any.

        Raises UsageError or InputError for what cannot be enforced.
        """
        if sum(text is not None for text in (schema, regex, choice, grammar)) > 1:
            raise UsageError("Of --schema, --regex, --choice and --grammar, only one can be given.")
        if schema is not None:
            read = read_schema(schema)
            return cls.of_schema(read, _rules(checks, read))
        if regex is not None:
            if not regex:
                raise UsageError("--regex: the pattern is empty, and so would be the answer.")
            return _checked(cls(Grammar("regex", regex)), "--regex")
        if choice is not None:
            choices = [word for item in choice.split(",") if (word := item.strip())]
            if not choices:
                raise UsageError("--choice: there is nothing to choose from. Write it like --choice yes,no")
            words = "|".join(re.escape(word) for word in choices)
            told = f"Answer with one of: {', '.join(choices)}."
            return _checked(cls(Grammar("regex", words), instruction=told), "--choice")
        if grammar is not None:
            return _checked(cls(Grammar("lark", _as_lark(grammar, _read(grammar)))), grammar, path=grammar)
        return None

    @classmethod
    def of_schema(cls, schema: Schema, rules: tuple[Rule, ...] = ()) -> "Form":
        """Of one that `check_schema` has let pass."""
        from qwen35.engine.grammar import grammar_error

        told = f"Answer in JSON that follows this schema: {json.dumps(schema, ensure_ascii=False)}"
        grammar = Grammar("json_schema", json.dumps(narrowed(schema), ensure_ascii=False))
        if grammar_error(grammar):
            grammar = Grammar("json_schema", json.dumps(schema, ensure_ascii=False))
        return cls(grammar, schema, told if schema not in (True, {}) else "Answer in JSON.", rules)

    def in_pictures_of(self, messages: Sequence[Message]) -> "Form":
        """The same, of which each value comes with its place in a picture of the `messages`.

        Raises UsageError where there can be none.
        """
        from qwen35.engine.grammar import grammar_error

        try:
            where = Where.of(self.schema, messages)
            form = Form.of_schema(where.placed, self.rules)
        except ValueError as error:
            raise UsageError(f"--where: {error}.") from None
        if fault := grammar_error(form.grammar):
            raise UsageError(f"--where: cannot be enforced with this schema: {in_words(fault)}.")
        told = f"{form.instruction}\n{where.instruction}"
        return replace(form, schema=self.schema, instruction=told, where=where)

    @property
    def columns(self) -> list[str]:
        """Those of a list of records that may turn out to be empty."""
        items = self.schema.get("items") if isinstance(self.schema, dict) else None
        return list(items.get("properties", ())) if isinstance(items, dict) else []

    def read(self, answer: str) -> tuple[Any, list[Place] | None]:
        """The data of a whole answer, None where it is no JSON that is asked for; and where it was found.

        Raises ValueError with the place where the answer is not what schema and rules say.
        """
        if self.schema is None:
            return None, None
        from jsonschema.validators import Draft202012Validator, validator_for

        data = json.loads(answer, parse_constant=_refuse, parse_float=_finite)
        places = None
        if self.where:
            data, places = self.where.part(data)
        kind = validator_for(self.schema, default=Draft202012Validator)
        checked = kind(self.schema, format_checker=kind.FORMAT_CHECKER)
        if error := next(checked.iter_errors(data), None):
            raise ValueError(f"{error.json_path}: {error.message}")
        for rule in self.rules:
            rule.check(data)
        return data, places

    def fault(self, answer: str) -> str | None:
        """What is wrong with a whole answer."""
        try:
            self.read(answer)
        except ValueError as error:
            return str(error)
        return None


def _checked(form: Form, name: str, path: str | None = None) -> Form:
    from qwen35.engine.grammar import grammar_error

    fault = grammar_error(form.grammar)
    if fault is None:
        return form
    message = f"{name}: cannot be enforced: {in_words(fault)}."
    raise InputError(message, path=path) if path else UsageError(message)


def _rules(checks: Sequence[str], schema: Schema) -> tuple[Rule, ...]:
    listed = schema.get("properties") if isinstance(schema, dict) else None
    try:
        rules = tuple(map(Rule.parse, checks))
        for rule in rules:
            if listed and (unknown := rule.names - set(listed)):
                raise ValueError(f"{rule.text!r}: the schema has no field {sorted(unknown)[0]!r}.")
    except ValueError as error:
        raise UsageError(f"--check: {error}") from None
    return rules


def _read(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise InputError(f"{name}: the grammar cannot be read ({reason}).", path=name) from None


def _as_lark(name: str, text: str) -> str:
    """llama.cpp's GBNF files are taken too. Raises InputError for what is no GBNF after all."""
    if _GBNF_RULE.search(text) is None:
        return text
    from llguidance import gbnf_to_lark

    try:
        return gbnf_to_lark.gbnf_to_lark(text)
    except Exception as error:  # GbnfToLarkError, and whatever else its parser trips over
        raise InputError(f"{name}: cannot be enforced: {error}.", path=name) from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return number
