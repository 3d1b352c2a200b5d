"""The saved states as a user meets them: what is spared and said, and what is left after every harm."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qwen35.cache import blobs
from qwen35.cache import index as index_module
from tests.cli.conftest import Invoke, Result
from tests.model.cache.asking import assert_tidy, blobs_of, words

SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"
GREEDY = ("--temperature", "0", "--max-tokens", "12")


@pytest.fixture
def states(home: Path) -> Path:
    return home / "cache" / "states"


def ask(invoke: Invoke, *words: object) -> dict[str, Any]:
    """The answer of a question as JSON; an answer that was cut is one."""
    result = invoke("ask", *GREEDY, "--json", *words)
    assert result.code in (0, 7), result.err
    values: dict[str, Any] = json.loads(result.out)
    assert values["error"] is None
    assert values["cache"]["reused_tokens"] == values["usage"]["cached_tokens"]
    return values


def trouble(values: dict[str, Any]) -> list[str]:
    """Notes that are not about a picture's size or an answer's length."""
    return [note for note in values["notes"] if "state" in note]


def document(number: int, length: int = 1500) -> Path:
    path = Path(f"{number}.txt")
    path.write_text(words(length, seed=number) + " end\n")
    return path


def tree(home: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(home)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in (home, *home.rglob("*"))
    }


def test_a_second_question_about_a_picture_reuses_it(invoke: Invoke, states: Path) -> None:
    first, second = ask(invoke, SHAPES, "how many shapes?"), ask(invoke, SHAPES, "what is top left?")
    assert first["cache"] == {"reused_tokens": 0, "reason": "nothing was saved before"}
    assert second["cache"]["reused_tokens"] > second["usage"]["image_tokens"] > 0
    assert trouble(second) == []
    alone = ask(invoke, SHAPES, "what is top left?", "--no-cache")
    assert (alone["answer"], alone["cache"]) == (
        second["answer"],
        {"reused_tokens": 0, "reason": None},
    )
    assert_tidy(states)


def test_standard_output_is_the_answer_alone(invoke: Invoke) -> None:
    cold, warm = (invoke("ask", *GREEDY, "-v", SHAPES, "how many shapes?") for _ in range(2))
    assert cold.out == warm.out == invoke("ask", *GREEDY, "-q", "--no-cache", SHAPES, "how many shapes?").out
    assert "reused   0 of" in cold.err or "0 of" in cold.err
    assert "nothing was saved before" in cold.err
    reused = ask(invoke, SHAPES, "how many shapes?")["usage"]
    assert f"{reused['cached_tokens']} of {reused['prompt_tokens']} tokens" in warm.err


def test_why_it_was_a_miss_is_said(invoke: Invoke, tmp_path: Path) -> None:
    ask(invoke, SHAPES, "how many shapes?")
    other = tmp_path / "other.png"
    with Image.open(SHAPES) as image:
        image.rotate(180).save(other)
    assert "another picture" in ask(invoke, other, "how many shapes?")["cache"]["reason"]
    smaller = ask(invoke, SHAPES, "how many shapes?", "--image-tokens", "16")
    assert "another picture, or the same in another size" in smaller["cache"]["reason"]
    assert smaller["cache"]["reused_tokens"] == 0
    unpacked = ask(invoke, "-m", "mini-bf16", SHAPES, "how many shapes?")
    assert unpacked["cache"] == {
        "reused_tokens": 0,
        "reason": "what is saved is of other models or kernels",
    }


def test_no_cache_neither_reads_nor_writes(invoke: Invoke, home: Path) -> None:
    ask(invoke, SHAPES, "hello", "--no-cache")
    assert not (home / "cache" / "states").exists()
    ask(invoke, SHAPES, "hello")
    before = tree(home)
    assert ask(invoke, SHAPES, "hello", "--no-cache")["cache"]["reused_tokens"] == 0
    assert tree(home) == before


def test_private_writes_nothing_at_all(invoke: Invoke, home: Path) -> None:
    ask(invoke, SHAPES, "hello", "--private")
    assert not home.exists()
    ask(invoke, SHAPES, "hello")
    before = tree(home)
    assert ask(invoke, SHAPES, "hello", "--private")["cache"]["reused_tokens"] > 0
    ask(invoke, SHAPES, "--private", "my secret")
    ask(invoke, document(1), "--private", "my other secret")
    assert tree(home) == before


def test_no_room_writes_no_states(invoke: Invoke, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_CACHE_DISK", "0")
    for _ in range(2):
        assert ask(invoke, SHAPES, "hello")["cache"]["reused_tokens"] == 0
    assert not states.exists()


# --- qwen cache


def test_the_commands_say_what_there_is(invoke: Invoke, states: Path) -> None:
    assert invoke("cache", "ls") == Result(0, "No saved states.\n", "")
    assert json.loads(invoke("cache", "ls", "--json").out)["states"] == []
    assert not states.exists()
    ask(invoke, document(1), "what is it?")
    ask(invoke, SHAPES, "what is it?")
    ask(invoke, SHAPES, "and now?")

    rows = json.loads(invoke("cache", "ls", "--json").out)["states"]
    assert {row["uses"] for row in rows} == {0, 1}
    assert [row["used"] for row in rows] == sorted((row["used"] for row in rows), reverse=True)
    lines = invoke("cache", "ls").out.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[0].split() == ["STATE", "TOKENS", "SIZE", "USES", "LAST", "USED", "ENDS", "WITH"]
    assert lines[1].startswith(rows[0]["key"][:12])

    shown = json.loads(invoke("cache", "show", "--json").out)
    size = sum(path.stat().st_size for path in blobs_of(states))
    assert (shown["folder"], shown["snapshots"], shown["size_bytes"]) == (str(states), len(rows), size)
    assert shown["by_kind"].keys() == {"snapshot", "block", "features"}
    assert str(states) in invoke("cache", "show").out

    verified = json.loads(invoke("cache", "verify", "--json").out)
    del verified["schema_version"]
    assert verified == {
        "read": len(blobs_of(states)),
        "damaged": {},
        "computed": verified["computed"],
        "different": [],
        "error": None,
    }
    assert verified["computed"] > 0
    told = invoke("cache", "verify")
    assert (told.code, told.out.count("\n")) == (0, 1)
    assert "0 damaged" in told.out

    assert json.loads(invoke("cache", "clear", "--json").out)["freed_bytes"] == size
    assert blobs_of(states) == []
    assert invoke("cache", "clear").out == "0 B freed\n"
    assert ask(invoke, SHAPES, "and now?")["cache"]["reason"] == "nothing was saved before"


def test_verify_changes_nothing_that_is_right(invoke: Invoke, home: Path) -> None:
    ask(invoke, document(1), "what is it?")
    rows = invoke("cache", "ls", "--json").out
    assert invoke("cache", "verify").code == 0
    assert invoke("cache", "ls", "--json").out == rows


def test_verify_removes_what_is_damaged(invoke: Invoke, states: Path) -> None:
    ask(invoke, document(1), "what is it?")
    flipped, emptied, gone = blobs_of(states, "block")[:3]
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\xff\xff")
    emptied.write_bytes(b"")
    gone.unlink()
    result = invoke("cache", "verify", "--json")
    values = json.loads(result.out)
    assert (result.code, values["damaged"].keys()) == (3, {flipped.name, emptied.name, gone.name})
    assert invoke("cache", "verify").code == 0
    assert trouble(ask(invoke, document(1), "what is it?")) == []
    assert_tidy(states)


@pytest.mark.parametrize("kind", ["snapshot", "block"])
def test_verify_computes_anew(invoke: Invoke, states: Path, kind: str) -> None:
    """A state that was changed, and its checksum made right again."""
    ask(invoke, document(1), "what is it?")
    for path in blobs_of(states, kind):
        tensors, about = blobs.read(path)
        name = next(name for name in tensors if name.startswith("state." if kind == "snapshot" else "k."))
        tensors[name] = np.roll(tensors[name], 1, axis=-1)
        blobs.write(path, tensors, about)
    result = invoke("cache", "verify", "--json")
    values = json.loads(result.out)
    assert (result.code, values["damaged"]) == (3, {})
    assert values["different"]
    assert "differs from what is computed" not in invoke("cache", "verify").out
    alone = ask(invoke, document(1), "what is it?", "--no-cache")
    assert ask(invoke, document(1), "what is it?")["answer"] == alone["answer"]


def test_verify_without_computing(invoke: Invoke, states: Path) -> None:
    ask(invoke, document(1), "what is it?")
    assert json.loads(invoke("cache", "verify", "--sample", "0", "--json").out)["computed"] == 0


@pytest.mark.parametrize("command", ["ls", "show", "verify", "clear"])
def test_a_cache_that_cannot_be_used_exits_with_9(invoke: Invoke, states: Path, command: str) -> None:
    (states / "index.sqlite").mkdir(parents=True)
    result = invoke("cache", command)
    assert (result.code, result.out, result.err.count("\n")) == (9, "", 1)
    assert str(states) in result.err
    assert json.loads(invoke("cache", command, "--json").out)["error"]["code"] == 9


# --- harm


def answers_with_a_note(invoke: Invoke, note: str) -> None:
    """Right, and once, on both ways out."""
    alone = invoke("ask", *GREEDY, "-q", "--no-cache", SHAPES, "how many shapes?").out
    result = invoke("ask", *GREEDY, SHAPES, "how many shapes?")
    assert result.out == alone
    assert note in result.err
    assert "Traceback" not in result.err


def test_a_file_where_the_folder_should_be(invoke: Invoke, states: Path) -> None:
    states.parent.mkdir(parents=True)
    states.write_text("mine")
    answers_with_a_note(invoke, "note: the state cache in")
    assert states.read_text() == "mine"


def test_a_full_disk(invoke: Invoke, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "write", full)
        answers_with_a_note(invoke, "No space left on device")
        assert blobs_of(states) == []
        reason = ask(invoke, SHAPES, "how many shapes?")["cache"]["reason"]
        assert reason == "nothing was saved before"
    ask(invoke, SHAPES, "how many shapes?")
    assert ask(invoke, SHAPES, "how many shapes?")["cache"]["reused_tokens"] > 0
    assert_tidy(states)


def test_a_cache_that_another_process_locks(
    invoke: Invoke, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "BUSY_S", 0.05)
    ask(invoke, "hello")
    with closing(sqlite3.connect(states / "index.sqlite", isolation_level=None)) as index:
        index.execute("BEGIN EXCLUSIVE")
        answers_with_a_note(invoke, "database is locked")
    assert_tidy(states)


def test_damage_is_computed_again_with_a_note(invoke: Invoke, states: Path) -> None:
    ask(invoke, SHAPES, "how many shapes?")
    for path in blobs_of(states):
        path.write_bytes(path.read_bytes()[:-9])
    answers_with_a_note(invoke, "note: a saved state is computed again: snapshot-")
    values = ask(invoke, SHAPES, "how many shapes?")
    assert values["cache"]["reused_tokens"] > 0
    assert trouble(values) == []
    assert_tidy(states)


def killed(number: int, states: Path, *words: object) -> int:
    command = [sys.executable, "-m", "tests.cli.killed", str(number), "ask", *GREEDY, *map(str, words)]
    return subprocess.run(
        command,
        env=os.environ | {"KILLED_IN": str(states)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=120,
    ).returncode


def survives_kills(invoke: Invoke, states: Path, count: int) -> None:
    """Whenever a process is killed while it saves, the next one answers rightly and leaves order."""
    rng = random.Random(count)
    num_killed = 0
    for number in range(count):
        words = (document(number, rng.choice((300, 1500))), SHAPES, "what is it?")
        num_killed += killed(rng.randint(1, 60), states, *words) == -signal.SIGKILL
        values = ask(invoke, *words)
        assert values["answer"] == ask(invoke, *words, "--no-cache")["answer"]
        assert trouble(values) == []
        assert_tidy(states)
        cache = ask(invoke, *words)["cache"]
        assert cache["reused_tokens"] > 64 or "had to make room" in cache["reason"]
    assert num_killed > count // 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_while_saving_does_no_harm(
    invoke: Invoke, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_CACHE_DISK", "3MB")
    survives_kills(invoke, states, 10)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_200_kills_while_saving_do_no_harm(
    invoke: Invoke, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_CACHE_DISK", "3MB")
    survives_kills(invoke, states, 200)


@pytest.mark.long
def test_eight_programs_at_once_answer_rightly(invoke: Invoke, states: Path) -> None:
    words = [(document(n % 3), SHAPES, f"question {n % 4}?") for n in range(8)]
    command = [sys.executable, "-m", "qwencli", "ask", *GREEDY, "--json"]
    running = [
        subprocess.Popen([*command, *map(str, asked)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for asked in words
    ]
    for process, asked in zip(running, words, strict=True):
        out, err = process.communicate()
        values = json.loads(out)
        assert (values["error"], trouble(values), b"error" in err) == (None, [], False)
        assert values["answer"] == ask(invoke, *asked, "--no-cache")["answer"]
    ask(invoke, "hello")
    assert_tidy(states)
