"""What tells that a local file has changed."""

from pathlib import Path

from qwen35.errors import CheckpointError


def file_versions(paths: set[Path]) -> object:
    """Names, sizes and times of files, as JSON can hold them. Raises CheckpointError."""
    try:
        return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror}).") from None
