"""The benchmark of clips, from its command line to its table, on clips of seconds and no real shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen35.backends.native import library as native
from tests.media.clips import needs_ffmpeg

ROOT = Path(__file__).resolve().parents[2]


@needs_ffmpeg
def test_each_part_has_its_rows(tmp_path: Path) -> None:
    if native.load()[0] is None:
        pytest.skip("this platform has no compiler: the native library was not built on installation")
    target = tmp_path / "runs.json"
    words = ["--rounds", "1", "--seconds", "2", "--long-seconds", "8", "--work", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "video.py"), *words, "--json", str(target)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = {
        cells[0]: cells[1:] for line in lines if (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert rows["dense: qwen"][0] == "4"
    assert rows["sparse: qwen, 32 frames"][0] == "32"
    assert rows["dense: qwen"][3].endswith("%")
    runs = {name: figures[0] for name, figures in json.loads(target.read_text()).items()}
    whole, walked = runs["model: qwen, long"], runs["windows: qwen, long"]
    assert whole["frames"] == walked["frames"] == 8
    assert whole["tokens"] == walked["tokens"] > 4 * 50  # the windows have the same pairs, seen in pieces
    assert "windows: " in done.stdout
    assert "keys and values" in done.stdout
