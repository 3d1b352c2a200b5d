"""Both kinds of readers: what comes is what lies in the file, or an error that says why not."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qwen35.experts.store
from qwen35.backends.native.library import Library
from qwen35.backends.native.readers import NativeReaders
from qwen35.errors import CheckpointError
from qwen35.experts.files import ALIGNMENT, RecordFile
from qwen35.experts.readers import LATER_AT_ONCE, Check, Read, Readers
from qwen35.memory import allocate
from qwen35.weights.checksum import checksum

SIZE = 64 * ALIGNMENT


@pytest.fixture(scope="module")
def data() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)


@pytest.fixture
def file(data: NDArray[np.uint8], tmp_path: Path) -> Iterator[RecordFile]:
    (tmp_path / "file").write_bytes(data.tobytes())
    with closing(RecordFile(str(tmp_path / "file"))) as file:
        yield file


@pytest.fixture
def own(readers: str) -> Iterator[Readers]:
    with closing(qwen35.experts.store.ThreadReaders(3)) as own:
        yield own


def reads_of(file: RecordFile, data: NDArray[np.uint8], num_reads: int) -> list[Read]:
    """As many neighbours, which have a check each."""
    length = SIZE // num_reads // ALIGNMENT * ALIGNMENT
    memory = np.frombuffer(allocate(SIZE), np.uint8)
    reads = []
    for begin in range(0, num_reads * length, length):
        part = slice(begin, begin + length)
        check = Check(0, length, checksum(data[part].data), f"part {begin // length}")
        reads.append(Read(file, begin, memory[part], [check]))
    return reads


def test_what_comes_is_what_lies_there(own: Readers, file: RecordFile, data: NDArray[np.uint8]) -> None:
    reads = reads_of(file, data, 16)
    own.submit(reads[:9], is_urgent=True)
    own.submit(reads[9:], is_urgent=False)
    own.hurry(reads)
    own.wait(reads)
    assert all(own.is_done(read) and read.error is None for read in reads)
    assert np.array_equal(np.concatenate([read.memory for read in reads]), data)
    own.wait(reads)  # again: nothing to wait for


class ReadOnce(Read):
    """What is good is not read again by the plain way, which would hide that the library takes it for bad."""

    __slots__ = ()

    def work(self) -> None:
        raise AssertionError("the plain way was taken")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_checks_of_any_parts_are_made(
    readers: str, own: Readers, file: RecordFile, data: NDArray[np.uint8], draw: st.DataObject
) -> None:
    """Also of parts that end within a word; one byte that is not as it should be is found."""
    begin = 8 * draw.draw(st.integers(0, 40))
    end = draw.draw(st.integers(begin + 1, begin + 700))
    memory = np.frombuffer(allocate(ALIGNMENT), np.uint8)
    good = Check(begin, end, checksum(data[begin:end].data), "this part")
    changed = data[begin:end].copy()
    changed[draw.draw(st.integers(0, end - begin - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    bad = Check(begin, end, checksum(changed.data), "that part")

    kind = Read if readers == "threads" else ReadOnce
    fine, damaged = kind(file, 0, memory, [good, good]), Read(file, 0, memory.copy(), [good, bad])
    own.submit([fine, damaged], is_urgent=True)
    own.wait([fine, damaged])

    assert fine.error is None
    assert isinstance(damaged.error, CheckpointError)
    assert "that part is damaged" in str(damaged.error)


def test_what_lies_beyond_the_end_is_said(own: Readers, file: RecordFile) -> None:
    memory = np.frombuffer(allocate(2 * ALIGNMENT), np.uint8)
    read = Read(file, SIZE - ALIGNMENT, memory, [])
    own.submit([read], is_urgent=True)
    own.wait([read])
    assert "became shorter while it was read" in str(read.error)


def test_where_direct_reads_are_refused_it_reads_through_the_system(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    """Addresses that no disk takes directly stand for a file system that refuses all of them."""
    if not file.is_direct:
        pytest.skip("this platform has no direct reads")
    memory = np.frombuffer(allocate(3 * ALIGNMENT), np.uint8)[8 : 8 + 2 * ALIGNMENT]
    read = Read(file, 24, memory, [Check(0, 8, checksum(data[24:32].data), "a word")])
    own.submit([read], is_urgent=True)
    own.wait([read])
    assert read.error is None
    assert np.array_equal(memory, data[24 : 24 + len(memory)])
    again = Read(file, 24, memory, [])
    own.submit([again], is_urgent=True)
    own.wait([again])
    assert again.error is None


def test_cancelled_reads_leave_their_memory_alone(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    for number in range(30):
        reads = reads_of(file, data, 32)
        own.submit(reads, is_urgent=number % 2 == 0)
        own.cancel(reads)
        before = [read.memory.copy() for read in reads]
        for read, left in zip(reads, before, strict=True):
            assert np.array_equal(read.memory, left)
        own.wait(reads)  # nothing to wait for
        own.cancel(reads)


def test_what_is_taken_back_is_never_read_and_the_rest_is(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    taken_at_all = 0
    for number in range(30):
        reads = reads_of(file, data, 32)
        own.submit(reads, is_urgent=number % 2 == 0)
        taken = own.take_back(reads)
        taken_at_all += len(taken)
        untouched = [read.memory.copy() for read in taken]
        rest = [read for read in reads if read not in taken]
        own.wait(rest)
        assert all(own.is_done(read) and read.error is None for read in reads)
        for read, before in zip(taken, untouched, strict=True):
            assert np.array_equal(read.memory, before)
        for read in rest:
            assert np.array_equal(read.memory, data[read.offset : read.offset + len(read.memory)])
        assert own.take_back(reads) == []
    assert taken_at_all


def test_nothing_begins_beside_what_is_waited_for(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    for _ in range(60):
        urgent, *later = reads_of(file, data, 4)
        own.submit([urgent], is_urgent=True)
        own.submit(later, is_urgent=False)
        taken = own.take_back(later)
        assert len(taken) == len(later) or own.is_done(urgent)
        own.submit(taken, is_urgent=False)
        own.wait([urgent])
        own.wait(later)
        came = np.concatenate([read.memory for read in (urgent, *later)])
        assert np.array_equal(came, data[: len(came)])


@pytest.mark.parametrize("readers", ["threads"], indirect=True)  # only these can be held up
def test_it_waits_for_all_that_is_waited_for(own: Readers, file: RecordFile, data: NDArray[np.uint8]) -> None:
    go_on = Event()

    class Slow(Read):
        __slots__ = ()

        def work(self) -> None:
            go_on.wait(20)

    slow, *later = reads_of(file, data, 4)
    slow = Slow(slow.file, slow.offset, slow.memory, [])
    own.submit([slow], is_urgent=True)
    own.submit(later, is_urgent=False)
    time.sleep(0.05)
    assert own.take_back(later) == later
    own.submit(later, is_urgent=False)
    go_on.set()
    own.wait(later)
    assert own.is_done(slow)


def test_what_may_be_needed_later_comes_a_few_at_once(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    most = 0
    for number in range(60):
        reads = reads_of(file, data, 8)
        own.submit(reads, is_urgent=False)
        time.sleep(number * 1e-6)
        taken = own.take_back(reads)
        begun = [read for read in reads if read not in taken and not own.is_done(read)]
        most = max(most, len(begun))
        own.wait(begun)
    assert 0 < most <= LATER_AT_ONCE


@pytest.mark.parametrize("readers", ["native"], indirect=True)  # the others take all reads under one lock
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_while_reads_are_submitted_leaves_none_to_wait_for(
    library: Library, file: RecordFile, data: NDArray[np.uint8], when: str
) -> None:
    class Interrupting:
        """The library, whose caller is interrupted beside its call."""

        def __getattr__(self, name: str) -> object:
            return getattr(library.functions, name)

        def qw_readers_submit(self, *arguments: object) -> int:
            if when == "after":
                library.functions.qw_readers_submit(*arguments)
            raise KeyboardInterrupt

    with closing(NativeReaders(Library(Interrupting(), library.path), 2)) as own:  # type: ignore[arg-type]
        reads = reads_of(file, data, 8)
        with pytest.raises(KeyboardInterrupt):
            own.submit(reads, is_urgent=True)
        own.cancel(reads)
        assert all(own.is_done(read) for read in reads)


@pytest.mark.parametrize("readers", ["native"], indirect=True)  # Python's threads hold on to what they write
def test_readers_that_nobody_closed_end_before_their_memory_does(
    library: Library, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    threads = Path("/proc/self/task")
    before = len(list(threads.iterdir())) if threads.exists() else 0
    for _ in range(20):
        own = NativeReaders(library, 4)
        own.submit(reads_of(file, data, 32), is_urgent=False)
        del own
    assert not threads.exists() or len(list(threads.iterdir())) <= before


def test_closing_waits_for_what_has_begun_and_drops_the_rest(
    own: Readers, file: RecordFile, data: NDArray[np.uint8]
) -> None:
    reads = reads_of(file, data, 64)
    own.submit(reads, is_urgent=False)
    closer = Thread(target=own.close)
    closer.start()
    closer.join(20)
    assert not closer.is_alive()
    left = [read.memory.copy() for read in reads]
    time.sleep(0.05)
    assert all(np.array_equal(read.memory, before) for read, before in zip(reads, left, strict=True))
