"""A pull that is killed at random moments goes on; no byte of what is finished is asked for again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen35.weights.pull import pull
from qwen35.weights.remote import Hub
from qwen35.weights.verify import verify
from qwen35.weights.work_folder import WorkFolder
from tests.hub_server import Site, hub_server
from tests.model.reference import MOE
from tests.model.weights.packing import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[3]
NAME = "acme/tiny"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

PULL = """
import sys
from pathlib import Path
from qwen35.weights import remote_ahead
from qwen35.weights.pull import pull
from qwen35.weights.remote import Hub
remote_ahead.FIRST_BYTES = remote_ahead.MOST_BYTES = 30_000
remote_ahead.NUM_CONNECTIONS = 4
print("ready", flush=True)
hub = Hub(sys.argv[1])
pull(hub, hub.repo(sys.argv[2]), Path(sys.argv[3]))
"""


def start(site: Site, target: Path) -> subprocess.Popen[bytes]:
    """A process that pulls; its imports are done when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, site.url, NAME, str(target)],
        env={"PYTHONPATH": str(ROOT / "model"), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def finished(target: Path) -> dict[int, int]:
    """By the number of lines of the journal: how far the last finished unit's file is through."""
    journal = WorkFolder.beside(target).journal
    if not journal.exists():
        return {}
    lines = [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]]
    return {number: line["hashed"] for number, line in enumerate(lines, 1)}


@pytest.mark.parametrize("num_kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_goes_on_and_fetches_nothing_finished_twice(
    tmp_path: Path, num_kills: int
) -> None:
    source = tiny_checkpoint(tmp_path / "source", MOE)
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    target, moments = tmp_path / "out", random.Random(num_kills)
    done: dict[str, int] = {}  # by shard: bytes of headers and units that the journal has as finished
    total = sum((source / shard).stat().st_size for shard in shards)
    lengths = [0]
    with hub_server() as site:
        site.repos[NAME] = source
        site.bytes_per_s = 200_000.0  # of each connection: slower than packing is
        for _ in range(num_kills):
            site.sent.clear()
            process = start(site, target)
            enough = moments.uniform(0, 1.2 * total / num_kills)
            while sum(map(site.bytes_sent, shards)) < enough:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.05))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not target.exists()
            assert_not_asked_for(site, done)
            lines = finished(target)
            lengths.append(len(lines))
            done = progress(lines, shards)
        site.bytes_per_s = None
        site.sent.clear()
        hub = Hub(site.url)
        pulled = pull(hub, hub.repo(NAME), target)
        hub.close()
        assert_not_asked_for(site, done)

    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2
    assert pulled.bytes_resumed > 0
    assert pulled.unchecked == ()  # each file's hash went through all the processes
    verify(pulled.folder)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


def progress(lines: dict[int, int], shards: list[str]) -> dict[str, int]:
    """A file's position falls where the next file begins."""
    done: dict[str, int] = {}
    index, last = 0, 0
    for position in lines.values():
        if position < last:
            index += 1
        done[shards[index]] = last = position
    return done


def assert_not_asked_for(site: Site, done: dict[str, int]) -> None:
    for sent in site.sent:
        assert sent.begin >= done.get(sent.file, 0), sent
