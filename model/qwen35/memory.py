"""How much memory this machine has."""

from contextlib import suppress
from pathlib import Path


def total_memory() -> int:
    """Bytes of RAM."""
    return _from_system("MemTotal", "total")


def available_memory() -> int:
    """Bytes that may be taken without pushing others out."""
    return _from_system("MemAvailable", "available")


def _from_system(name: str, name_elsewhere: str) -> int:
    with suppress(OSError, LookupError, ValueError):  # Linux says it itself; psutil costs 50 ms to import
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        return 1024 * int(text.split(f"{name}:")[1].split()[0])
    import psutil

    return int(getattr(psutil.virtual_memory(), name_elsewhere))
