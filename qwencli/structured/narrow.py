"""A schema made narrower where a model would lose itself, so that what it writes is valid all the same."""

from typing import Any

from qwencli.structured.check import MAPS, subschemas

_LARGEST = 2**53 - 1  # of whole numbers without bounds; all programs that read JSON hold so much


def narrowed(schema: Any) -> Any:
    """Objects have the properties that are listed and no others; whole numbers have an end.

    An object with more would be valid, but nobody asks for what they did not list, and a model that may goes
    on inventing. A schema with parts that count together (allOf, siblings of $ref) stays as it is: there no
    part lists all.
    """
    return schema if _is_composed(schema) else _narrow(schema)


def _is_composed(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    remarks = {"$ref", "$defs", "definitions", "$schema", "$id", "title", "description"}
    is_composed = "allOf" in schema or ("$ref" in schema and not set(schema) <= remarks)
    return is_composed or any(_is_composed(below) for _, below in subschemas(schema))


def _narrow(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    narrow = dict(schema)
    for key in {keys[0] for keys, _ in subschemas(schema)}:
        value = schema[key]
        if isinstance(value, list):
            narrow[key] = [_narrow(each) for each in value]
        elif key in MAPS:
            narrow[key] = {name: _narrow(each) for name, each in value.items()}
        else:
            narrow[key] = _narrow(value)
    listed = schema.get("properties")
    is_whole_list = not {"additionalProperties", "patternProperties", "anyOf", "oneOf"} & set(schema)
    if listed and is_whole_list and set(schema.get("required", [])) <= set(listed):
        narrow["additionalProperties"] = False
    if schema.get("type") == "integer" and not {"enum", "const", "anyOf", "oneOf"} & set(schema):
        narrow |= _bounds(schema)
    return narrow


def _bounds(schema: dict[str, Any]) -> dict[str, int]:
    """Those that a whole number lacks; none where it is meant to be larger."""
    least = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    most = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    if any(not -_LARGEST < bound < _LARGEST for bound in least + most):
        return {}
    return ({} if least else {"minimum": -_LARGEST}) | ({} if most else {"maximum": _LARGEST})
