"""The short form of a schema: `name, total float: grand total, items[] {name, price float}, kind a|b`.

Fields stand between commas, or on lines of their own. A field is a name, perhaps `?` (may be left out) and
`[]` (a list of such), a type, and after a colon what it means. A type is str (without a word), int, float,
bool, date, time, datetime, one of several words (`a|b|c`), or fields in braces. `[]` before all of it makes a
list of objects.
"""

import re
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "datetime": {"type": "string", "format": "date-time"},
}
_OTHER_NAMES = {"string": "str", "text": "str", "integer": "int", "number": "float", "boolean": "bool"}


def parse_short_form(text: str) -> Schema:
    """The JSON Schema of a short form. Raises ValueError that names the field."""
    text = text.strip()
    if text.startswith("[]"):
        return {"type": "array", "items": _object(text[2:].strip())}
    return _object(text)


def _object(text: str) -> Schema:
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    properties: dict[str, Schema] = {}
    required = []
    for field in _fields(text):
        name, is_optional, schema = _field(field)
        if name in properties:
            raise ValueError(f"the field {name!r} stands there twice.")
        properties[name] = schema
        if not is_optional:
            required.append(name)
    if not properties:
        raise ValueError("there are no fields. Write them like: name, total float, items[]")
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _fields(text: str) -> list[str]:
    """Split at line ends where there are some, else at commas; not within braces."""
    separator = "\n" if _is_outside(text, "\n") else ","
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if depth < 0:
            break
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise ValueError(f"{text.strip()!r} has braces or brackets without their partners.")
    return [part.strip().removesuffix(",").strip() for part in parts if part.strip(" \t\n,")]


def _is_outside(text: str, wanted: str) -> bool:
    """Whether a character stands outside all braces."""
    depth = 0
    for character in text.strip():
        depth += (character in "{[") - (character in "}]")
        if character == wanted and not depth:
            return True
    return False


def _field(text: str) -> tuple[str, bool, Schema]:
    """Its name, whether it may be left out, and its schema."""
    head = re.match(r"(?P<name>[^\W\d][\w-]*)(?P<optional>\?)?(?P<list>\[\])?(?P<late>\?)?", text)
    rest = text[head.end() :] if head else ""
    if head is None or (rest and rest[0] not in " \t:{"):
        raise ValueError(f"{text!r} is no field. Write it like: name, total float: what it means")
    schema, meaning = _type_and_meaning(rest.strip(), text)
    if head["list"]:
        schema = {"type": "array", "items": schema}
    if meaning:
        schema = {**schema, "description": meaning}
    return head["name"], bool(head["optional"] or head["late"]), schema


def _type_and_meaning(text: str, field: str) -> tuple[Schema, str]:
    if text.startswith("{"):
        end = _end_of_braces(text)
        kind, rest = _object(text[:end]), text[end:].strip()
    else:
        word, colon, rest = text.partition(":")
        kind, rest = _type(word.strip(), field), colon + rest
    if rest and not rest.startswith(":"):
        raise ValueError(f"{field!r}: what a field means stands after a colon.")
    return dict(kind), rest[1:].strip()


def _type(word: str, field: str) -> Schema:
    if "|" in word:
        return {"enum": [choice.strip() for choice in word.split("|")]}
    kind = _TYPES.get(_OTHER_NAMES.get(word, word or "str"))
    if kind is None:
        raise ValueError(f"{field!r}: {word!r} is no type. Known: {', '.join(_TYPES)}, a|b, {{...}}.")
    return kind


def _end_of_braces(text: str) -> int:
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return place + 1
    return len(text)
