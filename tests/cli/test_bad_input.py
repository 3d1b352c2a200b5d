"""What a user can get wrong: one line that says what, where and what to do; an exit code; no traceback.

Standard output stays empty, or holds one JSON object with the same words under `--json`.
"""

import json
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Invoke

KEYS = [
    "schema_version",
    "id",
    "item",
    "model",
    "backend",
    "answer",
    "answers",
    "data",
    "where",
    "reasoning",
    "logprobs",
    "finish_reason",
    "usage",
    "timings",
    "attachments",
    "chat_id",
    "cache",
    "experts",
    "layers",
    "speculated",
    "windows",
    "notes",
    "error",
]


def check(invoke: Invoke, words: tuple, code: int, message: str, kind: str) -> None:
    """Both forms of the same failure."""
    result = invoke("ask", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert message in result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    failed = invoke("ask", "--json", *words)
    assert (failed.code, failed.err) == (code, result.err)
    assert failed.out.count("\n") == 1
    record = json.loads(failed.out)
    assert list(record) == KEYS
    assert (record["answer"], record["answers"], record["finish_reason"]) == (None, [], "error")
    error = record["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    assert f"error: {error['message']}\n" == result.err
    lines = invoke("ask", "--jsonl", *words).out.splitlines()
    last = json.loads(lines[-1])
    assert (last.pop("type"), last["error"]) == ("result", error)
    assert list(last) == KEYS


def png_of_size(width: int, height: int) -> bytes:
    """Small on disk, as large as the header says in memory."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def _files(home: Path) -> None:
    """Everything below lies in the working folder, which `home` has made."""
    Image.effect_noise((64, 64), 50).save("good.png")
    good = Path("good.png").read_bytes()
    Path("truncated.png").write_bytes(good[: len(good) // 2])
    Path("zip.jpg").write_bytes(b"PK\x03\x04" + bytes(100))
    Path("empty.png").touch()
    Path("bomb.png").write_bytes(png_of_size(50_000, 50_000))
    Path("broken.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    Path("film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(10_000))
    Path("data.bin").write_bytes(bytes(range(256)))
    Path("folder").mkdir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.png", "describe"), "missing.png: no such file"),
        (("-a", "missing.png", "describe"), "missing.png: no such file"),
        (("~nobody-here/x.png", "describe"), "~nobody-here/x.png: no such file"),
        (("-a", "~nobody-here/x.png", "describe"), "~nobody-here/x.png: no such home folder"),
        (("folder", "describe"), "folder: is a folder without a usable picture, video, PDF or text file"),
        (("truncated.png", "describe"), "truncated.png: is a PNG image, but damaged"),
        (("zip.jpg", "describe"), "zip.jpg: is a ZIP archive"),
        (("empty.png", "describe"), "empty.png: is empty (0 bytes)"),
        (("bomb.png", "describe"), "bomb.png: Image size (2500000000 pixels) exceeds limit of 178956970"),
        (("broken.pdf", "describe"), "broken.pdf: is a PDF that cannot be opened"),
        (("-a", "x" * 5000, "describe"), "xxx: File name too long"),
        (("hello", "-s", "@~nobody-here/x"), "~nobody-here/x: no such home folder"),
        (("film.mp4", "describe"), "film.mp4: looks like an MP4 or QuickTime video, but cannot be opened"),
        (("data.bin", "describe"), "data.bin: is binary data of an unknown kind"),
        (("data:image/png;base64,@@", "describe"), "data:image/png;base64,...: is not base64"),
        (("hello", "-s", "@good.png"), "good.png: the system message cannot be read (no text)"),
        (("hello", "-s", "@folder"), "folder: the system message cannot be read (Is a directory)"),
    ],
)
def test_an_unusable_input_exits_with_3(
    invoke: Invoke, model_folder: Path, words: tuple, message: str
) -> None:
    check(invoke, ("-m", model_folder, *words), 3, message, "input")


@pytest.mark.parametrize("words", [("",), ("good.png", " ")])
def test_an_empty_question_exits_with_2(invoke: Invoke, model_folder: Path, words: tuple[str, ...]) -> None:
    Image.new("RGB", (32, 32)).save("good.png")
    check(invoke, ("-m", model_folder, *words), 2, "The prompt is empty", "usage")


def test_an_unreadable_file_exits_with_3(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")  # root, who runs some tests, may read all

    monkeypatch.setattr("qwencli.media.source._chunks", refuse)
    result = invoke("ask", "-m", model_folder, "good.png", "describe")
    assert (result.code, result.err) == (3, "error: good.png: cannot be read (Permission denied).\n")


def test_a_picture_of_extreme_shape_exits_with_3(invoke: Invoke, model_folder: Path) -> None:
    Image.new("L", (2000, 2)).save("strip.png")
    check(invoke, ("-m", model_folder, "strip.png", "describe"), 3, "strip.png: 2000x2 pixels", "input")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "There is no question"),
        (("good.png",), "qwen ask good.png 'Describe this.'"),
        (("what", "is", "this"), "qwen ask 'what is this'"),
        (("hello", "--think", "maybe"), "'--think': 'maybe' is none of off, on, auto, or a number"),
        (("hello", "--max-tokens", "0"), "'--max-tokens': '0' is not a whole number of at least 1"),
        (("hello", "--temperature", "hot"), "'--temperature': 'hot' is not a number from 0 to 100"),
        (("hello", "--top-p", "1.5"), "'--top-p': '1.5' is not a number from 0 to 1"),
        (("hello", "--image-tokens", "9:5"), "'--image-tokens': '9:5': at least one token"),
        (("hello", "--pages", "3-1"), "'--pages': '3-1' is not a list of pages"),
        (("hello", "--device", "tpu"), "'--device': 'tpu' is none of auto, cpu, cuda"),
        (("hello", "--no-such-option"), "--no-such-option"),
        (("-1 + 1 = ?",), "Write -- before a question that begins with a dash"),
        (("hello", "--seed"), "--seed"),
        (("-", "-a", "-", "hello"), "can be read only once"),
        (("hello", "-q", "-v"), "only one can be given"),
    ],
)
def test_a_wrong_call_exits_with_2(invoke: Invoke, model_folder: Path, words: tuple, message: str) -> None:
    check(invoke, ("-m", model_folder, *words), 2, message, "usage")


def test_json_and_jsonl_exclude_each_other(invoke: Invoke) -> None:
    result = invoke("ask", "hello", "--json", "--jsonl")
    assert result.code == 2
    assert json.loads(result.out)["error"]["kind"] == "usage"


def test_a_bad_config_file_exits_with_2(invoke: Invoke, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("thread = 2")
    check(invoke, ("hello",), 2, "config.toml: unknown key 'thread'. Did you mean 'threads'?", "usage")


@pytest.fixture
def damaged(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model, for a test to break."""
    return Path(shutil.copytree(model_folder, tmp_path / "damaged"))


def test_a_model_that_is_not_there_exits_with_4(invoke: Invoke, home: Path) -> None:
    for name in ("Qwen/Nothing", "~nobody-here/model", "x" * 5000):
        check(invoke, ("hello", "-m", name), 4, f"{name}: no such model. Looked", "checkpoint")
    result = invoke("ask", "hello", "-m", "Qwen/Nothing")
    assert str(home / "data" / "models") in result.err
    assert str(home.parent / "hub") in result.err


def test_a_file_where_a_model_is_meant_exits_with_4(invoke: Invoke) -> None:
    check(invoke, ("hello", "-m", "good.png"), 4, "good.png: is a file; a model is the folder", "checkpoint")


def test_a_folder_that_is_no_model_exits_with_4(invoke: Invoke) -> None:
    check(invoke, ("hello", "-m", "folder"), 4, "folder/config.json: no such file", "checkpoint")


def test_a_missing_shard_exits_with_4(invoke: Invoke, damaged: Path) -> None:
    (damaged / "model-00002-of-00002.safetensors").unlink()
    check(invoke, ("hello", "-m", damaged), 4, "model-00002-of-00002.safetensors: no such file", "checkpoint")


def test_a_truncated_shard_exits_with_4(invoke: Invoke, damaged: Path) -> None:
    shard = damaged / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    check(invoke, ("hello", "-m", damaged), 4, f"{shard}: truncated", "checkpoint")


def test_an_unknown_architecture_exits_with_4(invoke: Invoke, damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    check(invoke, ("hello", "-m", damaged), 4, "unknown architecture 'LlamaForCausalLM'", "checkpoint")


def test_a_prompt_beyond_the_context_exits_with_5(invoke: Invoke, model_folder: Path) -> None:
    words = ("-m", model_folder, "hello", "--ctx", 20)
    check(invoke, words, 5, "The prompt has 30 tokens, the context holds 20", "does_not_fit")


def test_a_url_that_fails_exits_with_8(invoke: Invoke, model_folder: Path) -> None:
    url = "http://127.0.0.1:1/scan.png"
    check(invoke, ("-m", model_folder, url, "describe"), 8, f"{url}: cannot be fetched", "network")


def test_a_name_of_two_lines_is_told_on_one(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "two\nlines.png", "describe", "--json")
    assert result.err == "error: two\\nlines.png: no such file.\n"
    assert json.loads(result.out)["error"]["path"] == "two\nlines.png"


def test_control_characters_of_a_name_do_not_reach_the_terminal(invoke: Invoke, model_folder: Path) -> None:
    result = invoke("ask", "-m", model_folder, "\x1b[2Jx.png", "describe")
    assert "\x1b" not in result.err
    assert result.err == "error: \ufffd[2Jx.png: no such file.\n"
