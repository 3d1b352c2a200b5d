"""Items that are slow to come hold up no others, and not the end."""

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from qwen35.engine.batching import Item
from qwencli.batch.prepare import Prepared
from qwencli.batch.run import Batch
from tests.cli.batches import QUICK, draw, records, start
from tests.cli.conftest import Invoke
from tests.media.clips import counter, encode
from tests.serving import serve

OUT = Path("out.jsonl")


@pytest.fixture
def release() -> threading.Event:
    return threading.Event()


@pytest.fixture
def slow(home: Path, release: threading.Event) -> Iterator[str]:
    """The address of a picture that comes when it is released."""
    (path,) = draw(Path("site"), 1)
    picture = path.read_bytes()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.wait(25)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture)

    with serve(Site) as url:
        yield f"{url}slow.png"
        release.set()


@pytest.mark.parametrize("place", [0, 1])
def test_others_are_answered_and_written_before_a_slow_one_has_come(
    slow: str, release: threading.Event, place: int
) -> None:
    paths = [str(path) for path in draw(Path("scans"), 6)]
    with start(*paths[:place], slow, *paths[place:], "how many shapes?", "-o", OUT, *QUICK) as process:
        end = time.monotonic() + 20
        while time.monotonic() < end and not (OUT.exists() and OUT.read_bytes().count(b"\n") >= 6):
            time.sleep(0.05)
        assert process.poll() is None
        assert {*records(OUT)} == {*paths}
        release.set()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert {*records(OUT)} == {slow, *paths}


def test_the_end_does_not_wait_for_what_is_not_needed(slow: str) -> None:
    (path,) = draw(Path("scans"), 1)
    begun = time.monotonic()
    with start(path, slow, "how many shapes?", "--limit", "1", "-o", OUT, *QUICK) as process:
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 20, "the server has been waited for"
    assert (process.returncode, [*records(OUT)]) == (0, [str(path)]), err


def test_a_clip_that_is_deleted_while_it_waits_is_said_to_be_gone(invoke: Invoke, home: Path) -> None:
    Path("clips").mkdir()
    for name in "ab":
        encode(Path(f"clips/{name}.mp4"), (counter(number, 64, 64) for number in range(20)))
    words = ("clips", "what happens?", "-o", OUT, "--batch-size", "1", "--no-cache", "-m", "mini")
    with start(*words, "--max-tokens", "400", "--temperature", "0", "--fps", "5") as process:
        while process.poll() is None and not OUT.exists():
            time.sleep(0.01)
        for path in Path("clips").iterdir():
            path.unlink()
        process.communicate(timeout=60)
    errors = [line["error"] for line in records(OUT).values() if line["error"]]
    assert {error["kind"] for error in errors} <= {"input"}
    assert all(re.search(r"was deleted or moved|no such file", error["message"]) for error in errors)


@pytest.mark.usefixtures("home")
def test_rows_are_as_many_as_the_items_at_work_leave_room_for(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_asked = Batch._as_asked

    def recorded(batch: Batch, prepared: Prepared, num_bytes: int) -> Item:
        item = as_asked(batch, prepared, num_bytes)
        assert len(batch._asked) == 1 or batch._bytes_at_work <= size_bytes // 4
        return item

    def rows(*lengths: int) -> str:
        lines = ({"prompt": "Hello. " * length} for length in lengths)
        Path("items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = invoke("batch", "items.jsonl", "-v", "-o", OUT, "--overwrite", *QUICK)
        assert [line["error"] for line in records(OUT).values()] == [None] * len(lengths)
        (found,) = re.findall(r"rows +(.+) at a time", result.err)
        return found

    size_bytes = 4 * 1_000_000
    monkeypatch.setattr("qwen35.backends.native.backend.NativeBackend.device_room", lambda self: size_bytes)
    monkeypatch.setattr(Batch, "_as_asked", recorded)
    assert rows(1, 1, 1, 1) == "5"
    assert rows(1, 500, 500, 500) == "1 to 5"
