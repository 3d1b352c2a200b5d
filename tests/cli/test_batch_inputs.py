"""What `qwen batch` is asked about: folders, patterns, lists and files of items."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cli.batches import records
from tests.cli.conftest import Invoke

OUT = Path("out.jsonl")
ASK = "how many shapes?"  # the answer has two tokens


def test_patterns_choose(batch: Invoke, scans: Path) -> None:
    assert batch(scans, ASK, "-o", OUT, "--include", "*2.png", "--include", "more/*").code == 0
    assert list(records(OUT)) == ["scans/more/scan002.png"]
    batch("scans/**/scan*.png", "scans/scan000.png", ASK, "-o", "b", "--exclude", "*3.png")
    assert list(records(Path("b"))) == ["scans/more/scan002.png", "scans/scan000.png", "scans/scan001.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_what_is_no_file_of_a_folder_is_left_out_and_told(batch: Invoke, scans: Path) -> None:
    os.mkfifo(scans / "pipe.png")
    (scans / "circle").symlink_to(Path.cwd() / scans, target_is_directory=True)
    (scans / "gone.png").symlink_to("nowhere.png")
    (scans / "loop.png").symlink_to("loop.png")
    result = batch(scans, ASK, "-o", OUT, "--exclude", "torn.png")
    assert "note: 1 file left out, by name no picture" in result.err
    assert "note: left out: 1 link to a folder, 1 pipe, socket or device\n" in result.err
    found = records(OUT)
    assert result.code == 6
    assert len(found) == 6
    assert found["scans/gone.png"]["error"]["message"] == "scans/gone.png: no such file."
    assert found["scans/loop.png"]["error"]["kind"] == "input"


def test_lists_come_on_standard_input(batch: Invoke, scans: Path) -> None:
    Path("odd\nname.png").write_bytes((scans / "scan000.png").read_bytes())
    result = batch("-0", "-", ASK, "-o", OUT, input=b"scans/scan001.png\0odd\nname.png\0")
    assert result.code == 0, result.err
    assert list(records(OUT)) == ["scans/scan001.png", "odd\nname.png"]
    result = batch("-", ASK, "-o", "b", input=b"scans/scan001.png\r\n\nscans/scan001.png\n")
    assert "note: 1 input was named twice" in result.err
    assert list(records(Path("b"))) == ["scans/scan001.png"]


def test_a_name_that_is_no_text_comes_back(batch: Invoke, scans: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Path(name).write_bytes((scans / "scan000.png").read_bytes())
    except OSError:
        pytest.skip("this platform has no such names")
    for words in ((), ("--as", "csv"), ("--format", "openai")):
        out = f"out{len(words)}{words[-1:]}"
        assert batch(name, ASK, "-o", out, *words).code == 0
        assert "1 was done before" in batch(name, ASK, "-o", out, *words).err


def test_columns_of_lines_fill_the_question(batch: Invoke, scans: Path) -> None:
    lines = [
        {"id": "a", "image": "scans/scan000.png", "thing": "circle"},
        {"path": "scan001.png", "thing": {"x": 1}},
        {"id": 7, "thing": "sun"},
        {"id": "a", "image": "scans/scan003.png", "thing": "square"},
        {"id": "b", "image": "scans/scan003.png"},
        {"id": "c", "image": 3, "thing": "square"},
    ]
    items = scans / "items.jsonl"
    items.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n\n[1]\n")
    result = batch(items, 'what is {thing} of {stem}? {{thing}} {"a": 1}', "-o", OUT, "--dry-run")
    assert (result.code, OUT.exists()) == (0, False)
    assert 'what is circle of scan000? {thing} {"a": 1}' in result.out
    result = batch(items, "what is the {thing}?", "-o", OUT)
    assert result.code == 6
    found = records(OUT)
    assert set(found) == {"a", f"{items}:2", "7", "b", "c", *(f"{items}:{number}" for number in (4, 7, 9))}
    errors = {item: line["error"]["message"] for item, line in found.items() if line["error"]}
    assert errors == {
        f"{items}:4": f"{items}, line 4: the id 'a' has been on a line before.",
        "b": f"{items}, line 5: has no 'thing', which the question names.",
        "c": f"{items}, line 6: 'image' is neither a path nor a list of paths.",
        f"{items}:7": f"{items}, line 7: is not JSON (Expecting value: line 1 column 1 (char 0)).",
        f"{items}:9": f"{items}, line 9: is not a JSON object.",
    }
    assert "note: 5 items that cannot be asked" in result.err
    assert found[f"{items}:2"]["attachments"][0]["source"] == "scans/scan001.png"


def test_a_column_that_no_line_has_is_told_before_anything_is_asked(batch: Invoke, home: Path) -> None:
    Path("items.jsonl").write_text('{"city": "Rome"}\n{"city": "Bonn"}\n')
    result = batch("items.jsonl", "where is {town}?", "-o", OUT)
    assert (result.code, OUT.exists()) == (2, False)
    assert "error: No item has {town}. There is {city}." in result.err


@pytest.mark.parametrize("id", [None, "a"])
def test_a_file_of_items_that_is_named_twice_is_asked_once(batch: Invoke, home: Path, id: str | None) -> None:
    Path("items.jsonl").write_text(json.dumps({"id": id, "prompt": "hello"}) + "\n")
    for _ in range(2):
        result = batch("items.jsonl", "./items.jsonl", "*.jsonl", "-o", OUT)
        assert result.code in (0, 7)
        assert "2 inputs were named twice, and asked about once" in result.err
        assert [line["answer"] is not None for line in records(OUT).values()] == [True]
    assert "1 was done before" in result.err


def test_a_line_whose_place_is_the_id_of_another_one_does_not_take_its_answer(
    batch: Invoke, home: Path
) -> None:
    lines = [{"id": "items.jsonl:3"}, {"id": "a"}, {"id": "a"}, {"id": "items.jsonl:3"}]
    Path("items.jsonl").write_text("".join(json.dumps(line | {"prompt": "hello"}) + "\n" for line in lines))
    for _ in range(2):
        assert batch("items.jsonl", "-o", OUT).code == 6
        found = records(OUT)
        assert [item for item in found if found[item]["error"]] == ["items.jsonl:4"]
        assert {*found} == {"items.jsonl:3", "a", "items.jsonl:4"}


def test_a_mended_line_takes_the_place_of_its_failure(batch: Invoke, home: Path) -> None:
    items = Path("items.jsonl")
    items.write_text('{"id": "a", "image": 3, "prompt": "hello"}\n{"custom_id": "b", "prompt": ""}\n')
    assert batch(items, "-o", OUT).code == 6
    assert {item: bool(line["error"]) for item, line in records(OUT).items()} == {"a": True, "b": True}
    items.write_text('{"id": "a", "prompt": "hello"}\n{"custom_id": "b", "prompt": "hello"}\n')
    assert batch(items, "-o", OUT).code in (0, 7)
    assert {item: bool(line["error"]) for item, line in records(OUT).items()} == {"a": False, "b": False}


def test_files_of_items_may_be_named_by_a_pattern(batch: Invoke, home: Path) -> None:
    Path("parts").mkdir()
    for name in "ab":
        Path(f"parts/{name}.jsonl").write_text(f'{{"id": "{name}", "prompt": "hello"}}\n')
    batch("parts/*.jsonl", "-o", OUT)
    assert {*records(OUT)} == {"a", "b"}
    os.chdir("parts")
    batch("*.jsonl", "-o", "../again.jsonl")
    assert {*records(Path("../again.jsonl"))} == {"a", "b"}


def test_lines_may_bring_their_own_questions(batch: Invoke, home: Path) -> None:
    result = batch("-", "-o", OUT, input=b'{"id": "x", "prompt": "hello"}\n{"id": "y"}\n')
    assert result.code == 6
    found = records(OUT)
    assert found["x"]["answer"]
    assert "stdin, line 2: has no 'prompt'" in found["y"]["error"]["message"]


def test_lines_may_come_with_a_byte_order_mark(batch: Invoke, home: Path) -> None:
    batch("-", "-o", OUT, input=b'\xef\xbb\xbf{"id": "x", "prompt": "hello"}\n')
    assert records(OUT)["x"]["answer"]
