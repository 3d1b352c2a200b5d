"""How fast batches have been here, model by model: what an estimate is made of."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from qwencli.batch.summary import Summary

_FILE = "batch-speeds.json"


@dataclass(frozen=True, slots=True)
class Speed:
    """Of a model's last batch: tokens computed a second, all rows together, and tokens of an answer."""

    tokens_per_s: float
    answer_tokens: float


def last_speed(folder: Path, weights: str) -> Speed | None:
    """Of the model with these `weights` (their fingerprint), where it is known."""
    try:
        return Speed(**_read(folder)[weights])
    except (LookupError, TypeError):
        return None


def keep_speed(folder: Path, weights: str, summary: Summary) -> None:
    """Remember it; where that cannot be written, it is not known the next time."""
    if not summary.answered or not summary.tokens_per_s():
        return
    speed = Speed(round(summary.tokens_per_s(), 2), round(summary.completion_tokens / summary.answered, 2))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"{_FILE}.new"
        new.write_text(json.dumps(_read(folder) | {weights: asdict(speed)}), encoding="utf-8")
        new.replace(folder / _FILE)
    except OSError:
        pass


def _read(folder: Path) -> dict[str, dict[str, float]]:
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
