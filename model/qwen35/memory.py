"""How much memory this machine has, and large pieces of it."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_LARGE = 1 << 17  # bytes from which memory is asked of the system itself


def total_memory() -> int:
    """Bytes of RAM."""
    return _from_system("MemTotal", "total")


def available_memory() -> int:
    """Bytes that may be taken without pushing others out, or beyond the limit set on this process."""
    available = _from_system("MemAvailable", "available")
    return max(0, min([available, *(limit - used for limit, used in _limits())]))


def memory_limit() -> int | None:
    """The least limit that control groups (a container, a service) set on this process; None: none."""
    return min((limit for limit, _ in _limits()), default=None)


def usable_memory() -> int:
    """Bytes of RAM, or of the least limit on this process."""
    return min(total_memory(), memory_limit() or total_memory())


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
    import psutil

    return int(psutil.Process().memory_info().rss)


def allocate(num_bytes: int) -> mmap.mmap:
    """Zeroed memory at a page's start, on huge pages where the system has them for whoever asks.

    Raises OSError, ValueError, MemoryError or OverflowError where there is none.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, num_bytes)
    # Private: mmap's default is shared memory, which Linux keeps on small pages unless told otherwise.
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def zeroed(num_bytes: int) -> mmap.mmap | bytearray:
    """Zeroed memory that arrays may be made of, at least a byte: a large one as `allocate` gives it.

    The first use of a page takes some 10 microseconds on a virtual machine: 3 ms a megabyte where they are
    small, a tenth of that where they are huge. Raises MemoryError.
    """
    num_bytes = max(1, num_bytes)
    if num_bytes < _LARGE:
        return bytearray(num_bytes)
    try:
        return allocate(num_bytes)
    except OSError as error:
        raise MemoryError(f"no memory for {num_bytes:,} bytes") from error


def release(memory: mmap.mmap, begin: int, end: int) -> None:
    """Give the whole pages between to the system; what `allocate` gave reads as zeros there from now on."""
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def keep_memory() -> None:
    """Let the C library keep what arrays free, instead of giving it back and asking again, page by page.

    For a process that makes many large arrays and ends. Linux with glibc; elsewhere nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3)
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None:
        mallopt(mmap_threshold, 1 << 25)
        mallopt(trim_threshold, (1 << 31) - 1)


def _limits() -> Iterator[tuple[int, int]]:
    """Limit and use of each control group around this process that has a limit; its caches are not use."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, limit, used = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers == "":
            root, limit, used = _CGROUPS, "memory.max", "memory.current"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            with suppress(OSError, LookupError, ValueError):  # "max", or not visible from inside
                bytes_limit = int((folder / limit).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
                prefix = "total_" if "total_inactive_file" in stat else ""  # version 1, with the groups below
                # Active too, where whatever is read twice goes: all of it makes room, as in MemAvailable.
                cached = sum(int(stat.get(f"{prefix}{kind}_file", "0")) for kind in ("inactive", "active"))
                if bytes_limit < 1 << 60:  # version 1 says "none" in a large number
                    yield bytes_limit, int((folder / used).read_text(encoding="ascii")) - cached


def _from_system(name: str, name_elsewhere: str) -> int:
    with suppress(OSError, LookupError, ValueError):  # Linux says it itself; psutil costs 50 ms to import
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return 1024 * int(text.split(f"{name}:")[1].split()[0])
    import psutil

    return int(getattr(psutil.virtual_memory(), name_elsewhere))
