"""Clips on the command line: what is seen of them, and what is said of those that cannot be."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import Invoke
from tests.media.clips import counter, encode


@pytest.fixture
def clip(home: Path) -> Path:
    """Four seconds in the working folder."""
    return encode(Path("clip.mp4"), map(counter, range(100)), g="25")


def test_a_clip_is_described_in_json(invoke: Invoke, clip: Path) -> None:
    result = invoke(
        "ask", clip, "what?", "--json", "--max-tokens", 4, "--fps", 1, "--start", "0:01", "--end", "3s"
    )
    assert result.code in (0, 7), result.err
    record = json.loads(result.out)
    (attachment,) = record["attachments"]
    assert (attachment["source"], attachment["type"]) == ("clip.mp4", "video")
    assert attachment["size_bytes"] == clip.stat().st_size
    assert (attachment["duration_s"], attachment["frames"]) == (4.0, 2)
    assert attachment["times_s"] == [1.0, 2.0]
    assert attachment["tokens"] == record["usage"]["video_tokens"] > 0
    assert f"clip.mp4: {attachment['plan']}" in record["notes"]
    assert attachment["plan"] in result.err


def test_a_number_of_frames_and_a_bound_of_tokens(invoke: Invoke, model_folder: Path, clip: Path) -> None:
    def described(*options: object) -> dict[str, object]:
        result = invoke("ask", "-m", model_folder, "--dry-run", "--json", clip, "what?", *options)
        assert result.code == 0, result.err
        (attachment,) = json.loads(result.out)["attachments"]
        return dict(attachment)

    assert described("--frames", 6)["frames"] == 6
    free = described("--frames", 6, "--video-tokens", "model")
    bound = described("--frames", 6, "--video-tokens", int(str(free["tokens"])) // 2)
    assert not free["is_capped"]
    assert bound["is_capped"]
    assert int(str(bound["tokens"])) <= int(str(free["tokens"])) // 2


def test_a_dry_run_shows_the_plan(invoke: Invoke, clip: Path) -> None:
    result = invoke("ask", "--dry-run", clip, "what?")
    assert result.code == 0, result.err
    assert "clip.mp4: 4 s at 2 fps: 8 frames" in result.err
    assert "assumed" not in result.err
    assert "tokens  video  clip.mp4" in result.out


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
@pytest.mark.usefixtures("home")
def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = encode(tmp_path / "long.mp4", map(counter, [number % 256 for number in range(1500)]))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    words = ("-", "what?", "-m", "mini", "--frames", "200", "--video-tokens", "6000", "--no-cache")
    command = [sys.executable, "-m", "qwencli", "ask", *words]
    with long.open("rb") as file:
        process = subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
    try:
        assert process.stderr is not None
        notes = iter(process.stderr.readline, b"")
        assert any(b"200 frames" in note for note in notes)  # the plan: decoding comes next
        time.sleep(0.5)
        assert list((tmp_path / "temporary").glob("qwen-*"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert not list((tmp_path / "temporary").glob("qwen-*"))


def test_a_clip_comes_by_standard_input(invoke: Invoke, clip: Path) -> None:
    result = invoke("ask", "--dry-run", "--json", "-", "what?", input=clip.read_bytes())
    assert result.code == 0, result.err
    (attachment,) = json.loads(result.out)["attachments"]
    assert (attachment["source"], attachment["type"], attachment["frames"]) == ("stdin", "video", 8)


def test_settings_choose_frames_too_and_the_nearer_one_counts(
    invoke: Invoke, clip: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_FRAMES", "3")
    result = invoke("ask", "--dry-run", "--json", clip, "what?")
    assert json.loads(result.out)["attachments"][0]["frames"] == 3
    result = invoke("ask", "--dry-run", "--json", clip, "what?", "--fps", 1)
    assert json.loads(result.out)["attachments"][0]["frames"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fps", "0"), "'0' is not a number of frames a second"),
        (("--start", "soon"), "'soon' is not a time. Write it like 90, 90s, 1:30 or 1:02:03."),
        (("--fps", 1, "--frames", 2), "Of --fps and --frames, only one can be given."),
        (("--start", 3, "--end", 2), "--end 2 is not after --start 3."),
        (("--video-tokens", "0"), "'0' is none of auto, model, or a number of tokens."),
        (("--window", "0.5s"), "A window of 0.5 s is too short."),
        (("--each-window",), "--each-window needs --window TIME, such as --window 60s."),
        (("--window", "2s", "--chat", "new"), "--window is for a single question"),
        (("--window", "2s", "--each-window", "--choice", "yes,no"), "--each-window gives several answers"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    words: tuple[object, ...], message: str, invoke: Invoke, clip: Path
) -> None:
    result = invoke("ask", clip, "what?", *words)
    assert result.code == 2
    assert message in result.err


def test_what_cannot_be_used_is_one_line(invoke: Invoke, clip: Path) -> None:
    Path("text.mp4").write_text("<html>not found</html>")
    Path("cut.mp4").write_bytes(clip.read_bytes()[:-2500])
    Path("empty.mp4").touch()
    Path("folder.mp4").mkdir()
    for words, message in (
        (("text.mp4",), "text.mp4: holds text, in spite of its name"),
        (("cut.mp4",), "cut.mp4: looks like an MP4 or QuickTime video, but cannot be opened"),
        (("empty.mp4",), "empty.mp4: is empty (0 bytes)."),
        (("folder.mp4",), "folder.mp4: is a folder without a usable picture"),
        ((clip, "--start", "90"), "clip.mp4: it ends after 4.0 s"),
        ((clip, "--video-tokens", 1), "clip.mp4: one pair of its frames takes"),
    ):
        inputs, options = words[:1], words[1:]
        result = invoke("ask", "-q", *inputs, "what?", *options)
        assert result.code == 3, result.err
        assert result.err.startswith(f"error: {message}")
        assert result.err.count("\n") == 1


def test_an_option_without_a_clip_is_told(invoke: Invoke, picture: Path) -> None:
    result = invoke("ask", "--dry-run", picture, "what?", "--start", 1)
    assert "--fps, --frames, --start and --end have no effect: no input is a video" in result.err


def test_numbered_frames_are_a_clip(invoke: Invoke, home: Path) -> None:
    for number in range(4):
        Image.fromarray(counter(number)).save(f"f{number}.png")
    result = invoke("ask", "--dry-run", "f%d.png", "what?")
    assert result.code == 0, result.err
    assert "f%d.png: 4 pictures, taken as a clip of 2 frames a second" in result.err
    assert "tokens  video  f%d.png" in result.out


def test_a_chat_attaches_clips_and_finds_them_again(chat: Invoke, clip: Path) -> None:
    result = chat("/set frames 2", "/video clip.mp4", "what?", "@clip.mp4 and now?", "/context")
    assert result.code in (0, 7), result.err
    assert result.out.count("clip.mp4") == 3  # two attached, one named in a question
    clip.unlink()
    result = chat("and then?", "/context", options=("-c",))
    assert result.code in (0, 7), result.err
    assert result.out.count("clip.mp4") == 3  # two attached, one named in a question
    assert result.err == ""


def test_what_was_seen_of_a_clip_stays_so_in_a_saved_conversation(invoke: Invoke, clip: Path) -> None:
    first = invoke(
        "ask", "--chat", "new", "-m", "mini", "--json", clip, "what?", "--frames", 3, "--max-tokens", 2
    )
    then = invoke("ask", "-c", "--json", "and now?", "--max-tokens", 2)
    one, two = json.loads(first.out), json.loads(then.out)
    assert two["usage"]["video_tokens"] == one["usage"]["video_tokens"] > 0
    assert two["usage"]["prompt_tokens"] > one["usage"]["prompt_tokens"]


def test_a_large_clip_is_capped_on_a_cpu_with_one_note(
    invoke: Invoke, model_folder: Path, home: Path
) -> None:
    path = encode(Path("large.mp4"), (counter(number, 960, 960) for number in range(40)), fps=1)

    def tokens(*options: str) -> tuple[int, str]:
        words = ("-m", model_folder, "--dry-run", "--json", "--device", "cpu")
        result = invoke("ask", *words, path, "what?", *options)
        assert result.code == 0, result.err
        return json.loads(result.out)["attachments"][0]["tokens"], result.err

    capped, notes = tokens()
    free, no_notes = tokens("--video-tokens", "model")
    assert capped <= 8192 < free
    assert notes.count(f"a video is capped at 8192 of {free} tokens to save time on the CPU") == 1
    assert "capped at 8,192" in notes
    assert "to save time" not in no_notes


def test_a_clip_is_walked_through_in_windows(invoke: Invoke, clip: Path) -> None:
    words = ("ask", "-m", "mini", clip, "what?", "--fps", 1, "--window", "2s", "--max-tokens", 3)
    result = invoke(*words, "--json")
    assert result.code in (0, 7), result.err
    record = json.loads(result.out)
    (attachment,) = record["attachments"]
    assert attachment["windows"] == [[0, 2], [2, 4]]
    assert attachment["times_s"] == [0, 1, 2, 3]
    assert attachment["tokens"] == record["usage"]["video_tokens"] > 0
    assert f"clip.mp4: {attachment['plan']}" in record["notes"]
    assert attachment["plan"].startswith("2 windows of 2 s at 1 fps: 2 frames")
    assert "clip.mp4: 2 windows of 2 s" in result.err
    assert record["answers"] == [record["answer"]]
    assert record["windows"] is None
    assert record["usage"]["prompt_tokens"] > record["usage"]["video_tokens"]


def test_each_window_is_answered_in_a_line_of_its_own(invoke: Invoke, clip: Path) -> None:
    words = ("ask", "-m", "mini", clip, "what?", "--fps", 1, "--window", "2s", "--each-window")
    result = invoke(*words, "--max-tokens", 3, "--json")
    record = json.loads(result.out)
    windows = record["windows"]
    assert [(window["start_s"], window["end_s"]) for window in windows] == [(0, 2), (2, 4)]
    assert [window["answer"] for window in windows] == record["answers"]
    assert record["answer"] == "".join(
        f"{newline}- {seconds}: {answer}"
        for newline, seconds, answer in zip(
            ("", "\n"), ("0:00-0:02", "0:02-0:04"), record["answers"], strict=True
        )
    )
    plain = invoke(*words, "--max-tokens", 3)
    assert plain.out == record["answer"] + "\n"
    lines = [json.loads(line) for line in invoke(*words, "--max-tokens", 3, "--jsonl").out.splitlines()]
    told = [line for line in lines if line["type"] == "window"]
    assert [{key: line[key] for key in windows[0]} for line in told] == windows


def test_a_dry_run_shows_the_first_window(invoke: Invoke, clip: Path) -> None:
    result = invoke("ask", "--dry-run", clip, "what?", "--fps", 1, "--window", "2s")
    assert result.code == 0, result.err
    assert "clip.mp4: 2 windows of 2 s" in result.err
    assert result.err.count("clip.mp4: ") == 1, "the plan of the first window is told as one of all"
    assert "the prompt shown is that of the first of 2 windows" in result.err
    assert "<0.5 seconds>" in result.out
    assert "<2.5 seconds>" not in result.out


def test_what_differs_between_windows_is_null(invoke: Invoke, clip: Path) -> None:
    def told(seconds: str) -> dict[str, Any]:
        words = ("ask", "-m", "mini", "--dry-run", "--json", clip, "what?", "--fps", 8, "--window", seconds)
        (attachment,) = json.loads(invoke(*words).out)["attachments"]
        return dict(attachment)

    alike = told("2s")
    assert alike["windows"] == [[0, 2], [2, 4]]
    assert alike["tokens"] == alike["tokens_per_pair"] * alike["pairs"]
    assert None not in (alike["size"], alike["max_tokens"])
    odd = told("1.7s")  # the last one is longer, so that its frames are smaller
    assert odd["windows"] == [[0, 1.7], [1.7, 4]]
    assert (odd["size"], odd["tokens_per_pair"], odd["max_tokens"]) == (None, None, None)
    assert odd["original_size"] == alike["original_size"]
