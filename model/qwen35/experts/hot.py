"""The experts that a run had in memory at its end, for the next one to begin with: a small JSON file."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


def read_hot(path: Path) -> dict[int, list[int]]:
    """By layer, the most chosen first. Empty where there is none, or nothing that makes sense."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(layer): [int(e) for e in experts] for layer, experts in values.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def write_hot(path: Path, hot: Mapping[int, Sequence[int]]) -> None:
    """Aside, then renamed. Where it cannot be written the next run begins without."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.write_text(json.dumps(hot), encoding="utf-8")
        aside.replace(path)
