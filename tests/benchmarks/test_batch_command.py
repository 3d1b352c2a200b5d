"""The benchmark of `qwen batch`, from its command line to its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux")
def test_a_batch_stands_beside_other_ways_to_ask(tmp_path: Path) -> None:
    target = tmp_path / "runs.json"
    words = ["mini", "--pictures", "4", "--loop", "1", "--side", "64", "--rounds", "1", "--json", str(target)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}"}
    command = [sys.executable, str(ROOT / "benchmarks" / "batch_command.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    runs = json.loads(target.read_text())
    assert [column[0]["items"] for column in runs.values()] == [4, 4, 1, 1]
    for (run,) in runs.values():
        assert 0 < run["at_work_s"] <= run["seconds"]
        assert run["peak_bytes"] > 10e6
        assert run["cpu_s"] > 0
    assert len(done.stdout.strip().splitlines()) == 2 + len(runs)
