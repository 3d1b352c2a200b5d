"""A second question in a new process: `python benchmarks/reuse.py [MODEL]`.

Each round begins with an empty state cache and asks two questions about one picture, then two about one
document, every question in a process of its own. The first is computed, the second goes on from what the
first one saved. `--no-cache` asks the second one as if nothing had been saved.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
WORDS = 470  # of the document: about 2,400 tokens in mini's small vocabulary


@dataclass(frozen=True, slots=True)
class Answered:
    """One process: its wall clock, and what it says of itself."""

    seconds: float
    values: dict[str, Any]

    @property
    def first_token_s(self) -> float:
        return float(self.values["timings"]["first_token_s"])

    @property
    def reused(self) -> str:
        usage = self.values["usage"]
        return f"{usage['cached_tokens']:,} of {usage['prompt_tokens']:,}"

    @property
    def encoder_s(self) -> float:
        return float(self.values["timings"]["media_s"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="mini", help="as qwen ask -m takes it; default mini")
    parser.add_argument("--rounds", type=int, default=3, help="default 3; the table has medians")
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels; default 1024")
    parser.add_argument("--words", type=int, default=WORDS, help="of the document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure into FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        inputs = {
            "picture": draw_picture(work / "picture.png", options.side),
            "document": write_document(work / "document.txt", options.words),
        }
        rows: dict[str, list[Answered]] = {}
        saved = []
        for number in range(1, options.rounds + 1):
            home = work / f"home-{number}"
            for kind, path in inputs.items():
                for name, question, extra in (
                    ("first", "What is this?", ()),
                    ("second", "How many are there?", ()),
                    ("second, computed", "How many are there?", ("--no-cache",)),
                ):
                    answered = ask(home, options.model, path, question, extra)
                    rows.setdefault(f"{kind}, {name}", []).append(answered)
                    print(
                        f"round {number}/{options.rounds}, {kind}, {name}: first token after "
                        f"{answered.first_token_s:.2f} s, reused {answered.reused}",
                        file=sys.stderr,
                    )
            saved.append(sum(file.stat().st_size for file in home.rglob("*.safetensors")))
    print(table(rows))
    print(f"\nSaved on disk after the questions of a round: {statistics.median(saved) / 1e6:.1f} MB.")
    if options.json:
        values = {name: [answered.values for answered in column] for name, column in rows.items()}
        options.json.write_text(json.dumps(values, indent=1) + "\n")


def ask(home: Path, model: str, path: Path, question: str, extra: tuple[str, ...]) -> Answered:
    """`qwen ask` in a process of its own, with a home of its own."""
    command = [sys.executable, "-m", "qwencli", "ask", "-m", model, "--json", "--temperature", "0"]
    command += ["--max-tokens", "8", *extra, str(path), question]
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"QWEN_HOME": str(home)}, stdin=subprocess.DEVNULL, capture_output=True
    )
    seconds = time.perf_counter() - start
    values = json.loads(done.stdout)
    if values["error"]:
        raise SystemExit(values["error"]["message"])
    return Answered(seconds, values)


def table(rows: dict[str, list[Answered]]) -> str:
    """Markdown; medians."""
    lines = [
        "| question | reused | encoder s | first token s | whole process s |",
        "|---|---|---|---|---|",
    ]
    for name, column in rows.items():
        figures = [
            statistics.median(getattr(answered, figure) for answered in column)
            for figure in ("encoder_s", "first_token_s", "seconds")
        ]
        lines.append(f"| {name} | {column[-1].reused} | " + " | ".join(f"{f:.2f}" for f in figures) + " |")
    return "\n".join(lines)


def draw_picture(path: Path, side: int) -> Path:
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    step = side // 3
    for index, colour in enumerate(COLOURS):
        x, y = step * (index % 3), step * (index // 3)
        draw.ellipse((x + step // 6, y + step // 6, x + step * 5 // 6, y + step * 5 // 6), fill=colour)
    picture.save(path)
    return path


def write_document(path: Path, num_words: int) -> Path:
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
    lines = [
        " ".join(f"{words[(start + i * i) % 10]} {start + i}" for i in range(5))
        for start in range(0, num_words // 2, 5)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
