"""What this machine offers a model: processor, memory, disk, and the limits set on this process."""

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen35.cores import num_cores
from qwen35.memory import available_memory, memory_limit

# Instruction sets that matter for matrix products; the rest of a processor's long list does not.
_INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    system: str
    processor: str
    instruction_sets: tuple[str, ...]
    num_cores: int  # that this process may run on
    cpu_limit: float | None  # cores' worth of time that the container may use
    memory_total: int  # bytes
    memory_available: int
    memory_limit: int | None  # of the container

    @classmethod
    def inspect(cls) -> "Machine":
        import psutil

        memory = psutil.virtual_memory()
        info = _cpu_info()
        flags = (info.get("flags") or info.get("Features") or "").split()
        return cls(
            system=f"{platform.system()} {platform.release()} ({platform.machine()})",
            processor=info.get("model name") or platform.processor() or "unknown",
            instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
            num_cores=num_cores(),
            cpu_limit=_cpu_limit(),
            memory_total=memory.total,
            memory_available=available_memory(),
            memory_limit=memory_limit(),
        )


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    while True:
        try:
            return shutil.disk_usage(folder).free
        except OSError:  # not there yet, or not ours to look into
            if folder == folder.parent:
                raise
            folder = folder.parent


def _cpu_info() -> dict[str, str]:
    """The first processor's entries; empty where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_limit() -> float | None:
    limits = []
    for text in _cgroup_values("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota != "max":
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _cgroup_values(name: str) -> Iterator[str]:
    """The setting in this process's control group (version 2) and all groups around it."""
    group = _CGROUPS / _own_cgroup().lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(_CGROUPS):
            try:
                yield (folder / name).read_text(encoding="utf-8").strip()
            except OSError:
                continue


def _own_cgroup() -> str:
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    except OSError:
        return "/"
