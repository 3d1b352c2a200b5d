"""Whether a schema can be kept to: said before a model runs, with the place in the schema.

What the grammar cannot enforce is refused rather than hoped for. Places are JSON pointers.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
MAPS = ("$defs", "definitions", "properties", "patternProperties")
_SINGLES = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")


def check_schema(schema: Any) -> None:
    """Raises ValueError for an invalid schema, one that cannot be enforced, or that nothing satisfies."""
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        fault = error.message
        if list(error.absolute_path)[-1:] == ["type"] and isinstance(error.instance, str):
            fault = f"{error.instance!r} is no type; there is {', '.join(_TYPES)}"
        raise ValueError(f"is no valid JSON Schema: {_at(error.absolute_path)}{fault}.") from None
    if schema is False:
        raise ValueError("nothing can satisfy it: it is false.")
    fault = _error_of(schema)
    if fault is not None:
        place = _place_of(schema, fault)
        raise ValueError(_told(fault, place))
    if not _can_end(schema, schema, ()):
        raise ValueError("nothing can satisfy it: an object needs another one of its kind, without end.")


def subschemas(schema: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Those directly below, with the keys that lead there."""
    if not isinstance(schema, Mapping):
        return
    for key in MAPS:
        if isinstance(schema.get(key), Mapping):
            yield from (((key, name), below) for name, below in schema[key].items())
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            yield from (((key, index), below) for index, below in enumerate(schema[key]))
    for key in _SINGLES:
        if isinstance(schema.get(key), Mapping):
            yield (key,), schema[key]


def _error_of(schema: Any) -> str | None:
    from qwen35.engine.grammar import grammar_error
    from qwen35.engine.request import Grammar

    fault = grammar_error(Grammar("json_schema", json.dumps(schema)))
    return None if fault is None else in_words(fault)


def in_words(fault: str) -> str:
    """llguidance's message on one line: the cause, where its parser of regular expressions names one."""
    lines = [line.strip() for line in fault.splitlines() if line.strip()]
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (causes or lines)[0].split(" while processing ")[0]


def _place_of(schema: Any, fault: str) -> tuple[str | int, ...]:
    """The deepest place that has the fault by itself, so that it is the cause."""
    shared = {key: schema[key] for key in ("$schema", "$defs", "definitions") if key in schema}

    def deepest(part: Any) -> tuple[str | int, ...]:
        for keys, below in subschemas(part):
            if isinstance(below, Mapping) and _error_of(shared | dict(below)) == fault:
                if keys[0] in ("$defs", "definitions"):
                    return *keys, *deepest(below)
                # What is shared may hold the fault itself: then it is found there.
                if not shared or _error_of({**shared, "type": "null"}) != fault:
                    return *keys, *deepest(below)
        return ()

    return deepest(schema)


def _told(fault: str, place: tuple[str | int, ...]) -> str:
    reason = fault.removeprefix("Unsatisfiable schema: ")
    if reason.startswith("Regex is empty"):
        return f"{_at(place)}nothing can satisfy it: no text has its pattern, format and length."
    if reason != fault:
        return f"{_at(place)}nothing can satisfy it: {reason}."
    unknown = fault.removeprefix("Unimplemented keys: ")
    if unknown != fault:
        return f"{_at(place)}{', '.join(json.loads(unknown))} cannot be enforced. Leave it out."
    return f"{_at(place)}it cannot be enforced: {fault}."


def _at(place: Any) -> str:
    keys = [str(key).replace("~", "~0").replace("/", "~1") for key in place]
    return f"at /{'/'.join(keys)}: " if keys else ""


def _can_end(schema: Any, root: Any, under_way: tuple[str, ...]) -> bool:
    """Whether a value of finite size satisfies it, as far as required parts and references tell.

    `under_way`: references that lead here. One of them again can only end elsewhere.
    """
    if not isinstance(schema, Mapping):
        return schema is not False
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _resolve(root, reference)
        if reference in under_way or (
            target is not None and not _can_end(target, root, (*under_way, reference))
        ):
            return False
    for key, quantifier in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        if key in schema and not quantifier(_can_end(below, root, under_way) for below in schema[key]):
            return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if len(kinds) == 1 and kinds[0] == "object":
        properties = schema.get("properties", {})
        return all(
            _can_end(properties.get(name, True), root, under_way) for name in schema.get("required", [])
        )
    if len(kinds) == 1 and kinds[0] == "array" and schema.get("minItems", 0) > 0:
        first = schema.get("prefixItems") or [schema.get("items", True)]
        return _can_end(first[0], root, under_way)
    return True


def _resolve(root: Any, reference: str) -> Any:
    """What a reference within the schema points to; None for others."""
    if not reference.startswith("#"):
        return None
    target = root
    for part in reference[1:].strip("/").split("/") if reference != "#" else []:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            return None
    return target
