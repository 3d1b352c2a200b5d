"""A batch that is ended from outside, at any moment: nothing is lost, nothing is done twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.batches import QUICK, draw, records, start
from tests.cli.conftest import Invoke

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux"),
    pytest.mark.usefixtures("home"),
]
OUT = Path("out.jsonl")
NUMBER = 60
WORDS = ("scans", "describe", "-o", OUT, *QUICK)


def wait_for_lines(process: subprocess.Popen, number: int, path: Path = OUT) -> None:
    """Until the output has so many lines, or the process has ended."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.002)


@pytest.mark.parametrize(
    "num_kills", [pytest.param(3, id="3"), pytest.param(30, marks=pytest.mark.long, id="30")]
)
def test_killed_at_random_moments_each_item_is_there_once(invoke: Invoke, num_kills: int) -> None:
    items = {str(path) for path in draw(Path("scans"), NUMBER)}
    chance = random.Random(num_kills)
    seen: dict[str, str] = {}  # items and their answers' ids
    for _ in range(num_kills):
        with start(*WORDS) as process:
            # Before the first answer, between two, or within the writing of one.
            wait_for_lines(process, len(seen) + chance.choice((0, 1, 1 + NUMBER // num_kills)))
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
        whole = OUT.read_bytes() if OUT.exists() else b""
        lines = whole[: whole.rfind(b"\n") + 1]
        Path("whole.jsonl").write_bytes(lines)
        now = {item: line["id"] for item, line in records(Path("whole.jsonl")).items()}
        assert now.items() >= seen.items(), "an answer is lost, or was made again"
        seen = now
    done_before = len(seen)
    result = invoke("batch", *WORDS)
    assert re.search(rf"\b{done_before} (was|were) done before", result.err) or not done_before
    found = records(OUT)
    assert set(found) == items
    assert {item: line["id"] for item, line in found.items()}.items() >= seen.items()
    assert all(line["error"] is None for line in found.values())
    invoke("batch", "scans", "describe", "-o", "alone.jsonl", *QUICK)
    alone = records(Path("alone.jsonl"))
    assert {item: line["answer"] for item, line in found.items()} == {
        item: line["answer"] for item, line in alone.items()
    }


def test_interrupted_once_it_finishes_what_is_running(invoke: Invoke) -> None:
    draw(Path("scans"), NUMBER)
    words = ("scans", "describe", "-o", OUT, "-m", "mini", "--temperature", "0", "--batch-size", "4")
    with start(*words) as process:
        wait_for_lines(process, 5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    number = len(records(OUT))
    assert 5 <= number < NUMBER
    assert f"{number} of {NUMBER} items answered, {NUMBER - number} left" in err
    assert "Ctrl-C again stops at once" in err
    assert "the same command goes on where this one stopped" in err
    assert "Traceback" not in err
    result = invoke("batch", *words)
    assert re.search(
        rf"\b{NUMBER - number} of {NUMBER} items answered, {number} (was|were) done before", result.err
    )
    assert len(records(OUT)) == NUMBER


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_again_or_asked_to_end_it_stops_at_once(signum: int, code: int) -> None:
    draw(Path("scans"), NUMBER)
    with start(*WORDS, "--batch-size", "16") as process:
        wait_for_lines(process, 17)
        before = len(OUT.read_bytes().splitlines())
        for _ in range(2 if signum == signal.SIGINT else 1):
            process.send_signal(signum)
            time.sleep(0.01)
        process.communicate(timeout=20)
    assert process.returncode == code
    assert len(records(OUT)) <= before + 8, "what was running has been waited for"


def test_two_at_once_on_one_output_is_one_too_many(invoke: Invoke) -> None:
    draw(Path("scans"), NUMBER)
    with start(*WORDS) as process:
        wait_for_lines(process, 1)
        refused = invoke("batch", *WORDS)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert refused.code == 9
    assert refused.err.splitlines()[-1] == (
        "error: out.jsonl: another `qwen batch` is writing to it. Wait for its end, or choose another output."
    )
    assert 1 <= len(records(OUT)) < NUMBER


def test_a_full_disk_ends_it_with_9_and_what_is_there_stays(invoke: Invoke) -> None:
    draw(Path("scans"), 12)
    command = f'ulimit -f 8; exec "{sys.executable}" -m qwencli batch {" ".join(map(str, WORDS))}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 9
    assert "error: out.jsonl: cannot be written (File too large). Make room and start again" in done.stderr
    number = len(records(OUT))
    assert 0 < number < 12
    assert f"{number} of 12 items answered" in done.stderr
    assert re.search(rf"\b{number} (was|were) done before", invoke("batch", *WORDS).err)
    assert len(records(OUT)) == 12


def test_a_full_device_and_a_reader_that_leaves(invoke: Invoke) -> None:
    draw(Path("scans"), 12)
    if Path("/dev/full").exists():
        result = invoke("batch", "scans", "describe", "-o", "/dev/full", *QUICK)
        assert (result.code, "error: /dev/full cannot be written (No space left" in result.err) == (9, True)
    command = (
        f'set -o pipefail; "{sys.executable}" -m qwencli batch scans describe {" ".join(QUICK)} | head -n 1'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, timeout=60)
    assert (done.returncode, done.stdout.count("\n"), "error" in done.stderr) == (0, 1, False)


def test_memory_does_not_grow_with_the_number_of_items() -> None:
    """Items that are counted and then fail, which needs no model."""
    text = "x" * 8000

    def peak(number: int) -> int:
        """KiB, for so many lines of 8 kB."""
        lines = (f'{{"image": "gone-{index}.png", "text": "{text}"}}\n' for index in range(number))
        Path("items.jsonl").write_text("".join(lines))
        program = (
            "import resource; from qwencli.app import main; main(); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        words = ("items.jsonl", "is {text} here?", "-q", "-m", "mini", "-o", "/dev/null")
        command = [sys.executable, "-c", program, "batch", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
        return int(done.stdout.splitlines()[-1])

    grown = peak(3_100) - peak(100)
    assert grown < 8_000, f"{grown} KiB more for 3,000 items of 8 kB"
