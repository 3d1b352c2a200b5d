"""Where a schema comes from: a file, JSON on the command line, or the short form."""

import json
from pathlib import Path
from typing import Any

from qwen35.errors import InputError
from qwencli.errors import UsageError
from qwencli.structured.check import check_schema
from qwencli.structured.short_form import parse_short_form

Schema = dict[str, Any] | bool


def read_schema(text: str) -> Schema:
    """The schema that `--schema TEXT` means, checked: it can be enforced, and something satisfies it.

    Raises InputError for a file, UsageError for what stands on the command line itself.
    """
    path = _path_of(text)
    try:
        schema = _parse(path.read_text(encoding="utf-8-sig") if path else text)
        check_schema(schema)
    except UnicodeDecodeError:
        raise InputError(f"{text}: is no text file; a schema is JSON.", path=text) from None
    except OSError as error:
        raise InputError(f"{text}: the schema cannot be read ({error.strerror}).", path=text) from None
    except ValueError as error:
        if path:
            raise InputError(f"{text}: {error}", path=text) from None
        raise UsageError(f"--schema: {error}") from None
    return schema


def _path_of(text: str) -> Path | None:
    """The file that is meant, whether it is there or not; None for a schema itself."""
    word = text.strip()
    if not word or word[0] in "{[" or "\n" in word or word in ("true", "false"):
        return None
    path = Path(word).expanduser() if not word.startswith("~") or "/" in word else Path(word)
    try:
        return path if path.is_file() or word.endswith(".json") or "/" in word.split(":")[0] else None
    except OSError:  # too long for a name
        return None


def _parse(text: str) -> Schema:
    word = text.strip()
    if not word.startswith(("{", "true", "false")) and not (word.startswith("[") and word[1:2] != "]"):
        return parse_short_form(word)
    try:
        schema = json.loads(word)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise ValueError("is nested too deeply.") from None
    if not isinstance(schema, dict | bool):
        raise ValueError('is JSON, but no schema: that is an object such as {"type": "object"}.')
    return schema
