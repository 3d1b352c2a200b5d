"""Finding and making the library: what happens where there is no compiler, or one that fails."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from qwen35.backends.native import compiler
from qwen35.backends.native import library as module
from qwen35.backends.native.library import Context, Library
from qwen35.backends.native.places import address
from qwen35.errors import DoesNotFit


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY_NAME", "_no_such_library.so")


@pytest.mark.usefixtures("not_installed")
def test_without_a_library_and_a_cache_the_reason_is_told() -> None:
    assert module.load() == (None, "not built on installation")


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize(
    ("command", "reason"),
    [("/no/such/compiler", "/no/such/compiler cannot be run"), ("false", "false failed: no message")],
)
def test_without_a_working_compiler_the_reason_is_told_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", command)
    found, why = module.load(tmp_path, lambda: None)
    assert found is None
    assert why.startswith(f"not built on installation; {reason}")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.usefixtures("not_installed")
def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler found" in module.load(tmp_path, lambda: None)[1]


@pytest.mark.usefixtures("not_installed")
def test_it_is_compiled_once_and_said_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "compile_library", lambda target: said.append("compiling"))
    assert "the first question" in module.load(tmp_path)[1]
    assert said == []
    module.load(tmp_path, lambda: said.append("wait"))
    assert said == (["wait", "compiling"] if any(map(shutil.which, ("c++", "g++", "clang++"))) else [])


def test_a_library_of_other_sources_is_not_used(library: Library) -> None:
    found, why = module._open(library.path, "0123456789abcdef")
    assert found is None
    assert why == f"{library.path} was built from other sources"


def test_a_broken_library_is_not_used(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF, but no more")
    found, why = module._open(broken, compiler.source_hash())
    assert found is None
    assert "cannot be loaded" in why


def test_kernels_that_cannot_run_are_an_error_that_names_the_variable(library: Library) -> None:
    with pytest.raises(DoesNotFit, match="QWEN_CPU=abacus"):
        Context(library, 1, "abacus")


@pytest.mark.parametrize("of", [(5, 4), (0, 4)])
@pytest.mark.parametrize("is_writable", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.uintp])
def test_address_is_that_of_the_first_element(of: tuple[int, int], is_writable: bool, dtype: type) -> None:
    array = np.zeros(of, dtype)
    array.flags.writeable = is_writable
    for part in (array, array[1:], array[:, 1:], array[::-1].T):
        assert address(part) == part.__array_interface__["data"][0]
