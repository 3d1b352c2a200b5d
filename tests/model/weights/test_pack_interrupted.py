"""A pack that is killed, crowded out or doubled: nothing half-written passes for whole, and it goes on."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen35.errors import CheckpointError
from qwen35.weights.layout import TEXT
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel
from qwen35.weights.verify import verify
from qwen35.weights.work_folder import UnwritableError, WorkFolder
from tests.model.reference import MOE
from tests.model.weights.packing import contents, large_checkpoint, read_tensors, rewrite, tiny_checkpoint

MODEL = Path(__file__).resolve().parents[3] / "model"

linux_alone = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("interrupted") / "source", MOE)


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    """An uninterrupted pack."""
    return contents(pack(source, source.parent / "expected").folder)


def assert_nothing_passes_for_whole(target: Path) -> None:
    """Neither the target nor anything in its work folder opens as a model or is found as one."""
    parent = target.parent
    assert not target.exists()
    assert not [*parent.glob("*/config.json"), *parent.glob("*/*/config.json")]
    for folder in (WorkFolder.beside(target).root, WorkFolder.beside(target).files):
        if folder.exists():
            with pytest.raises(CheckpointError, match=r"manifest\.json: no such file"):
                PackedModel.open(folder)


def start(source: Path, target: Path, code: str = "") -> subprocess.Popen[bytes]:
    script = (
        "import sys, time; from pathlib import Path; from qwen35.weights.pack import pack\n"
        "print('ready', flush=True)\n"
        f"pack(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=lambda stage, *_: {code or 'None'})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(target)],
        env={"PYTHONPATH": str(MODEL)},
        stdout=subprocess.PIPE,
    )


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Its imports are done."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()


@linux_alone
def test_ten_kills_at_random_moments(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """kill -9 of a real process, each of which goes on where the one before it stopped."""
    moments = random.Random(1)
    target, journal = tmp_path / "out", WorkFolder.beside(tmp_path / "out").journal
    lengths = []
    for _ in range(10):
        process = start(source, target, "stage == 'packing' and time.sleep(0.008)")  # two seconds in all
        wait_until_ready(process)
        time.sleep(moments.uniform(0, 0.25))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert_nothing_passes_for_whole(target)
        lengths.append(journal.stat().st_size if journal.exists() else 0)

    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    packed = pack(source, target)
    assert packed.num_resumed > 0
    verify(target)
    assert contents(target) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# For each COUNT TARGET: a process that ends, as by kill -9, when it changes the disk for the COUNT-th time.
KILLED_AT = """
import os, shutil, sys
from pathlib import Path
from qwen35.weights import pack as packing, work_folder

def counted(owner, name):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        global steps
        steps += 1
        if steps == count:
            os._exit(9)
        return function(*args, **kwargs)
    setattr(owner, name, call)

