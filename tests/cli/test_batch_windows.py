"""`qwen batch --window`: long clips of a folder, each walked through as `qwen ask --window` does."""

import json
from pathlib import Path

import pytest

from tests.cli.batches import records
from tests.cli.conftest import Invoke
from tests.media.clips import counter, encode

OUT = Path("out.jsonl")
WORDS = ("what?", "-m", "mini", "--fps", 1, "--window", "2s", "--max-tokens", 3, "--temperature", 0)


@pytest.fixture
def clips(home: Path) -> Path:
    """A folder with clips of four and six seconds."""
    Path("clips").mkdir()
    for seconds in (4, 6):
        encode(Path(f"clips/{seconds}s.mp4"), map(counter, range(25 * seconds)), g="25")
    return Path("clips")


@pytest.mark.parametrize("each", [(), ("--each-window",)])
def test_an_answer_is_the_one_that_ask_gives(invoke: Invoke, clips: Path, each: tuple[str, ...]) -> None:
    result = invoke("batch", clips, *WORDS, *each, "-o", OUT, "--batch-size", 2)
    assert result.code in (0, 7), result.err
    found = records(OUT)
    assert [*found] == ["clips/4s.mp4", "clips/6s.mp4"] or [*found] == ["clips/6s.mp4", "clips/4s.mp4"]
    for item, line in found.items():
        alone = json.loads(invoke("ask", item, *WORDS, *each, "--no-cache", "--json").out)
        for name in ("answer", "answers", "windows", "finish_reason", "attachments"):
            assert line[name] == alone[name], name
        assert line["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
        assert line["notes"] == alone["notes"]
    assert len(found["clips/6s.mp4"]["answers"]) == (3 if each else 1)


def test_it_goes_on_where_it_stopped_and_not_with_other_windows(invoke: Invoke, clips: Path) -> None:
    assert invoke("batch", clips, *WORDS, "-o", OUT, "--limit", 1).code in (0, 7)
    assert len(records(OUT)) == 1
    again = invoke("batch", clips, *WORDS, "-o", OUT)
    assert "1 of 2 items answered, 1 was done before" in again.err
    assert len(records(OUT)) == 2
    other = invoke("batch", clips, *WORDS, "--window", "3s", "-o", OUT)
    assert other.code == 2
    assert "another question" in other.err
    assert invoke("batch", clips, *WORDS, "--each-window", "-o", OUT).code == 2


def test_what_is_no_clip_fails_by_itself(invoke: Invoke, clips: Path) -> None:
    Path("clips/a.txt").write_text("words")
    result = invoke("batch", clips, *WORDS, "-o", OUT)
    assert result.code == 6
    error = records(OUT)["clips/a.txt"]["error"]
    assert error["kind"] == "input"
    assert "Windows go through one video, and there is none." in error["message"]


def test_a_dry_run_counts_all_windows(invoke: Invoke, clips: Path) -> None:
    told = json.loads(invoke("batch", clips, *WORDS, "-o", OUT, "--dry-run", "--json").out)
    invoke("batch", clips, *WORDS, "-o", OUT)
    found = records(OUT).values()
    assert told["video_tokens"] == sum(line["usage"]["video_tokens"] for line in found) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--each-window",), "--each-window needs --window TIME"),
        (("--window", "2s", "--each-window", "--choice", "yes,no"), "--each-window gives several answers"),
    ],
)
def test_what_does_not_go_together_is_said(
    invoke: Invoke, clips: Path, options: tuple[str, ...], message: str
) -> None:
    result = invoke("batch", clips, "what?", "-o", OUT, *options)
    assert result.code == 2
    assert message in result.err
    assert not OUT.exists()


def test_a_request_with_a_schema_of_its_own_is_not_asked_in_each_window(invoke: Invoke, clips: Path) -> None:
    url = {"url": (clips / "4s.mp4").absolute().as_uri()}
    form = {"name": "x", "schema": {"type": "string"}}
    body = {
        "model": "mini",
        "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": url}]}],
        "response_format": {"type": "json_schema", "json_schema": form},
    }
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    Path("items.jsonl").write_text(json.dumps(line) + "\n")
    result = invoke("batch", "items.jsonl", "-m", "mini", "--window", "2s", "--each-window", "-o", OUT)
    assert result.code == 6
    assert "several answers" in json.dumps(records(OUT)["1"]["error"])
