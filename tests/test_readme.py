"""Every command of the READMEs, run as it stands there, by bash, in a folder that holds what it names."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.media.clips import FPS, counter, encode
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import MOE, reference_model
from tests.serving import serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = (ROOT / "examples" / "README.md").read_text()


def blocks(text: str) -> list[list[str]]:
    """Indented blocks of lines."""
    runs = re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    return [[line[4:] for line in run.splitlines()] for run in runs]


COMMANDS = [
    line
    for block in blocks(README)
    for line in block
    if re.search(r"\bqwen (ask|batch|chat|chats|models|plan|doctor|cache|bench|schema|templates)", line)
]
OWN_COMMANDS = [line for line in COMMANDS if not line.startswith("pip")]
TABLE_COMMANDS = re.findall(r"`(qwen ask [^`]+)`", EXAMPLES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the READMEs name, and a home with the model they name."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", place / "examples")
    shapes = Image.open(ROOT / "examples" / "shapes.png").convert("RGB")
    for name in ("page1.png", "page2.png", "chart.png", "photo.jpg", "receipt.png"):
        shapes.save(place / name)
    shapes.save(place / "report.pdf", save_all=True, append_images=[shapes] * 3)
    encode(place / "clip.mp4", (counter(number, 240, 320) for number in range(4 * FPS)))
    (place / "notes.txt").write_text("Three notes.\n")
    (place / "list.txt").write_text("page1.png\npage2.png\n")
    model = place / "home" / "models" / "Qwen3.5-0.8B"
    model.mkdir(parents=True)
    write_checkpoint(model, reference_model(MOE), MOE)
    bin_folder = place / "bin"
    bin_folder.mkdir()
    script = bin_folder / "qwen"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qwencli "$@"\n')
    script.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def site(place: Path) -> Iterator[str]:
    """The folder as a site of the web."""

    with serve(directory=str(place)) as url:
        yield url


def run(command: str, place: Path, site: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("QWEN_", "HF_"))}
    environment |= {
        "HOME": str(place / "home"),
        "QWEN_HOME": str(place / "qwen"),
        "HF_HUB_CACHE": str(place / "hub"),
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'model'}",
        # The models here say what they say: answers need not end by themselves. A command packs a random
        # model, which would answer in mini's place from then on.
        "QWEN_MAX_TOKENS": "200",
        "QWEN_MODEL": "mini",
    }
    return subprocess.run(
        ["bash", "-c", command.replace("https://example.org/", site)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.mark.parametrize("command", OWN_COMMANDS + TABLE_COMMANDS)
def test_a_command_of_the_readme_runs(command: str, place: Path, site: str) -> None:
    done = run(command, place, site)
    # 7: cut after the tokens allowed here, which the tiny random model, and mini in JSON, do not stay below.
    may_be_cut = "Qwen3.5-0.8B" in command or "--schema" in command
    assert done.returncode in ((0, 7) if may_be_cut else (0,)), done.stderr
    assert "error" not in done.stderr


def test_there_are_commands_to_run() -> None:
    assert len(OWN_COMMANDS) >= 9
    assert len(TABLE_COMMANDS) == 7


def test_the_answers_shown_are_the_answers_given(place: Path, site: str) -> None:
    first = next(block for block in blocks(README) if block[0].startswith("pip install"))
    answer = blocks(README)[blocks(README).index(first) + 1]
    assert run(first[0].partition("&& ")[2], place, site).stdout.splitlines() == answer


@pytest.mark.parametrize("picture", ["form.png", "chart.png"])
def test_the_documents_shown_are_read_as_shown(picture: str, place: Path, site: str) -> None:
    asked = next(block for block in blocks(README) if block[0].startswith(f"qwen ask examples/{picture}"))
    answer = blocks(README)[blocks(README).index(asked) + 1]
    assert run(asked[0], place, site).stdout.splitlines() == answer


def test_the_object_shown_has_the_fields_printed(place: Path, site: str) -> None:
    command = next(command for command in OWN_COMMANDS if command.endswith("--json"))
    shown = json.loads(" ".join(next(block for block in blocks(README) if block[0].startswith("{"))))
    run('qwen ask examples/shapes.png "describe"', place, site)  # what it goes on from
    printed = json.loads(run(command, place, site).stdout)
    assert shown.keys() == printed.keys()
    assert shown["answer"] == printed["answer"]
    assert shown["usage"] == printed["usage"]


def test_ci_installs_as_the_readme_says() -> None:
    ci = (ROOT / ".ci" / "run").read_text().replace("--quiet ", "")
    for line in README.splitlines():
        if line.startswith("    pip install"):
            for step in line.strip().split(" && "):
                if step.startswith("pip"):
                    assert step in ci
