"""Kernels for a processor that is not this one: cross-compiled, emulated, held to the scalar ones."""

import shutil
import subprocess
from pathlib import Path

import pytest

from qwen35.backends.native.compiler import FLAGS, ISA_FLAGS, SOURCES

TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64")


@pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"{' and '.join(TOOLS)} are not on this platform"
)
def test_neon_kernels_are_the_scalar_ones_bit_for_bit(tmp_path: Path) -> None:
    """Debian: apt install g++-aarch64-linux-gnu qemu-user."""
    kernels = ("kernels_scalar", "kernels_neon", "kernels_avx2", "kernels_avx512", "dispatch")
    sources = [SOURCES / f"{name}.cpp" for name in kernels]
    objects = []
    for source in (*sources, Path(__file__).with_name("compare_kernels.cpp")):
        objects.append(tmp_path / f"{source.stem}.o")
        flags = [*FLAGS, *ISA_FLAGS["aarch64"].get(source.name, [])]
        subprocess.run(
            [TOOLS[0], *flags, f"-I{SOURCES}", "-c", str(source), "-o", str(objects[-1])], check=True
        )
    program = tmp_path / "compare_kernels"
    subprocess.run([TOOLS[0], "-static", *map(str, objects), "-o", str(program)], check=True)
    done = subprocess.run([TOOLS[1], "-cpu", "max", str(program), "neon"], capture_output=True, text=True)
    assert done.stdout == "neon: 0 kernels differ\n"
