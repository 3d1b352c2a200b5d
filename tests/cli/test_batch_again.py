"""A second run on an output: what it asks again, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.batches import QUICK, draw, records
from tests.cli.conftest import Invoke

OUT = Path("out.jsonl")
ASK = "how many shapes?"  # the answer has two tokens


def test_a_finished_batch_asks_nothing_and_loads_no_model(
    batch: Invoke, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch(scans, ASK, "-o", OUT)
    before = OUT.read_bytes()
    monkeypatch.setattr("qwencli.runtime.load", None)
    result = batch(scans, ASK, "-o", OUT)
    assert result.code == 6
    assert "0 of 5 items answered, 5 were done before (of them 1 failed)" in result.err
    assert OUT.read_bytes() == before


def test_new_and_changed_files_alone_are_asked(batch: Invoke, scans: Path) -> None:
    batch(scans, ASK, "-o", OUT)
    before = records(OUT)
    (scans / "scan000.png").write_bytes((scans / "scan001.png").read_bytes())
    (scans / "scan009.png").write_bytes((scans / "scan003.png").read_bytes())
    (scans / "torn.png").write_bytes((scans / "scan001.png").read_bytes())
    result = batch(scans, ASK, "-o", OUT)
    assert result.code == 0
    assert "3 of 6 items answered, 3 were done before" in result.err
    after = records(OUT)
    changed = [item for item in after if after[item] != before.get(item)]
    assert changed == ["scans/scan000.png", "scans/scan009.png", "scans/torn.png"]
    assert after["scans/scan000.png"]["answer"] == before["scans/scan001.png"]["answer"]


@pytest.mark.parametrize("spec", ["frames", "frames/%02d.png"])
def test_changed_files_of_a_folder_or_numbered_ones_are_noticed(batch: Invoke, home: Path, spec: str) -> None:
    first, second, third = draw(Path("pictures"), 3)
    Path("frames").mkdir()
    for number, path in enumerate((first, second)):
        shutil.copy(path, f"frames/{number:02}.png")
    Path("items.jsonl").write_text(json.dumps({"id": "a", "image": spec}) + "\n")
    assert batch("items.jsonl", ASK, "-o", OUT).code == 0
    assert "1 was done before" in batch("items.jsonl", ASK, "-o", OUT).err
    shutil.copy(third, "frames/01.png")
    assert "1 of 1 items answered" in batch("items.jsonl", ASK, "-o", OUT).err
    shutil.copy(third, "frames/02.png")
    assert "1 of 1 items answered" in batch("items.jsonl", ASK, "-o", OUT).err
    assert len(records(OUT)) == 1


def test_how_an_answer_is_made_alone_belongs_to_the_run(
    batch: Invoke, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("scans/scan000.png", ASK, "-o", OUT)
    batch(*words)
    refused = batch(*words, "-x")
    assert (refused.code, "another question" in refused.err) == (2, True)
    monkeypatch.setenv("QWEN_SPECULATE", "3")
    assert "1 was done before" in batch(*words).err


def test_what_failed_is_asked_again_on_request(batch: Invoke, scans: Path) -> None:
    Path("list").write_text("scans/scan000.png\nlater.png\n")
    words = ("-", ASK, "-o", OUT)
    first = batch(*words, input=b"scans/scan000.png\nlater.png\n")
    assert first.code == 6
    assert records(OUT)["later.png"]["error"]["message"] == "later.png: no such file."
    again = batch(*words, "--retry-failed", input=b"scans/scan000.png\nlater.png\n")
    assert again.code == 6
    assert "1 was done before, 1 failed" in again.err
    assert records(OUT)["later.png"]["error"]
    assert len(records(OUT)) == 2


def test_what_is_incomplete_is_asked_again_with_more_tokens(invoke: Invoke, scans: Path) -> None:
    words = ("batch", "scans/scan000.png", "scans/scan001.png", "what is it?", "-o", OUT, "-m", "mini")
    assert invoke(*words, "--max-tokens", 2).code == 7
    cut = records(OUT)
    assert {line["finish_reason"] for line in cut.values()} == {"length"}
    again = invoke(*words, "--max-tokens", 200)
    assert again.code == 7, "what is incomplete stays so until it is asked again"
    assert "2 were done before (of them 2 incomplete)" in again.err
    assert records(OUT) == cut
    told = json.loads(invoke(*words, "--retry-incomplete", "--dry-run", "--json").out)
    assert (told["done"], told["to_do"]) == (0, 2)
    whole = invoke(*words, "--max-tokens", 200, "--retry-incomplete")
    assert whole.code == 0, whole.err
    assert {line["finish_reason"] for line in records(OUT).values()} == {"stop"}
    for item, line in records(OUT).items():
        assert line["answer"].startswith(cut[item]["answer"])


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (("what is it?",), "another question"),
        ((ASK, "--system", "Be brief."), "another question"),
        ((ASK, "--seed", "1"), "other settings"),
        ((ASK, "-m", "mini-bf16"), "another model"),
    ],
)
def test_an_output_of_another_run_is_refused(
    batch: Invoke, invoke: Invoke, scans: Path, words: tuple, difference: str
) -> None:
    batch("scans/scan000.png", ASK, "-o", OUT)
    before = OUT.read_bytes()
    result = invoke("batch", "scans/scan000.png", words[0], "-o", OUT, *QUICK, *words[1:])
    assert (result.code, result.out) == (2, "")
    assert f"error: out.jsonl: holds 1 answer of {difference}. Choose another output" in result.err
    assert OUT.read_bytes() == before


def test_an_output_of_another_run_is_kept_or_dropped_on_request(batch: Invoke, scans: Path) -> None:
    picture = "scans/scan000.png"
    batch(picture, ASK, "-o", OUT)
    first = OUT.read_text()
    assert batch(picture, "is there a circle?", "-o", OUT, "--append").code == 0
    assert OUT.read_text().startswith(first)
    assert len(OUT.read_text().splitlines()) == 2
    assert "1 was done before" in batch(picture, "is there a circle?", "-o", OUT, "--append").err
    assert batch(picture, "how many circles?", "-o", OUT, "--overwrite").code == 0
    assert len(records(OUT)) == 1


def test_a_file_that_no_batch_wrote_is_left_alone(batch: Invoke, scans: Path) -> None:
    for text in ("hello", "hello\n", "a,b\nc,d\n", '{"item": 1}\n', "\n"):
        OUT.write_text(text)
        for words in ((), ("--append",), ("--format", "openai"), ("--as", "csv")):
            result = batch(scans, ASK, "-o", OUT, *words)
            assert (result.code, OUT.read_text()) == (2, text)
            assert "error: out.jsonl: is not what `qwen batch` writes" in result.err


def test_an_answer_of_ask_is_no_torn_line_of_a_batch(batch: Invoke, invoke: Invoke, scans: Path) -> None:
    OUT.write_text(invoke("ask", "hello", *QUICK, "--json").out)
    before = OUT.read_text()
    assert batch(scans, ASK, "-o", OUT).code == 2
    assert OUT.read_text() == before
