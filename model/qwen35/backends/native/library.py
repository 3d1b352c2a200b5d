"""The native library as Python sees it: where it is, and the structs and functions of src/abi.h."""

import ctypes
import os
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

from qwen35.backends.native.compiler import (
    LIBRARY_NAME,
    CompilerError,
    check_compiler,
    compile_library,
    source_hash,
)
from qwen35.errors import DoesNotFit

FORMATS = {"f32": 0, "q4": 1, "q8": 2}


class Matrix(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("format", c_int32),
        ("n", c_int32),
        ("k", c_int32),
        ("reserved", c_int32),
    )

    @classmethod
    def of(cls, address: int | None, format_name: str, n: int, k: int) -> "Matrix":
        return cls(address, FORMATS[format_name], n, k, 0)


class Batch(Structure):
    _fields_ = (
        ("num_rows", c_int32),
        ("num_seqs", c_int32),
        ("starts", c_void_p),
        ("past", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
    )


class After(Structure):
    _fields_ = (("norm", c_void_p), ("router", Matrix), ("top_k", c_int32), ("reserved", c_int32))


class Linear(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("num_k_heads", c_int32),
        ("num_v_heads", c_int32),
        ("k_dim", c_int32),
        ("v_dim", c_int32),
        ("conv_width", c_int32),
        ("eps", c_float),
        ("reserved", c_int32),
        ("input_norm", c_void_p),
        ("in_qkv", Matrix),
        ("in_z", Matrix),
        ("in_b", Matrix),
        ("in_a", Matrix),
        ("out", Matrix),
        ("conv", c_void_p),
        ("neg_a", c_void_p),
        ("dt_bias", c_void_p),
        ("norm", c_void_p),
        ("after", After),
    )


class Attention(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rotary_dim", c_int32),
        ("eps", c_float),
        ("input_norm", c_void_p),
        ("q", Matrix),
        ("k", Matrix),
        ("v", Matrix),
        ("out", Matrix),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("after", After),
    )


class Mlp(Structure):
    _fields_ = (("gate", Matrix), ("up", Matrix), ("down", Matrix))


class Moe(Structure):
    _fields_ = (
        ("shared", Mlp),
        ("shared_gate", Matrix),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("num_experts", c_int32),
        ("top_k", c_int32),
    )


class VisionBlock(Structure):
    _fields_ = (
        ("norm1_w", c_void_p),
        ("norm1_b", c_void_p),
        ("norm2_w", c_void_p),
        ("norm2_b", c_void_p),
        ("qkv", Matrix),
        ("proj", Matrix),
        ("fc1", Matrix),
        ("fc2", Matrix),
        ("qkv_bias", c_void_p),
        ("proj_bias", c_void_p),
        ("fc1_bias", c_void_p),
        ("fc2_bias", c_void_p),
    )


class Vision(Structure):
    _fields_ = (
        ("depth", c_int32),
        ("hidden", c_int32),
        ("num_heads", c_int32),
        ("merge_rows", c_int32),
        ("eps", c_float),
        ("reserved", c_int32),
        ("patch_embed", Matrix),
        ("patch_bias", c_void_p),
        ("blocks", POINTER(VisionBlock)),
        ("merger_norm_w", c_void_p),
        ("merger_norm_b", c_void_p),
        ("merger_fc1", Matrix),
        ("merger_fc2", Matrix),
        ("merger_fc1_bias", c_void_p),
        ("merger_fc2_bias", c_void_p),
    )


class Check(Structure):
    _fields_ = (("begin", c_int64), ("end", c_int64), ("checksum", c_uint64))


class Read(Structure):
    FAILED = 4  # of `state`

    _fields_ = (
        ("fd", c_int32),
        ("is_cached", c_int32),
        ("offset", c_int64),
        ("num_bytes", c_int64),
        ("memory", c_void_p),
        ("checks", c_void_p),
        ("num_checks", c_int32),
        ("state", c_int32),
    )


# Arguments after the context, or after the readers. Arrays travel as addresses, structs as pointers.
_FUNCTIONS: dict[str, Sequence[type]] = {
    "qw_embed": (POINTER(Matrix), c_void_p, c_int32, c_void_p),
    "qw_linear": (POINTER(Linear), POINTER(Batch), c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "qw_attention": (POINTER(Attention), POINTER(Batch), c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "qw_guess": (POINTER(After), c_float, c_int32, c_int32, c_void_p, c_void_p),
    "qw_mlp": (POINTER(Mlp), c_int32, c_void_p, c_void_p),
    "qw_moe": (POINTER(Moe), c_int32, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "qw_experts": (
        POINTER(Moe),
        c_int32,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
    ),
    "qw_sum_experts": (POINTER(Moe), c_int32, c_void_p, c_void_p, c_void_p, c_void_p),
    "qw_head": (c_void_p, c_float, POINTER(Matrix), c_void_p, c_void_p, c_int32, c_void_p),
    "qw_vision": (
        POINTER(Vision),
        c_void_p,
        c_int32,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int32,
        c_void_p,
    ),
    "qw_quantise": (c_void_p, c_int32, c_int64, c_int64, c_int32, c_void_p),
    "qw_matmul": (POINTER(Matrix), c_void_p, c_int32, c_void_p),
    "qw_readers_submit": (c_void_p, c_int32, c_int32),
    "qw_readers_hurry": (c_void_p,),
    "qw_readers_cancel": (c_void_p,),
    "qw_readers_wait": (c_void_p, c_int32, c_int32),
}


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library and the file it came from."""

    functions: ctypes.CDLL
    path: Path


class Context:
    """Threads, kernels and scratch memory of one user of the library; one call at a time.

    `isa` forces scalar, avx2, avx512 or neon; "" takes the best. Raises DoesNotFit where the processor
    cannot run the one that was forced.
    """

    def __init__(self, library: Library, num_threads: int, isa: str = "") -> None:
        self._functions = library.functions
        self.num_threads = num_threads
        self._handle = self._functions.qw_create(num_threads, isa.encode())
        if not self._handle:
            raise DoesNotFit(f"QWEN_CPU={isa}: this processor or build cannot run these kernels. Unset it.")
        self.isa: str = self._functions.qw_isa(self._handle).decode()

    def call(self, name: str, *arguments: object) -> int:
        """Call one of _FUNCTIONS, and return what it returns. Raises DoesNotFit where memory ran out."""
        code: int = getattr(self._functions, name)(self._handle, *arguments)
        if code == 1:
            raise DoesNotFit(
                "Not enough memory for this model and prompt. Use a smaller model, smaller pictures "
                "(--image-tokens) or a shorter prompt, or close other programs."
            )
        return code

    def close(self) -> None:
        if self._handle:
            self._functions.qw_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def load(
    cache: Path | None = None, on_compile: Callable[[], object] | None = None
) -> tuple[Library | None, str]:
    """The native library, or None and the reason, for `qwen doctor`.

    It lies beside this file since installation, or in the folder `cache` since a run without it. Where it is
    nowhere, or was built from other sources, it is compiled into `cache`, which takes long: `on_compile`
    hears of it before. Without `on_compile` nothing is compiled.
    """
    installed = Path(__file__).with_name(LIBRARY_NAME)
    wanted = source_hash()
    reason = "not built on installation"
    if installed.exists():
        library, reason = _open(installed, wanted)
        if library:
            return library, ""
    if cache is None:
        return None, reason
    compiled = cache / "native" / wanted / LIBRARY_NAME
    if not compiled.exists():
        if on_compile is None:
            return None, f"{reason}; the first question to a packed model compiles them"
        try:
            check_compiler()
            on_compile()
            compile_library(compiled)
        except CompilerError as error:
            return None, f"{reason}; {error}"
    return _open(compiled, wanted)


def forced_isa() -> str:
    """What `QWEN_CPU` asks for: "" for the best."""
    return os.environ.get("QWEN_CPU", "")


def _open(path: Path, wanted: str) -> tuple[Library | None, str]:
    try:
        functions = ctypes.CDLL(str(path))
        functions.qw_source_hash.restype = c_char_p
        found = functions.qw_source_hash().decode()
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded ({error})"
    if found != wanted:
        return None, f"{path} was built from other sources"
    functions.qw_create.argtypes = (c_int32, c_char_p)
    functions.qw_create.restype = c_void_p
    functions.qw_destroy.argtypes = (c_void_p,)
    functions.qw_destroy.restype = None
    functions.qw_isa.argtypes = (c_void_p,)
    functions.qw_isa.restype = c_char_p
    functions.qw_readers_create.argtypes = (c_int32, c_int32)
    functions.qw_readers_create.restype = c_void_p
    functions.qw_readers_destroy.argtypes = (c_void_p,)
    functions.qw_readers_destroy.restype = None
    for name, arguments in _FUNCTIONS.items():
        function = getattr(functions, name)
        function.argtypes = (c_void_p, *arguments)
        function.restype = c_int32
    return Library(functions, path), ""
