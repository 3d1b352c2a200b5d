"""Bytes of a file into memory that the caller has: read, not mapped, and never short."""

from pathlib import Path

from qwen35.errors import CheckpointError


def read_into(path: Path, offset: int, memory: memoryview) -> None:
    """Fill `memory` (bytes, contiguous) from `offset` of the file. Raises CheckpointError that names it.

    Mapped pages would stay in memory beside the copy that is made of them.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while len(memory):
                count = file.readinto(memory)  # at most 2 GiB at a time
                if not count:
                    raise CheckpointError(f"{path}: became shorter while it was read.", path=str(path))
                memory = memory[count:]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None
