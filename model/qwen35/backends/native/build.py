"""Hatchling's build hook: compile the native library on installation, or say why it is left out.

An installation never fails for want of a compiler: without the library the program runs on torch, and
`qwen doctor` says so. Loaded by path, before the package can be imported.
"""

import runpy
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BuildHookInterface:
        """What is used of hatchling's; the package itself is there during an installation only."""

        root: str
        app: Any
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent


class NativeBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = runpy.run_path(str(HERE / "compiler.py"))
        library = HERE / compiler["LIBRARY_NAME"]
        library.unlink(missing_ok=True)  # never ship what an earlier build left
        try:
            compiler["compile_library"](library)
        except compiler["CompilerError"] as error:
            self.app.display_warning(f"The native CPU library is left out: {error}.")
            return
        # No CPython symbol is used: one wheel serves every Python version of this platform.
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(str(library.relative_to(self.root)))
