"""`/paste` and `/copy`: the clipboard by programs that stand in for those of a desktop."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Invoke
from tests.cli.talking import messages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs read the clipboard on Linux alone")

Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a program of that name, with this Python code, where alone programs are looked for."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)

    def make(name: str, code: str) -> None:
        path = folder / name
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        path.chmod(0o700)
        monkeypatch.setenv("WAYLAND_DISPLAY" if name.startswith("wl-") else "DISPLAY", "stand-in")

    return make


def shows(path: Path) -> str:
    return f"sys.stdout.buffer.write(open({str(path)!r}, 'rb').read())"


@pytest.mark.parametrize("name", ["xclip", "wl-paste"])
def test_a_picture_is_pasted(
    program: Program, picture: Path, chat: Invoke, invoke: Invoke, name: str
) -> None:
    program(name, shows(picture))
    result = chat("/paste", "What is this?")
    assert result.code == 0, result.err
    saved = messages(invoke)
    assert [(a["source"], a["type"]) for a in saved[0]["attachments"]] == [("clipboard", "image")]
    assert saved[1]["usage"]["image_tokens"] > 0
    picture.unlink()
    again = chat("And now?", options=("-c",))  # the bytes were kept
    assert again.code == 0
    assert messages(invoke)[3]["usage"]["image_tokens"] == saved[1]["usage"]["image_tokens"]
    assert chat(f"/image {picture.name}").code == 3


def test_a_picture_of_any_kind_is_pasted(program: Program, chat: Invoke, picture: Path) -> None:
    Image.open(picture).convert("CMYK").save("print.jpg")
    program("wl-paste", shows(Path("print.jpg").absolute()))
    assert chat("/paste", "What is this?").code == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit('Error: target image/png not available')", "There is no picture in the clipboard"),
        ('sys.exit("Error: Can\'t open display: (null)")', "Can't open display"),
        ("print('no picture at all')", "cannot be read"),
        ("sys.stdout.buffer.write(b'\\x89PNG\\r\\n\\x1a\\n')", "cannot be read"),
    ],
)
def test_without_a_picture_one_line_says_so(program: Program, chat: Invoke, code: str, words: str) -> None:
    program("xclip", code)
    result = chat("/paste")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert words in result.err


def test_without_a_program_it_is_named(program: Program, chat: Invoke) -> None:
    result = chat("/paste")
    assert result.code == 3
    assert "wl-clipboard" in result.err
    assert "xclip" in result.err


def test_an_answer_is_copied(program: Program, chat: Invoke, invoke: Invoke) -> None:
    program("wl-copy", "sys.exit(1)")  # there, but of no use: the next one is tried
    program("xclip", "open('copied', 'w').write(sys.stdin.read())")
    assert chat("Hello", "/copy").code == 0
    assert Path("copied").read_text() == messages(invoke)[1]["text"]
    program("xclip", "sys.exit(1)")
    assert "no clipboard here" in chat("Hello", "/copy").err
