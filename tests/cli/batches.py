"""What the tests of `qwen batch` share: pictures to ask about, and outputs read back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
# Short answers without chance, from the model that needs no torch.
QUICK = ("-m", "mini", "--temperature", "0", "--max-tokens", "12")


def draw(folder: Path, number: int) -> list[Path]:
    """So many pictures, each another one, in `folder` and a folder within it."""
    paths = []
    for index in range(number):
        path = folder / ("more" if index % 3 == 2 else "") / f"scan{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (64, 64), "white")
        x, y = 4 * (index % 8), 4 * (index // 8 % 8)
        ImageDraw.Draw(picture).ellipse((x, y, x + 32, y + 32), fill=COLOURS[index % len(COLOURS)])
        picture.save(path)
        paths.append(path)
    return paths


def records(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of an output by their items; each must be whole, and no item there twice."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["item"]: line for line in lines}
    assert len(found) == len(lines), "an item is there twice"
    return found


def start(*words: object, **popen: Any) -> subprocess.Popen:
    """`qwen batch WORDS` as a process of its own."""
    command = [sys.executable, "-m", "qwencli", "batch", *map(str, words)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    return subprocess.Popen(command, env=os.environ, text=True, **pipes)
