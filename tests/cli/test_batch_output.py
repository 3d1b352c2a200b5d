"""The file of a batch: what is in it stays whole, whatever ends the writing, and it is one process's own."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen35.errors import UnwritableError
from qwen35.events import Finished, FinishReason
from qwencli.batch.formats import FORMATS, Form
from qwencli.batch.identity import Identity, Run
from qwencli.batch.output_file import OutputFile
from qwencli.errors import UsageError
from qwencli.render.record import Record, error_dict

RUN = Run("a" * 8, "b" * 8, "c" * 8)
FORMS: tuple[Form, ...] = ("json", "openai", "csv")
ANSWER = 'Two lines,\r\n"quoted", and \N{SNOWMAN}\n'


def write(
    output: OutputFile,
    form: Form,
    number: int,
    *,
    content: int = 0,
    run: Run = RUN,
    fails: bool = False,
    reason: FinishReason = "stop",
) -> None:
    item = f"scans/{number}.png"
    record = Record(Identity(run, f"{content:016x}").id(FORMATS[form].prefix), item, "mini")
    record.take(Finished(reason, ANSWER, ""))
    output.write(item, FORMATS[form].encode(record, error_dict(3, "input", "no", None) if fails else None))


def made(path: Path, form: Form, number: int = 3) -> bytes:
    """An output of so many answers."""
    with OutputFile.open(path, FORMATS[form], RUN) as output:
        for index in range(number):
            write(output, form, index)
    return path.read_bytes()


def state(path: Path, form: Form, numbers: int = 4, **how: Any) -> list[str | None]:
    with OutputFile.open(path, FORMATS[form], RUN, **how) as output:
        return [output.find(f"scans/{number}.png", "0" * 16) for number in range(numbers)]


@pytest.mark.parametrize("form", FORMS)
def test_it_knows_what_is_done(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "out"
    with OutputFile.open(path, FORMATS[form], RUN) as output:
        write(output, form, 0)
        write(output, form, 1, fails=True)
        write(output, form, 2, content=5)
        assert output.find("scans/0.png", "0" * 16) is None  # in this run everything is asked once
    assert state(path, form) == ["answered", "failed", None, None]
    assert state(path, form, retry=["failed"]) == ["answered", None, None, None]
    with OutputFile.open(path, FORMATS[form], RUN) as output:
        assert output.found.num_items == 2  # what is to be asked again is gone
        assert output.find("scans/2.png", f"{5:016x}") == "answered"


@pytest.mark.parametrize("form", FORMS)
def test_it_may_be_cut_off_anywhere(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "out"
    whole = made(path, form)
    header = FORMATS[form].header
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 61), *(end + near for end in ends for near in (-1, 0, 1))}):
        path.write_bytes(whole[:length])
        num_done = sum(value is not None for value in state(path, form))
        mended = path.read_bytes()
        assert mended == header if num_done == 0 else whole.startswith(mended)
        assert whole[: len(mended)] == mended
        assert len(mended) <= max(length, len(header))
        with OutputFile.open(path, FORMATS[form], RUN) as output:
            for number in range(num_done, 3):
                write(output, form, number)
        assert state(path, form) == ["answered"] * 3 + [None]


def test_what_a_power_cut_leaves_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "out"
    whole = made(path, "json")
    path.write_bytes(whole + b'{"schema_version": 1, "id"' + bytes(1000))
    with OutputFile.open(path, FORMATS["json"], RUN) as output:
        assert output.found.torn_bytes == 1026
    assert path.read_bytes() == whole
    path.write_bytes(whole + bytes(5000))
    assert len([value for value in state(path, "json") if value]) == 3
    assert path.read_bytes() == whole


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "out"
    whole = made(path, form)
    damaged = whole.replace(b"mini", b"mi\0ni") if form != "csv" else whole.replace(b",mini,", b",", 1)
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="is not what `qwen batch` writes"):
        OutputFile.open(path, FORMATS[form], RUN)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("form", FORMS)
def test_a_later_line_replaces_an_earlier_one(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "out"
    other = Run("f" * 8, "b" * 8, "c" * 8)
    made(path, form)
    with OutputFile.open(path, FORMATS[form], other, append=True) as output:
        write(output, form, 0, run=other)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with OutputFile.open(link, FORMATS[form], RUN, append=True) as output:
        write(output, form, 0, content=9)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    with OutputFile.open(path, FORMATS[form], RUN, append=True) as output:
        assert (output.found.num_items, output.found.num_others) == (3, 1)
        assert output.find("scans/0.png", f"{9:016x}") == "answered"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "out"]


def test_one_that_was_killed_before_it_replaced_a_line_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "out"
    made(path, "json")
    (tmp_path / ".out.new").write_text("half")
    output = OutputFile.open(path, FORMATS["json"], RUN)
    write(output, "json", 0, content=9)
    output.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(path.read_text().splitlines()) == 4
    assert state(path, "json") == [None, "answered", "answered", None]
    assert len(path.read_text().splitlines()) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_second_process_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    path = tmp_path / "out"
    program = f"""
