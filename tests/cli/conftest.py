"""The program as a user runs it: in this process, with a home of its own."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from qwencli import app
from qwencli.conversations.store import Store
from tests.cli.batches import QUICK, draw
from tests.cli.conversing import no_note
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import MOE, reference_model


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint: tiny, random, with pictures, a byte tokenizer and 64 tokens at most per picture."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    write_checkpoint(folder, reference_model(MOE), MOE)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for config, data, cache and state, an empty hub cache, an empty working folder."""
    for name in [name for name in os.environ if name.startswith(("QWEN_", "HF_"))]:
        monkeypatch.delenv(name)
    home, hub, here = tmp_path / "home", tmp_path / "hub", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("QWEN_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))  # for other processes; this one has read it
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("qwencli.other_stores.user_home", lambda: tmp_path)  # of LM Studio and Ollama
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(here)
    return home


@pytest.fixture
def invoke(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Invoke]:
    """Run `qwen WORDS` in this process; standard input is /dev/null, or a pipe with `input` in it."""
    keyboard = os.dup(0)

    def run(*words: object, input: bytes | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["qwen", *map(str, words)])
        if input is None:
            stdin = os.open(os.devnull, os.O_RDONLY)
        else:
            stdin, writing = os.pipe()
            os.write(writing, input)  # less than the kernel's buffer
            os.close(writing)
        os.dup2(stdin, 0)
        os.close(stdin)
        code = app.main()
        out, err = capsys.readouterr()
        return Result(code, out, err)

    yield run
    os.dup2(keyboard, 0)
    os.close(keyboard)


@pytest.fixture
def picture(home: Path) -> Path:
    """A picture in the working folder, whose name has a space."""
    path = Path("my picture.png").absolute()
    Image.new("RGB", (96, 96), (200, 30, 30)).save(path)
    return path


@pytest.fixture
def chat(invoke: Invoke) -> Invoke:
    """A script of lines, asked of the built-in model without chance."""

    def run(*lines: str, options: tuple[str, ...] = ()) -> Result:
        script = "".join(f"{line}\n" for line in lines).encode()
        return invoke("chat", "-q", "-m", "mini", "--temperature", "0", *options, input=script)

    return run


@pytest.fixture
def scans(home: Path) -> Path:
    """A folder with four pictures, one that is broken, and a file that is no item."""
    draw(Path("scans"), 4)
    Path("scans/torn.png").write_bytes(Path("scans/scan000.png").read_bytes()[:60])
    Path("scans/index.db").write_bytes(b"1")
    Path("scans/.hidden.png").write_bytes(b"1")
    return Path("scans")


@pytest.fixture
def batch(invoke: Invoke) -> Invoke:
    def run(*words: object, input: bytes | None = None) -> Result:
        return invoke("batch", *words, *QUICK, input=input)

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Of conversations, in an empty folder; a note is an error."""
    with Store.open(tmp_path, no_note) as store:
        yield store
