"""Compiles the native library from the sources beside this file. Used on installation and at run time.

No flag names the processor it runs on: a built library travels. Files with kernels for an instruction
set get the flags for it, and the library asks the processor before it calls them.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARY_NAME = "_native.so"

# -ffp-contract=off: all instruction sets round alike only if none fuses what another does not.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fvisibility-inlines-hidden"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"]
ISA_FLAGS = {
    "x86_64": {"kernels_avx2.cpp": _AVX2, "kernels_avx512.cpp": _AVX512},
    "aarch64": {"kernels_neon.cpp": ["-march=armv8.2-a+dotprod"]},
}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class CompilerError(Exception):
    """No compiler, or one that failed; the message says which, on one line."""


def source_hash() -> str:
    """Changes with the sources and with how they are compiled."""
    digest = hashlib.sha256(repr((FLAGS, ISA_FLAGS, platform.machine())).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def check_compiler() -> None:
    """Raises CompilerError where there is none."""
    _find_compiler()


def compile_library(target: Path) -> None:
    """Compile into the file `target`, which appears whole or not at all. Raises CompilerError."""
    compiler = _find_compiler()
    isa_flags = ISA_FLAGS.get(_machine(), {})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".native-") as name:
            folder = Path(name)
            objects: list[Path] = []
            # Files with flags come last: of an inline function that several files hold the linker takes
            # the first, which must be one that runs everywhere.
            for source in sorted(SOURCES.glob("*.cpp"), key=lambda path: (path.name in isa_flags, path.name)):
                objects.append(folder / f"{source.stem}.o")
                flags = [*FLAGS, *isa_flags.get(source.name, []), f'-DQWEN_SOURCE_HASH="{source_hash()}"']
                _run([*compiler, *flags, "-c", str(source), "-o", str(objects[-1])])
            built = folder / target.name
            _run([*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(built)])
            built.replace(target)
    except OSError as error:
        raise CompilerError(f"{target.parent} cannot be written: {error.strerror}") from None


def _machine() -> str:
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def _find_compiler() -> list[str]:
    """$CXX where it is set, else the first of the usual ones that is there."""
    if os.name == "nt":
        raise CompilerError("not supported on Windows yet")
    if wanted := os.environ.get("CXX"):
        return shlex.split(wanted)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise CompilerError("no C++ compiler found (looked for c++, g++, clang++)")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise CompilerError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise CompilerError(f"{command[0]} failed: {first.strip()}")
