"""Large pieces of memory: as the kernels want them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen35.memory import allocate, available_memory, total_memory


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of its pages")
def test_it_is_private_and_asks_for_huge_pages() -> None:
    """Shared memory, which Python's mmap takes by default, is never on huge pages in a usual system."""
    array = np.frombuffer(allocate(64 << 20), np.uint8)
    address = array.ctypes.data
    assert address % 4096 == 0
    for part in re.split(r"\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text()):
        begin, end = (int(number, 16) for number in part.split(maxsplit=1)[0].split("-"))
        if begin <= address < end:
            flags = part.split("VmFlags:")[1].split()
            assert "sh" not in flags
            assert "hg" in flags or not Path("/sys/kernel/mm/transparent_hugepage").exists()
            return
    pytest.fail("the memory is not among the process's own")


def test_it_is_zeroed_and_can_be_written() -> None:
    array = np.frombuffer(allocate(1 << 20), np.uint8)
    assert not array.any()
    array[-1] = 7
    assert array[-1] == 7


def test_what_is_available_is_part_of_the_whole() -> None:
    assert 0 < available_memory() <= total_memory()
