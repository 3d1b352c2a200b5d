"""`qwen batch` from its inputs to its output, in one process, with the built-in model."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.batches import QUICK, records
from tests.cli.conftest import Invoke
from tests.cli.test_bad_input import KEYS

OUT = Path("out.jsonl")
ASK = "how many shapes?"  # the answer has two tokens


def test_each_file_of_a_folder_has_a_line_in_the_schema_of_ask(batch: Invoke, scans: Path) -> None:
    result = batch(scans, "what colour is the circle in {name}?", "-o", OUT)
    assert (result.code, result.out) == (6, "")
    found = records(OUT)
    names = ("more/scan002.png", "scan000.png", "scan001.png", "scan003.png", "torn.png")
    assert sorted(found) == [f"scans/{name}" for name in names]
    assert len({line["id"] for line in found.values()}) == 5
    for line in found.values():
        assert list(line) == KEYS
        assert line["model"] == "mini"
    good = found["scans/scan000.png"]
    assert good["error"] is None
    assert good["answer"]
    assert good["attachments"][0]["source"] == "scans/scan000.png"
    bad = found["scans/torn.png"]
    assert (bad["answer"], bad["finish_reason"], bad["error"]["kind"]) == (None, "error", "input")
    assert "scans/torn.png: is a PNG image, but damaged" in bad["error"]["message"]
    assert "note: 1 file left out" in result.err
    assert "(.db)" in result.err
    assert "note: failed: scans/torn.png" in result.err
    assert "4 of 5 items answered, 1 failed" in result.err


def test_an_answer_is_the_one_that_ask_gives(batch: Invoke, invoke: Invoke, scans: Path) -> None:
    batch(scans, ASK, "-o", OUT, "--batch-size", 3)
    for item, line in records(OUT).items():
        if line["error"] is None:
            assert invoke("ask", item, ASK, *QUICK, "--no-cache").out == f"{line['answer']}\n"


def test_the_output_is_no_item_and_no_input(batch: Invoke, scans: Path) -> None:
    out = scans / "notes.md"
    assert batch(scans, ASK, "-o", out).code == 6
    assert "5 were done before" in batch(scans, ASK, "-o", out).err
    items = Path("items.jsonl")
    items.write_text('{"prompt": "hello"}\n')
    result = batch(items, "-o", items, "--overwrite")
    assert (result.code, "items.jsonl: is an input" in result.err) == (2, True)
    assert items.read_text() == '{"prompt": "hello"}\n'


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "There are no items. Name a folder"),
        (("describe",), 2, "There are no items to ask 'describe' about"),
        (("scans",), 2, "'scans' is an input, and there is no question. Ask one: qwen batch scans"),
        (("scans/scan000.png",), 2, "is an input, and there is no question. Ask one: qwen batch"),
        (("scans", " "), 3, "The question is empty"),
        (("nowhere", ASK), 3, "nowhere: no such file"),
        (("nowhere/*.png", ASK), 3, "nowhere/*.png: matches no file"),
        (("x" * 5000, ASK), 3, "File name too long"),
        (
            ("scans", "--include", "*.xyz", ASK),
            3,
            "There are no items: none of the 6 files in scans passes --include '*.xyz'",
        ),
        (("scans/*0.png", "--exclude", "*", ASK), 3, "the only file in scans/*0.png does not pass --exclude"),
        (("empty", ASK), 3, "There are no items: empty holds none"),
        (("none.jsonl",), 3, "There are no items: none.jsonl is empty"),
        (("-", ASK), 3, "There are no items: standard input named none"),
        (("scans", "describe {stme}"), 2, "No item has {stme}. Did you mean {stem}? There is {name}"),
        (("scans", ASK, "--append", "--overwrite"), 2, "Of --append and --overwrite, only one can be given"),
        (("scans", ASK, "-q", "-v"), 2, "Of -q and -v, only one can be given"),
        (("scans", ASK, "--as", "csv", "--format", "openai"), 2, "Of --format and --as, only one can be"),
        (("scans", ASK, "--retry-failed"), 2, "are for answers in a file"),
        (("scans", ASK, "--batch-size", "0"), 2, "not a whole number of at least 1"),
        (("scans", ASK, "--format", "xml"), 2, "'xml' is none of json, openai"),
        (("scans", ASK, "-o", "no/folder/out"), 9, "no/folder/out: cannot be written (No such file"),
        (("scans", ASK, "-o", "scans/more"), 9, "scans/more: cannot be written (Is a directory)"),
        (("scans", ASK, "-o", "x" * 5000), 9, "cannot be written (File name too long)"),
        (("scans", ASK, "-m", "nobody"), 4, "nobody: no such model"),
        (("scans", ASK, "--fps", "1", "--frames", "2"), 2, "only one can be given"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    invoke: Invoke, scans: Path, words: tuple, code: int, message: str
) -> None:
    Path("empty").mkdir()
    Path("none.jsonl").touch()
    result = invoke("batch", "-m", "mini", *words)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("out", [(), ("-o", "-")])
def test_what_cannot_be_gone_on_with_is_not_said_to_be(
    batch: Invoke, scans: Path, out: tuple[str, ...]
) -> None:
    result = batch("scans", "describe", *out, "--limit", 1)
    assert len(result.out.splitlines()) >= 1
    assert not Path("-").exists()
    assert "1 answer is incomplete: 'finish_reason' says why\n" in result.err
    assert "with -o FILE the same command goes on where it stopped, and can ask again" in result.err
    assert "--retry" not in result.err


def test_without_a_file_lines_go_to_standard_output(batch: Invoke, scans: Path) -> None:
    result = batch("scans/scan000.png", "scans/scan001.png", ASK)
    assert result.code == 0
    assert [json.loads(line)["item"] for line in result.out.splitlines()] == [
        "scans/scan000.png",
        "scans/scan001.png",
    ]


def test_a_table_can_be_gone_on_with(batch: Invoke, scans: Path) -> None:
    out = Path("out.csv")
    words = (scans, 'how many "shapes, if any?"', "-o", out, "--as", "csv")
    batch(*words, "--limit", 2)
    batch(*words)
    with out.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["item"])
    assert len(rows) == 5
    assert [row["finish_reason"] == "error" for row in rows] == [False] * 4 + [True]
    assert "damaged" in rows[-1]["error"]
    assert "5 were done before" in batch(*words).err


def test_a_table_copes_with_names_and_answers_of_all_kinds(batch: Invoke, home: Path) -> None:
    lines = [{"id": "half \ud800", "prompt": "hello"}, {"id": "long" * 50_000, "prompt": "hello"}]
    lines += [{"id": "zero \0", "prompt": "hello"}, {"id": "last", "prompt": "hello"}]
    Path("items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("items.jsonl", "-o", "out.csv", "--as", "csv", "--batch-size", 1)
    assert batch(*words).code in (0, 7)
    assert "4 were done before" in batch(*words).err


def test_a_table_has_the_columns_of_the_schema(invoke: Invoke, scans: Path) -> None:
    out = Path("out.csv")
    schema = {
        "type": "object",
        "properties": {
            "id": {"enum": ["x,1"]},
            "shop": {"type": "object", "properties": {"open": {"const": True}}, "required": ["open"]},
            "tags": {"type": "array", "items": {"const": "a"}, "minItems": 2, "maxItems": 2},
        },
        "required": ["id", "shop", "tags"],
    }
    words = ("batch", scans, "what?", "-o", out, "--as", "csv")
    invoke(*words, "--schema", json.dumps(schema), "--limit", 2)
    invoke(*words, "--schema", json.dumps(schema))
    with out.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["item"])
    assert len(rows) == 5
    table = [(row["data.id"], row["shop.open"], row["tags"]) for row in rows]
    assert table == [("x,1", "true", '["a", "a"]')] * 4 + [("", "", "")]
    assert invoke(*words).code == 2  # another form


def test_the_limit_counts_what_is_asked(batch: Invoke, scans: Path) -> None:
    assert "2 of 5 items answered, 3 left" in batch(scans, ASK, "-o", OUT, "--limit", 2).err
    assert len(records(OUT)) == 2
    assert "1 of 5 items answered, 2 were done before, 2 left" in (
        batch(scans, ASK, "-o", OUT, "--limit", 1).err
    )


def test_the_summary_is_an_object_for_programs(batch: Invoke, scans: Path) -> None:
    result = batch(scans, ASK, "-o", OUT, "--json", "-q")
    assert (result.code, result.err) == (6, "")
    values = json.loads(result.out)
    counts = {
        name: values[name] for name in ("items", "answered", "failed", "skipped", "incomplete", "interrupted")
    }
    assert counts == {
        "items": 5,
        "answered": 4,
        "failed": 1,
        "skipped": 0,
        "incomplete": 0,
        "interrupted": False,
    }
    found = [line["usage"] for line in records(OUT).values()]
    for name in ("prompt_tokens", "completion_tokens"):
        assert values["usage"][name] == sum(usage[name] for usage in found)
    failed = batch(scans, "describe {x}", "-o", OUT, "--json")
    assert json.loads(failed.out)["error"]["kind"] == "usage"


def test_answers_that_were_cut_exit_with_7(batch: Invoke, scans: Path) -> None:
    result = batch("scans/scan000.png", "describe", "-o", OUT)
    assert result.code == 7
    assert "1 answer is incomplete" in result.err


def test_a_dry_run_estimates_by_the_speed_of_the_last_batch(
    batch: Invoke, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scans / "torn.png").unlink()
    first = batch(scans, ASK, "-o", OUT, "--dry-run", "--json")
    values = json.loads(first.out)
    assert (values["items"], values["to_do"], values["seconds"], OUT.exists()) == (4, 4, None, False)
    assert values["looked_at"] == 4
    assert values["prompt_tokens"] > values["image_tokens"] > 0
    assert "this model has run no batch here" in batch(scans, ASK, "--dry-run").out
    batch(scans, ASK, "-o", OUT, "--limit", 3)
    monkeypatch.setattr("qwencli.runtime.load", None)
    after = json.loads(batch(scans, ASK, "-o", OUT, "--dry-run", "--json").out)
    assert (after["done"], after["to_do"]) == (3, 1)
    cost = after["prompt_tokens"] + after["answer_tokens"]
    assert after["seconds"] == pytest.approx(cost / after["tokens_per_s"])
    report = batch(scans, ASK, "-o", OUT, "--dry-run").out
    assert "4 (3 in the output already); 1 to ask" in report
    assert "<|im_start|>user" in report
    other = batch(scans, "what is it?", "-o", OUT, "--dry-run")
    assert "out.jsonl: holds 3 answers of another question, and would be refused" in other.err


def test_a_dry_run_knows_what_is_left(batch: Invoke, scans: Path) -> None:
    lines = [{"image": f"scans/scan00{number}.png", "prompt": "what?"} for number in (0, 1, 3)]
    Path("items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {}, {}]))

    def counts(*words: object) -> list[int]:
        told = json.loads(batch("items.jsonl", "-o", OUT, "--dry-run", "--json", *words).out)
        return [told[name] for name in ("items", "done", "bad_items", "to_do")]

    assert counts() == [5, 0, 2, 3]
    assert counts("--limit", 2) == [5, 0, 2, 2]
    batch("items.jsonl", "-o", OUT)
    assert counts() == [5, 5, 0, 0]
    assert counts("--retry-failed") == [5, 3, 2, 0]
    shutil.copy2(scans / "scan001.png", scans / "scan000.png")
    (scans / "scan003.png").touch()
    assert counts() == [5, 4, 0, 1]
    lines[1]["prompt"] = "how many?"
    Path("items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert counts() == [3, 1, 0, 2]
    Path("items.jsonl").rename("others.jsonl")
    shutil.copy("others.jsonl", "items.jsonl")
    told = json.loads(batch("others.jsonl", "-o", OUT, "--dry-run", "--json").out)
    assert (told["done"], told["to_do"]) == (0, 3)


def test_the_examples_run_as_shown(home: Path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    shutil.copytree(examples, "examples")
    text = (examples / "README.md").read_text()
    commands = re.findall(r"^ {4}(.*qwen batch .*)$", text, re.MULTILINE)
    assert len(commands) == 4
    environment = os.environ | {"QWEN_MODEL": "mini", "QWEN_MAX_TOKENS": "200"}
    for command in commands:
        line = command.partition(" | jq")[0].replace("qwen", f'"{sys.executable}" -m qwencli')
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert set(records(Path("answers.jsonl"))) == {"shapes", "receipt"}
    assert records(Path("answers.jsonl"))["shapes"]["answer"] == "3"
    with Path("answers.csv").open(newline="") as file:
        items = {row["item"] for row in csv.DictReader(file)}
    assert items == {f"examples/{path.name}" for path in examples.glob("*.png")}
    assert len(Path("completions.jsonl").read_text().splitlines()) == 2
    assert json.loads(done.stdout)["item"] == "examples/shapes.png"


def test_the_help_names_every_exit_code_and_fits(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = invoke("batch", "--help").out
    assert max(map(len, out.splitlines())) <= 80
    assert "0 all answered, 6 some items failed, 7 some answers incomplete" in " ".join(out.split())


def test_figures_are_shown_on_request(batch: Invoke, scans: Path) -> None:
    result = batch(scans, ASK, "-o", OUT, "-v", "--batch-size", "3")
    assert "rows    3 at a time" in result.err
    assert "prompt tokens" in result.err


def test_text_around_pictures_is_shared(batch: Invoke, scans: Path) -> None:
    batch(scans, ASK, "-o", OUT, "-s", "one two three four five six seven eight nine ten " * 8)
    cached = [line["usage"]["cached_tokens"] for line in records(OUT).values() if not line["error"]]
    assert sorted(cached)[0] == 0
    assert sorted(cached)[1] > 50


def test_rows_fit_into_the_device_that_their_states_are_brought_to(
    batch: Invoke, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "rows    1 at" not in batch(scans, ASK, "-o", OUT, "-v").err
    monkeypatch.setattr("qwen35.backends.native.backend.NativeBackend.device_room", lambda self: 1000)
    assert "rows    1 at" in batch(scans, ASK, "-o", "again.jsonl", "-v").err
