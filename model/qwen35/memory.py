"""How much memory this machine has, and large pieces of it."""

import mmap
from contextlib import suppress
from pathlib import Path


def total_memory() -> int:
    """Bytes of RAM."""
    return _from_system("MemTotal", "total")


def available_memory() -> int:
    """Bytes that may be taken without pushing others out."""
    return _from_system("MemAvailable", "available")


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


def _from_system(name: str, name_elsewhere: str) -> int:
    with suppress(OSError, LookupError, ValueError):  # Linux says it itself; psutil costs 50 ms to import
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return 1024 * int(text.split(f"{name}:")[1].split()[0])
    import psutil

    return int(getattr(psutil.virtual_memory(), name_elsewhere))
