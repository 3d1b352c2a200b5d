import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Contender, Run
from benchmarks.job import Job, prompt_ids

OPTIONS = Namespace(rounds=2, threads=1, probe_gb=0.001)


def test_a_run_that_fails_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "read_bandwidth", lambda *_: 1e9)
    broken = Contender("broken", "qwen", sys.executable, Job("decode", "nowhere", 1))
    assert harness.take_turns([broken], OPTIONS, lambda run: "") == []
    err = capsys.readouterr().err
    assert err.count("FAILED: ") == 2
    assert "nowhere" in err


def test_turns_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    bandwidths = iter([1e9, 3e9, 5e9, 7e9, 9e9])
    monkeypatch.setattr(harness, "read_bandwidth", lambda *_: next(bandwidths))
    monkeypatch.setattr(harness, "run_process", lambda contender: {"name": contender.name})
    contenders = [Contender(name, "qwen", "", Job("decode", "", 1)) for name in "ab"]
    runs = harness.take_turns(contenders, OPTIONS, lambda run: "")
    assert [(run.round, run.name) for run in runs] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert [run.bandwidth for run in runs] == [2e9, 4e9, 6e9, 8e9]


def test_figures_are_medians_with_their_range() -> None:
    assert harness.spread([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"
    assert harness.spread([2.0]) == "2.0"
    assert harness.spread([]) == "-"
    assert harness.ratio([3.0], [2.0]) == "1.50"
    assert harness.ratio([3.0], []) == "-"


def test_a_table_is_markdown_whose_columns_line_up() -> None:
    table = harness.markdown(("engine", "n"), [("a", "1"), ("longer name", "10")])
    assert table.splitlines() == [
        "| engine      |  n |",
        "| :---------- | -: |",
        "| a           |  1 |",
        "| longer name | 10 |",
    ]


def test_a_file_leaves_the_cache_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10000)
    harness.drop_from_cache([path])
    assert path.read_bytes() == b"x" * 10000


def test_prompts_are_the_same_for_every_engine() -> None:
    job = Job("decode", "", 1, vocab_size=1000)
    assert (prompt_ids(job, 50, 3) == prompt_ids(job, 50, 3)).all()
    assert prompt_ids(job, 50, 3).max() < 800


def test_a_run_belongs_to_its_contender() -> None:
    contender = Contender("a", "qwen", "", Job("decode", "", 1))
    runs = [Run("a", 1, 0.1, 1e9, {}), Run("b", 1, 0.1, 1e9, {})]
    assert harness.of(runs, contender) == runs[:1]