import sys, tests.cli.test_batch_output as t
with t.OutputFile.open(t.Path({str(path)!r}), t.FORMATS["json"], t.RUN) as output:
    t.write(output, "json", 0)
    t.write(output, "json", 0, content=1)
    output._rewrite(drop_failed=False)
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for how in ({}, {"overwrite": True}):
            with pytest.raises(UnwritableError, match="another `qwen batch` is writing to it"):
                OutputFile.open(path, FORMATS["json"], RUN, **how)
        process.kill()
    assert state(path, "json")[0] is None
    assert len(path.read_text().splitlines()) == 1


@pytest.fixture
def _no_room() -> Iterator[None]:
    """A limit on the size of files, which stands for a full disk: no more than 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_no_room")
@pytest.mark.parametrize("form", FORMS)
def test_where_there_is_no_room_what_is_there_stays_whole(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "out"
    num_written = 0

    def write_many() -> None:
        nonlocal num_written
        with OutputFile.open(path, FORMATS[form], RUN) as output:
            for number in range(100):
                write(output, form, number)
                num_written += 1

    with pytest.raises(UnwritableError, match=os.strerror(errno.EFBIG)):
        write_many()
    assert num_written > 0
    assert path.read_bytes().endswith(b"\n")
    assert state(path, form, num_written + 1) == ["answered"] * num_written + [None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reason", ["length", "loop", "schema"])
def test_an_incomplete_answer_stays_until_its_item_has_a_new_one(
    tmp_path: Path, form: Form, reason: FinishReason
) -> None:
    path = tmp_path / "out"
    with OutputFile.open(path, FORMATS[form], RUN) as output:
        write(output, form, 0)
        write(output, form, 1, reason=reason)
        write(output, form, 2, reason=reason)
        write(output, form, 3, fails=True)
    before = path.read_bytes()
    assert state(path, form) == ["answered", "incomplete", "incomplete", "failed"]
    assert state(path, form, retry=["incomplete"]) == ["answered", None, None, "failed"]
    assert path.read_bytes() == before
    with OutputFile.open(path, FORMATS[form], RUN, retry=["incomplete"]) as output:
        write(output, form, 1)
    assert state(path, form) == ["answered", "answered", "incomplete", "failed"]
    assert [path.read_bytes().count(b"scans/%d.png" % number) for number in range(4)] == [1, 1, 1, 1]
    assert state(path, form, retry=["incomplete", "failed"]) == ["answered", "answered", None, None]


def test_a_line_of_each_form_says_the_same(tmp_path: Path) -> None:
    for form in FORMS:
        path = tmp_path / form
        made(path, form, 1)
        with path.open("rb") as file:
            *_, line = FORMATS[form].lines(file)
        decoded = FORMATS[form].decode(line)
        assert (decoded.item, decoded.done_as, decoded.model) == ("scans/0.png", "answered", "mini")
    values = json.loads((tmp_path / "openai").read_text())
    assert values["response"]["body"]["choices"][0]["message"]["content"] == ANSWER
