"""How much memory there is, and large pieces of it as the kernels want them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen35.memory import (
    allocate,
    available_memory,
    memory_limit,
    release,
    resident_memory,
    total_memory,
    usable_memory,
)


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


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_limit_of_all_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Control groups: /proc/meminfo knows no container's limit, and cached pages of files are no use."""
    own = tmp_path / "own"
    own.write_text("5:cpu:/elsewhere\n4:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n")
    root = tmp_path / "memory" if version == 1 else tmp_path
    limit, used, inactive = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    for name, bytes_limit in (("outer", 4_000_000), ("outer/inner", 2_000_000)):
        (root / name).mkdir(parents=True)
        (root / name / limit).write_text(f"{bytes_limit}\n")
        (root / name / used).write_text("900000\n")
        active = inactive.replace("inactive", "active")
        (root / name / "memory.stat").write_text(f"rss 7\n{inactive} 300000\n{active} 200000\n")
    monkeypatch.setattr("qwen35.memory._CGROUPS", tmp_path)
    monkeypatch.setattr("qwen35.memory._OWN_CGROUPS", own)
    assert memory_limit() == usable_memory() == 2_000_000
    assert available_memory() == 2_000_000 - 400_000
    unlimited = "9223372036854771712" if version == 1 else "max"
    for name in ("outer", "outer/inner"):
        (root / name / limit).write_text(unlimited)
    assert memory_limit() is None
    assert usable_memory() == total_memory()
    assert available_memory() > 10**8


def test_released_pages_are_the_system_s_again() -> None:
    memory = allocate(64 << 20)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    full = resident_memory()
    release(memory, 16 << 20, 48 << 20)
    if sys.platform == "linux":  # elsewhere it may take its time
        assert full - resident_memory() > 24 << 20
        assert not array[16 << 20 : 48 << 20].any()
    assert array[: 16 << 20].all()
    assert array[48 << 20 :].all()
