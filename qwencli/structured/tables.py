"""Validated data as text of other kinds: `--as json|jsonl|csv|yaml|md|xml`.

What is a list of records is one in every kind: the data itself, or the one list in an object that holds
nothing else of several parts; what stands beside that list is repeated in each row.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from qwencli.structured.finish import Kind

_INDENT = "  "
_NAME_START = "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff"  # beyond, editions of XML differ
_XML_NAME = re.compile(f"(?![Xx][Mm][Ll])[{_NAME_START}][{_NAME_START}0-9.\u00b7-]*")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")  # to YAML


def render(data: Any, kind: Kind, columns: Sequence[str] = ()) -> str:
    """`data` as JSON has it, as text without a newline at its end. `columns`: of a table without rows."""
    match kind:
        case "json":
            return json.dumps(data, ensure_ascii=False, indent=2)
        case "jsonl":
            rows = data if isinstance(data, list) else [data]
            return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        case "csv":
            return _csv(rows_of(data), columns)
        case "md":
            return _markdown(rows_of(data), columns)
        case "yaml":
            return "\n".join(_yaml(data))
        case "xml":
            return "\n".join(_xml(data, "answer"))


def rows_of(data: Any) -> list[dict[str, Any]]:
    """The records of a table."""
    if isinstance(data, list):
        return [_flat(item) if isinstance(item, dict) else {"value": item} for item in data]
    if not isinstance(data, dict):
        return [{"value": data}]
    lists = {key: value for key, value in data.items() if _is_records(value)}
    if len(lists) != 1:
        return [_flat(data)]
    [(name, records)] = lists.items()
    beside = _flat({key: value for key, value in data.items() if key != name})
    return [beside | {f"{name}.{key}": value for key, value in _flat(item).items()} for item in records]


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Objects within it as columns `outer.inner`."""
    columns: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            columns |= _flat(value, f"{prefix}{key}.")
        else:
            columns[prefix + key] = value
    return columns


def _columns(rows: list[dict[str, Any]], otherwise: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row)) or list(otherwise)


def fields_of(schema: Any, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys that lead to each field of a schema's object; those of objects within it, not of lists."""
    listed = schema.get("properties") if isinstance(schema, dict) else None
    if not listed:
        return [keys] if keys else []
    return [field for name, below in listed.items() for field in fields_of(below, (*keys, name))]


def value_at(data: Any, keys: Sequence[str]) -> Any:
    """None where a key leads nowhere."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    if isinstance(value, str):
        return re.sub("\r\n?", "\n", value)  # which csv would leave without quotes
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _csv(rows: list[dict[str, Any]], otherwise: Sequence[str]) -> str:
    columns = _columns(rows, otherwise)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, columns))
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue().removesuffix("\n")


def _markdown(rows: list[dict[str, Any]], otherwise: Sequence[str]) -> str:
    columns = _columns(rows, otherwise)
    if not columns:
        return ""

    def line(cells: list[str]) -> str:
        safe = [re.sub(r"\s*\n\s*", "<br>", cell.replace("|", "\\|")) for cell in cells]
        return f"| {' | '.join(safe)} |"

    numbers = [_is_numeric([row.get(column) for row in rows]) for column in columns]
    ruler = [("---:" if is_number else "---") for is_number in numbers]
    body = [line([cell(row.get(column)) for column in columns]) for row in rows]
    return "\n".join([line(columns), line(ruler), *body])


def _is_numeric(values: list[Any]) -> bool:
    return bool(values) and all(type(value) in (int, float) for value in values)


def _yaml(data: Any) -> list[str]:
    if isinstance(data, dict) and data:
        lines = []
        for key, value in data.items():
            lines += _yaml_entry(f"{_yaml_scalar(key)}:", value)
        return lines
    if isinstance(data, list) and data:
        lines = []
        for item in data:
            first, *rest = _yaml(item)
            lines += [f"- {first}", *(_INDENT + line for line in rest)]
        return lines
    return [_yaml_scalar(data)]


def _yaml_entry(head: str, value: Any) -> list[str]:
    if isinstance(value, dict | list) and value:
        return [head, *(_INDENT + line for line in _yaml(value))]
    return [f"{head} {_yaml_scalar(value)}"]


def _yaml_scalar(value: Any) -> str:
    """JSON is YAML; plain words need no quotes."""
    if (
        isinstance(value, str)
        and re.fullmatch(r"[^\W\d][\w./-]*( [\w./-]+)*", value)
        and not _means_more(value)
    ):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _means_more(word: str) -> bool:
    """Whether YAML, of any version, reads this word as something else than text."""
    return word.lower() in {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}


def _xml(data: Any, name: str) -> list[str]:
    """Elements by key; items of a list are elements `item`. A key that is no name becomes an attribute."""
    is_name = _XML_NAME.fullmatch(name) is not None
    tag = name if is_name else "value"
    start = tag if is_name else f'{tag} key="{_xml_text(name, quote=True)}"'
    if isinstance(data, dict | list) and data:
        pairs = data.items() if isinstance(data, dict) else (("item", item) for item in data)
        inner = [_INDENT + line for key, value in pairs for line in _xml(value, key)]
        return [f"<{start}>", *inner, f"</{tag}>"]
    text = "" if data is None or isinstance(data, dict | list) else _xml_text(cell(data))
    return [f"<{start}>{text}</{tag}>" if text else f"<{start}/>"]


def _xml_text(text: str, *, quote: bool = False) -> str:
    """Characters that XML knows no way to write become U+FFFD."""
    safe = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return escape(safe, {'"': "&quot;", "\n": "&#10;"} if quote else {})
