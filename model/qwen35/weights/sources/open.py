"""A model's source is recognised by itself: a folder of safetensors, a GGUF file, a folder with one."""

from pathlib import Path

from qwen35.errors import CheckpointError
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE, read_tensors
from qwen35.weights.manifest import is_packed
from qwen35.weights.source import Files, Source
from qwen35.weights.sources.gguf import find_in_folder, open_gguf
from qwen35.weights.sources.gguf_file import is_gguf
from qwen35.weights.sources.safetensors import source_of
from qwen35.weights.sources.versions import file_versions


def open_source(path: Path, mmproj: Path | None = None) -> Source:
    """Read headers and config alone. Raises CheckpointError for what is not whole, not known, or packed.

    `mmproj`: of a GGUF file, what holds its vision part where that does not lie beside it under such a name.
    """
    path = path.expanduser()
    if path.is_file() and (path.suffix == ".gguf" or is_gguf(path)):
        return open_gguf(path, mmproj)
    if path.is_dir():
        if is_packed(path):
            raise CheckpointError(
                f"{path}: is packed already. Give the folder that it was packed from.", path=str(path)
            )
        if not (path / SINGLE_FILE).exists() and not (path / INDEX).exists() and any(path.glob("*.gguf")):
            return open_gguf(find_in_folder(path))
    return source_of(files_of(path))


def files_of(folder: Path) -> Files:
    """A folder in Hugging Face layout. Raises CheckpointError."""
    tensors = read_tensors(folder)
    return Files(
        path=folder,
        tensors=tensors,
        small=lambda name: read_small(folder / name),
        version=lambda: file_versions({info.path for info in tensors.values()}),
    )


def read_small(path: Path) -> bytes | None:
    """None where there is no such file. Raises CheckpointError."""
    try:
        return path.read_bytes() if path.exists() else None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None