source, *pairs = sys.argv[1:]
for count, target in zip(map(int, pairs[::2]), pairs[1::2]):
    pid = os.fork()
    if not pid:
        steps = 0
        for owner, names in ((work_folder.DataFile, "write begin"), (work_folder.Journal, "add cut"),
                             (Path, "rename replace rmdir unlink mkdir"), (shutil, "rmtree"), (os, "fsync")):
            for name in names.split():
                counted(owner, name)
        packing.pack(Path(source), Path(target), num_threads=1)
        print(steps, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def run_killed(source: Path, counts: dict[Path, int]) -> list[int]:
    """Pack into each target, killed at that step. Returns the steps that the others took."""
    words = [word for target, count in counts.items() for word in (str(count), str(target))]
    run = [sys.executable, "-c", KILLED_AT, str(source), *words]
    env = {"PYTHONPATH": str(MODEL)}
    out = subprocess.run(run, check=True, capture_output=True, text=True, env=env).stdout
    return [int(line) for line in out.splitlines()]


@linux_alone
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step(source: Path, expected: dict[str, bytes], tmp_path: Path, every: int) -> None:
    """Here and there while weights are written, then at steps of the end: checksums, manifest, rename."""
    (num_steps,) = run_killed(source, {tmp_path / "whole": 0})
    counts = {tmp_path / str(count): count for count in range(1, num_steps - 50, 130)}
    near_the_end = tmp_path / "near"
    assert run_killed(source, counts | {near_the_end: num_steps - 45}) == []
    near = WorkFolder.beside(near_the_end)

    def copy_of(name: str) -> Path:
        work = WorkFolder.beside(tmp_path / name)
        shutil.copytree(near.root, work.root)
        (work.files.parent / near.files.name).rename(work.files)
        return tmp_path / name

    (num_at_end,) = run_killed(source, {copy_of("rest"): 0})
    assert 40 < num_at_end < 60
    end = {copy_of(f"end-{count}"): count for count in range(num_at_end, 0, -every)}
    assert run_killed(source, end) == []
    for target in (*counts, near_the_end, *end):
        work = WorkFolder.beside(target)
        if target.exists():  # the rename was done: then it is whole
            verify(target)
        else:
            inside = (work.root, *work.root.glob("*"))
            assert not any((folder / "config.json").exists() for folder in inside)
        assert contents(pack(source, target).folder) == expected
        assert not work.root.exists()


def interrupt(source: Path, target: Path, after: int) -> None:
    """Stop a pack in this process after some slabs."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, target, on_progress=count)


def test_ctrl_c_keeps_what_is_done(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out", after=100)
    stages: list[str] = []

    packed = pack(source, tmp_path / "out", on_progress=lambda stage, *_: stages.append(stage))

    assert packed.num_resumed >= 50
    assert stages.count("checking") == packed.num_resumed
    assert contents(packed.folder) == expected


@pytest.mark.parametrize("damage", ["bit", "short", "missing", "journal cut", "journal broken"])
def test_what_the_journal_claims_is_checked(
    source: Path, expected: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    interrupt(source, tmp_path / "out", after=100)
    work = WorkFolder.beside(tmp_path / "out")
    data, lines = work.files / TEXT, work.journal.read_bytes().splitlines(keepends=True)
    content = data.read_bytes()
    if damage == "bit":
        data.write_bytes(content[:20000] + bytes([content[20000] ^ 8]) + content[20001:])
    elif damage == "short":
        data.write_bytes(content[:20000])
    elif damage == "missing":
        data.unlink()
    elif damage == "journal cut":
        work.journal.write_bytes(b"".join(lines[:30]) + lines[30][:20])
    else:
        work.journal.write_bytes(b"".join([*lines[:30], b"nonsense\n", *lines[31:]]))

    packed = pack(source, tmp_path / "out")

    assert packed.num_resumed < len(lines) - 1
    assert (packed.num_resumed == 0) == (damage == "missing")
    assert contents(packed.folder) == expected


def test_an_unfinished_pack_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "out", after=50)
    before = contents(tmp_path)

    with pytest.raises(UnwritableError, match=r"\.out\.packing: holds an unfinished pack of another model"):
        pack(source, tmp_path / "out", "q8")
    other = tiny_checkpoint(tmp_path / "other" / "source", MOE)
    rewrite(other, read_tensors(other))
    with pytest.raises(UnwritableError, match="or of a source that has changed"):
        pack(other, tmp_path / "out")

    assert {
        name: data for name, data in contents(tmp_path).items() if not name.startswith("other/")
    } == before


@linux_alone
def test_a_second_pack_to_the_same_folder_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = start(source, target, "time.sleep(60)")
    try:
        wait_until_ready(first)
        while not WorkFolder.beside(target).journal.exists():
            assert first.poll() is None
            time.sleep(0.01)
        with pytest.raises(UnwritableError, match=r"out: is being packed by another process\. Wait for it"):
            pack(source, target)
    finally:
        first.kill()
        first.wait()
    verify(pack(source, target).folder)  # the lock went with the process


@linux_alone
def test_many_at_once_leave_one_whole_model(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    target = tmp_path / "out"
    processes = [start(source, target) for _ in range(3)]
    for process in processes:
        wait_until_ready(process)
    codes = [process.wait() for process in processes]
    assert 0 in codes
    assert contents(target) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for half of a packed model; more with `remount`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs Linux, and the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_what_is_packed_is_kept(
    source: Path, expected: dict[str, bytes], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnwritableError, match=r"0\.03 GB are needed, 0\.00 GB are free\. Make room"):
        pack(source, small_disk / "out")
    with monkeypatch.context() as patch:
        patch.setattr("qwen35.weights.pack._check_room", lambda *_: None)  # somebody else takes the rest
        with pytest.raises(
            UnwritableError, match=r"the disk is full \(No space left .*What is packed so far"
        ):
            pack(source, small_disk / "out")
    assert_nothing_passes_for_whole(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)

    packed = pack(source, small_disk / "out")

    assert packed.num_resumed > 10
    assert contents(packed.folder) == expected


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="permissions as on Linux")
def test_a_folder_that_cannot_be_written_is_said(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnwritableError, match=r"cannot be written \(Not a directory\)"):
        pack(source, tmp_path / "file" / "out")


@pytest.mark.slow
@linux_alone
def test_ten_kills_of_a_larger_model(source: Path, tmp_path: Path) -> None:
    """At full speed, with slabs in several threads."""
    sizes = {"hidden_size": 256, "vocab_size": 120_000, "num_experts": 64, "moe_intermediate_size": 64}
    large = large_checkpoint(source, tmp_path / "source", **sizes)
    began = time.monotonic()
    first = start(large, tmp_path / "whole")
    wait_until_ready(first)
    assert first.wait() == 0
    whole_s = time.monotonic() - began
    whole = contents(tmp_path / "whole")
    moments = random.Random(2)
    for _ in range(10):
        process = start(large, tmp_path / "out")
        wait_until_ready(process)
        time.sleep(moments.uniform(0, whole_s / 4))
        process.kill()
        process.wait()
    verify(pack(large, tmp_path / "out").folder)
    assert contents(tmp_path / "out") == whole
